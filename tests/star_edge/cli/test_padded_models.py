"""A padded model through every verb, from clips to verified INT8, as a user would type it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("modelopt.onnx.quantization", reason="modelopt.onnx is not installed")

from padded_checks import config  # noqa: E402

from runtime.features import FeatureRecipe  # noqa: E402
from star_edge import cli  # noqa: E402
from star_edge.models.registry import build_model  # noqa: E402
from star_edge.skeletons import NITE15  # noqa: E402
from star_edge.training.checkpoint import Checkpoint, DataEntry, ModelEntry, load_checkpoint, save_checkpoint  # noqa: E402


def run(*arguments: object) -> int:
    sys.argv = ["star-edge", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two-person noise and a bundle of a CTR-GCN that was trained on it for an epoch, calibrated."""
    folder = tmp_path_factory.mktemp("padded")
    rng = np.random.default_rng(0)
    np.savez(folder / "noise.npz", xyz=rng.normal(0, 0.3, (30 * 8, 15, 3)).astype(np.float32), lengths=np.full(30, 8),
             labels=np.arange(30) % 5, subjects=np.arange(30) // 5 + 1, edges=np.array(NITE15.bones), persons=np.full(30, 2),
             class_names=np.array(list("abcde")))  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [])
        assert run("train", "--data", "noise.npz", "--model", "ctr-gcn", "--frames", 4, "--epochs", 1, "-q") == 0
        assert run("export", "runs/train/ckpt.pt", "--out", "m.star", "-q") == 0
        assert run("calibrate", "m.star", "--samples", 6, "-q") == 0
    return folder


def test_the_checkpoint_says_what_it_is(work: Path) -> None:
    saved = load_checkpoint(work / "runs/train/ckpt.pt")
    config = saved.model.config
    assert (saved.model.name, config.frames, config.persons, config.channels, saved.features.channels) == (
        "ctr-gcn",
        4,
        2,
        4,
        4,
    )


@pytest.fixture
def there(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(work)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "argv", [])
    return work


def test_verify_takes_the_engine_that_has_kernels_for_it(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", "m.star", "--json") in (0, 3)  # the gate of a model of noise is not the point
    report = json.loads(capsys.readouterr().out)
    assert {(row["engine"], row["precision"]) for row in report["results"]} == {
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
    }
    assert report["results"][0]["max_abs_err"] < 1e-4


def test_run_recognises_and_native_says_why_not(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "m.star", "noise.npz", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["clips"]) == 30
    assert run("run", "m.star", "noise.npz", "--engine", "native") == 4
    assert "cannot run the model 'ctr-gcn'" in capsys.readouterr().err


@pytest.mark.slow
def test_bench_counts_the_padding(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("bench", "m.star", "--engine", "torch", "--engine", "onnxruntime", "--workload", "1x8,1x300")
    assert run(*command, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["workloads"][0]["macs"] == report["workloads"][1]["macs"] > 0
    assert all(row["correct"] for row in report["results"])


def test_layers_are_compared_by_their_modules(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", "m.star", "--layers", "--precision", "fp32", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["first_bad"] is None
    assert len(report["layers"]) > 30
    assert report["layers"][-1]["module"] == "output"


@pytest.fixture(scope="module", params=["shift-gcn", "dg-stgcn", pytest.param("step-catformer", marks=pytest.mark.slow)])
def other(request: pytest.FixtureRequest, work: Path) -> str:
    """A bundle, fp32, fp16 and int8, of a narrow model before any training, as if it was trained on the noise."""
    name, shape = request.param, config(NITE15, frames=4, classes=5)
    torch.manual_seed(0)
    state, data = build_model(name, shape).state_dict(), DataEntry(str(work / "noise.npz"), "noise", "xsub")
    saved = Checkpoint(ModelEntry(name, shape), state, NITE15, FeatureRecipe(channels=4), tuple("abcde"), data)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setattr(sys, "argv", [])
        save_checkpoint(saved, work / f"{name}.pt")
        assert run("export", "--fp16", f"{name}.pt", "-q") == 0
        assert run("calibrate", f"{name}.star", "--samples", 6, "-q") == 0
    return f"{name}.star"


def test_other_models_go_the_same_way(there: Path, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", other, "--json") in (0, 3)  # the gate of a model of noise is not the point
    errors = {(row["engine"], row["precision"]): row["relative_err"] for row in json.loads(capsys.readouterr().out)["results"]}
    assert errors["onnxruntime", "fp32"] < 1e-4
    assert errors["torch", "fp16"] < 0.05
    assert errors["onnxruntime", "int8"] < 0.5
    assert run("run", other, "noise.npz", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["clips"]) == 30


@pytest.mark.slow
def test_other_models_are_timed_and_built(there: Path, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("bench", other, "--engine", "torch", "--engine", "onnxruntime", "--workload", "1x32", "--repeats", 2)
    assert run(*command, "--rounds", 1, "--json") in (0, 3)  # INT8 of a model before any training may have no speed
    results = json.loads(capsys.readouterr().out)["results"]
    assert all(row["correct"] for row in results if row["precision"] != "int8")
    assert {row["precision"] for row in results} == {"fp32", "fp16", "int8"}
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: make tensorrt-rtx")
    assert run("build", other, "--target", "tensorrt-rtx") == 0


@pytest.mark.slow
def test_tensorrt_rtx_builds_every_precision(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: make tensorrt-rtx")
    assert run("build", "m.star", "--target", "tensorrt-rtx") == 0


def test_options_of_the_other_kind_are_refused(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, part in (
        (("--model", "ctr-gcn", "--attention", "full"), "--attention is STAR's"),
        (("--model", "star-64", "--frames", 8), "--frames has no effect on star-64"),
        (("--model", "star-64", "--persons", 1), "--persons has no effect on star-64"),
        (
            (
                "--model",
                "ctr-gnc",
            ),
            "unknown model 'ctr-gnc'",
        ),
        (("--model", "step-catformer", "--resume"), "star-edge train"),
    ):
        assert run("train", "--data", "noise.npz", "--out", "other", *arguments) == 2
        assert part in capsys.readouterr().err
    (there / "nine.json").write_text('{"features": {"channels": 9}}')
    assert run("train", "--data", "noise.npz", "--out", "other", "--model", "ctr-gcn", "--recipe", "nine.json") == 2
    assert "has to tell persons apart" in capsys.readouterr().err
    assert run("train", "--qat", "runs/train/ckpt.pt", "--out", "other") == 2
    assert "only STAR is trained with its INT8 faked" in capsys.readouterr().err
