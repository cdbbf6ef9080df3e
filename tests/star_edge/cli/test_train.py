"""``star-edge train`` through the real entry point, above all ``--qat``: what it makes, what it says, what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from star_edge.training.checkpoint import load_checkpoint

Command = Callable[..., tuple[int, str, str]]


def test_from_a_checkpoint_to_an_int8_bundle(star_edge: Command, start: Path) -> None:
    pytest.importorskip("modelopt.torch.quantization", reason="modelopt.torch is not installed: pip install 'star-edge[qat]'")
    train = ("train", "--qat", start, "--epochs", 1)
    code, out, err = star_edge(*train, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["checkpoint"] == "runs/qat/ckpt.pt"
    assert report["epochs"] == report["best_epoch"] == 1
    assert star_edge(*train)[0] == 2  # a run is there
    assert star_edge(*train, "--resume")[0] == 0
    code, out, _ = star_edge("inspect", "runs/qat/ckpt.pt")
    assert code == 0
    assert f"trained on from {start}" in out
    assert "14 ranges" in out
    assert star_edge("export", "runs/qat/ckpt.pt")[0] == 0
    code, out, err = star_edge("calibrate", "--samples", 4)
    assert code == 0, err
    assert "ranges by trained" in out
    assert "14 trained ranges" in star_edge("inspect")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing option '--data' (or '--qat')"),
        (["--qat", "absent.pt"], 2, "no such checkpoint"),
        (["--qat", "absent.pt", "--model", "star-128"], 2, "--model has no effect with --qat"),
        (["--qat", "absent.pt", "--fit", "train"], 2, "--fit has no effect with --qat"),
        (["--qat", "absent.pt", "--teacher", "t.pt"], 2, "--teacher has no effect with --qat"),
        (["--qat", "absent.pt", "--accumulate", "2"], 2, "--accumulate has no effect with --qat"),
        (["--data", "absent", "--teacher", "absent.pt"], 2, "absent"),
    ],
)
def test_wrong_arguments(star_edge: Command, arguments: list[str], code: int, message: str) -> None:
    found, out, err = star_edge("train", *arguments)
    assert (found, out) == (code, "")
    assert message in err


def test_a_student_is_taught_by_a_checkpoint(star_edge: Command, tiny_dataset: Path, tmp_path: Path) -> None:
    train = ("train", "--data", tiny_dataset, "--epochs", 1, "--threads", 1)
    code, _, err = star_edge(*train, "--model", "star-128", "--out", "large", "--accumulate", 2)
    assert code == 0, err
    code, out, err = star_edge(*train, "--teacher", "large/ckpt.pt", "--amp", "bf16", "--device", "cpu", "--out", "small")
    assert code == 0, err
    assert f"taught by {Path('large/ckpt.pt')}, on cpu" in out
    recipe = load_checkpoint(tmp_path / "small" / "ckpt.pt").recipe
    assert (recipe["teacher"], recipe["amp"]) == ("large/ckpt.pt", "bf16")
    code, _, err = star_edge(*train, "--out", "small", "--amp", "bf16", "--resume")
    assert code == 4
    assert "used another teacher" in err


def test_a_gpu_that_there_is_not(star_edge: Command, tiny_dataset: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, _, err = star_edge("train", "--data", tiny_dataset, "--device", "cuda")
    assert code == 4
    assert "no GPU for this process" in err
    assert "--device cpu" in err


@pytest.mark.parametrize(
    ("absent", "package"), [("modelopt", "nvidia-modelopt"), ("huggingface_hub", "huggingface-hub"), ("requests", "requests")]
)
def test_without_modelopt_it_says_how_to_install_it(
    star_edge: Command, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, absent: str, package: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("modelopt", absent)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    code, out, err = star_edge("train", "--qat", random_checkpoint)
    assert (code, out) == (4, "")
    assert f"needs the package '{package}'" in err
    assert "pip install 'star-edge[qat]'" in err
