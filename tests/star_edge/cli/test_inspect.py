"""``star-edge inspect`` through the real entry point."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.bundle import Bundle
from star_edge.skeletons import NTU25

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "60"}


def inspect(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "star_edge", "inspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, check=False)


def test_the_only_bundle_here(tiny_bundle: Path) -> None:
    result = inspect(cwd=tiny_bundle.parent)
    assert result.returncode == 0, result.stderr
    for text in ("wave, kick, bow, clap", "nite15", "head.output", "model.fp32.onnx"):
        assert text in result.stdout
    last = result.stdout.splitlines()[-1]
    assert last.startswith("whole: 3 files")
    assert last.endswith("tiny.star")
    document = json.loads(inspect("--json", cwd=tiny_bundle.parent).stdout)
    assert document["manifest"]["bundle_id"] == Bundle.open(tiny_bundle).manifest.bundle_id


def test_what_native_runs_is_shown(star_bundle: Path) -> None:
    shown = inspect(star_bundle, cwd=star_bundle.parent).stdout
    assert "computed" in shown
    assert " in fp32" in shown


@pytest.mark.parametrize("target", ["models", "skeletons", "tiny.star/model.fp32.onnx"])
def test_every_kind_is_shown_and_has_a_document(tiny_bundle: Path, target: str) -> None:
    result = inspect(target, cwd=tiny_bundle.parent)
    assert result.returncode == 0, result.stderr
    assert "next: star-edge" in result.stdout.splitlines()[-1]
    assert json.loads(inspect(target, "--json", cwd=tiny_bundle.parent).stdout)["schema"] == "star-edge/inspect/1"


def test_an_engine_is_shown_alone_and_in_its_bundle(tiny_bundle: Path) -> None:
    (tiny_bundle / "engines").mkdir()
    (tiny_bundle / "engines" / "a.engine").write_bytes(b"ftrt" + bytes(20) + bytes([10, 3, 0, 30]))
    alone = inspect("tiny.star/engines/a.engine", cwd=tiny_bundle.parent)
    assert alone.returncode == 0, alone.stderr
    assert "TensorRT 10.3.0.30" in alone.stdout
    assert "another state" in alone.stdout
    assert "outdated" in inspect(cwd=tiny_bundle.parent).stdout


def test_names_are_not_cut_on_a_narrow_terminal(tiny_bundle: Path) -> None:
    assert NTU25.name in inspect("skeletons", cwd=tiny_bundle.parent).stdout
    assert "…" not in inspect("tiny.star", cwd=tiny_bundle.parent).stdout


def test_damage_and_absence_have_their_exit_codes(tiny_bundle: Path) -> None:
    assert inspect("absent.star", cwd=tiny_bundle.parent).returncode == 2
    (tiny_bundle / "weights.safetensors").unlink()
    result = inspect(cwd=tiny_bundle.parent)
    assert result.returncode == 4
    assert "weights.safetensors" in result.stderr
    assert "Traceback" not in result.stderr
