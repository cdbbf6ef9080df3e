"""``star-edge doctor`` through the real entry point, also where packages are missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from star_edge.cli import VERBS

HEAVY = ("torch", "onnx", "onnxruntime", "modelopt", "nvidia_modelopt", "tensorboard", "tensorrt_rtx", "tensorrt_rtx_cu13")

# stands before the command line: modules are not found, as on a machine without them
WITHOUT = """
import importlib.abc, importlib.metadata, sys
gone = set({gone!r})
class Gone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in gone:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
import importlib.util
find, version = importlib.util.find_spec, importlib.metadata.version
importlib.util.find_spec = lambda name, *rest: None if name in gone else find(name, *rest)
def look_up(name):
    if name.replace("-", "_") in gone:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = look_up
sys.meta_path.insert(0, Gone())
sys.argv = ["star-edge", *sys.argv[1:]]
from star_edge.cli import main
main()
"""


def star_edge(*arguments: str, gone: tuple[str, ...] = (), cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = (
        [sys.executable, "-c", WITHOUT.format(gone=gone), *arguments]
        if gone
        else [sys.executable, "-m", "star_edge", *arguments]
    )
    environment = os.environ | {"COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False, timeout=60)


def test_everything_is_shown_and_the_exit_code_is_0() -> None:
    """Also on a machine with the base install only."""
    shown = star_edge("doctor", gone=HEAVY)
    assert shown.returncode == 0, shown.stderr
    for text in ("Python", "onnxruntime", "nvidia-modelopt", "g++", *VERBS):
        assert text in shown.stdout
    assert "next: pip install 'star-edge[" in shown.stdout.splitlines()[-1]


def test_document() -> None:
    shown = star_edge("doctor", "--json", gone=("lief",))
    assert shown.returncode == 0, shown.stderr
    document = json.loads(shown.stdout)
    assert document["schema"] == "star-edge/doctor/1"
    assert [verb["verb"] for verb in document["verbs"]] == list(VERBS)
    lacking = {verb["verb"]: verb["missing"] for verb in document["verbs"] if "lief" in verb["missing"]}
    assert {"calibrate", "demo"} <= set(lacking)
    assert not document["ready"]


def test_verbs_that_cannot_run_end_with_4() -> None:
    refused = star_edge("doctor", "calibrate", "data", "--json", gone=("lief", "onnx"))
    assert refused.returncode == 4
    assert "star-edge calibrate cannot run here" in refused.stderr
    assert "no onnx; no lief" in refused.stderr
    assert "next:     pip install 'star-edge[calibrate]'" in refused.stderr
    assert [verb["ready"] for verb in json.loads(refused.stdout)["verbs"]] == [False, True]
    assert star_edge("doctor", "data", "pack", gone=HEAVY).returncode == 0


def test_an_unknown_verb_is_a_wrong_argument() -> None:
    refused = star_edge("doctor", "exprot")
    assert refused.returncode == 2
    assert "exprot" in refused.stderr


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from star_edge.cli import cli\n"
        "cli.main(['doctor', '--json'], standalone_mode=False)\n"
        f"heavy = {set(HEAVY)} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "gone", "extra"),
    [
        (("evaluate", "absent.pt"), ("torch",), "train"),
        (("train", "--data", "absent", "--out", "run"), ("torch",), "train"),
        (("export", "absent.pt"), ("torch",), "export"),
        (("calibrate", "tiny.star"), ("onnx",), "calibrate"),
        (("run", "tiny.star", "--self-test", "--engine", "onnxruntime"), ("onnxruntime",), "onnx"),
    ],
)
def test_a_verb_says_what_it_lacks(tiny_bundle: Path, arguments: tuple[str, ...], gone: tuple[str, ...], extra: str) -> None:
    """In the words of the doctor, not with a traceback."""
    refused = star_edge(*arguments, gone=gone, cwd=tiny_bundle.parent)
    assert refused.returncode == 4, refused.stderr
    assert f"needs the package '{gone[0]}', which is not installed" in refused.stderr
    assert f"pip install 'star-edge[{extra}]'" in refused.stderr
    assert "Traceback" not in refused.stderr
