"""The command line as a whole, through the real entry point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from star_edge import __version__
from star_edge.cli import VERBS


def star_edge(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "star_edge", *arguments], capture_output=True, text=True, cwd=cwd, check=False, timeout=120
    )


def test_help_lists_every_verb_and_version_is_the_packages() -> None:
    listed = star_edge("--help")
    assert listed.returncode == 0
    for verb in VERBS:
        assert f"  {verb} " in listed.stdout
    assert star_edge("--version").stdout.strip().endswith(__version__)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_needs_no_heavy_import(verb: str) -> None:
    code = (
        "import sys; from star_edge.cli import cli\n"
        f"try: cli.main(['{verb}', '--help'], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'modelopt', 'tensorboard'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout or "Commands" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["exprot"], 2, "Did you mean 'export'"),
        (["verify"], 2, "no bundle here"),
        (["export", "absent.pt"], 2, "absent.pt"),
        (["train", "--data", "absent", "--out", "run"], 2, "absent"),
        (["train", "--data", "absent", "--recipe", "best", "--out", "run"], 2, "unknown recipe 'best'"),
        (["evaluate", "absent.pt"], 2, "no such checkpoint"),
        (["evaluate"], 2, "Missing argument"),
    ],
)
def test_a_wrong_command_says_what_to_do_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    done = star_edge(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_several_bundles_are_listed_not_guessed(tmp_path: Path) -> None:
    for name in ("a.star", "b.star"):
        (tmp_path / name).mkdir()
    done = star_edge("verify", cwd=tmp_path)
    assert done.returncode == 2
    assert "a.star, b.star" in done.stderr


def test_train_and_evaluate_on_generated_clips(tmp_path: Path) -> None:
    from star_edge.data.generator import generate

    generate(tmp_path / "clips", clips=30, seed=0, classes=2)
    trained = star_edge("train", "--data", "clips", "--epochs", "1", "--out", "run", "--threads", "1", "--json", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    report = json.loads(trained.stdout)
    assert report["schema"] == "star-edge/train/1"
    assert (tmp_path / report["checkpoint"]).is_file()
    again = star_edge("train", "--data", "clips", "--epochs", "1", "--out", "run", cwd=tmp_path)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    evaluated = star_edge("evaluate", report["checkpoint"], "--json", "--threads", "1", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    scores = json.loads(evaluated.stdout)
    assert scores["correct"] == sum(row["correct"] for row in scores["classes"])
    assert scores["clips"] == sum(row["clips"] for row in scores["classes"]) > 0
    next((tmp_path / "clips").glob("*.skeleton")).unlink()
    changed = star_edge("evaluate", report["checkpoint"], "--threads", "1", cwd=tmp_path)
    assert changed.returncode == 4
    assert "the data changed since" in changed.stderr
    assert f"star-edge evaluate {report['checkpoint']} --data" in changed.stderr
    meant = star_edge("evaluate", report["checkpoint"], "--data", "clips", "--threads", "1", cwd=tmp_path)
    assert meant.returncode == 0, meant.stderr
