"""``star-edge compress ensemble`` through the real entry point: what it makes, that the rest of the pipeline takes it, what it refuses."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from runtime.features import FeatureRecipe  # noqa: E402
from star_edge.compression.masks import maskable  # noqa: E402
from star_edge.models.registry import build_model, padded_config  # noqa: E402
from star_edge.skeletons import NITE15  # noqa: E402
from star_edge.training.checkpoint import (  # noqa: E402
    ModelEntry,
    build_from_checkpoint,
    load_checkpoint,
    save_checkpoint,
)

Command = Callable[..., tuple[int, str, str]]
Interrupt = Callable[[int], contextlib.AbstractContextManager[None]]


@pytest.fixture
def padded_start(start: Path) -> Path:
    """Checkpoint of a small CTR-GCN that names the same clips."""
    torch.manual_seed(0)
    config = padded_config("ctr-gcn", NITE15, 4, 5, frames=4, persons=1, dim=16, growth=(1, 2))
    entry, state = ModelEntry("ctr-gcn", config), build_model("ctr-gcn", config).state_dict()
    features = FeatureRecipe(channels=4)
    saved = msgspec.structs.replace(load_checkpoint(start), model=entry, state_dict=state, features=features)
    save_checkpoint(saved, start.with_name("padded.pt"))
    return start.with_name("padded.pt")


def test_experts_are_as_sparse_as_was_asked_and_all_of_it_is_reported(star_edge: Command, start: Path, tmp_path: Path) -> None:
    code, out, err = star_edge(
        "compress", "ensemble", start, "--finetune", 3, "--warmup", 1, "--ramp", 1, "--distill", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    dense, saved = load_checkpoint(start), load_checkpoint(tmp_path / "runs/ensemble/ckpt.pt")
    assert saved.model.config.experts == 4
    assert saved.recipe["teacher"] == str(start)
    assert saved.state_dict.keys() == {f"experts.{number}.{name}" for number in range(4) for name in dense.state_dict}

    whole = sum(module.weight.numel() for module in maskable(build_from_checkpoint(dense)).values())
    left = [0, 0, 0, 0]
    for path, module in maskable(build_from_checkpoint(saved)).items():
        left[int(path.split(".")[1])] += int(module.weight.count_nonzero())
    assert [expert["masked"] for expert in report["experts"]] == left
    assert [expert["level"] for expert in report["experts"]] == [0.6, 0.8, 0.95, 0.99]
    assert [expert["sparsity"] for expert in report["experts"]] == pytest.approx([0.6, 0.8, 0.95, 0.99], abs=2e-3)
    assert report["of_dense"] == pytest.approx(sum(left) / whole) == pytest.approx(0.66, abs=5e-3)
    before, after = report["before"], report["after"]
    kept = [before["parameters"] - whole + masked for masked in left]
    assert [expert["parameters"] for expert in report["experts"]] == kept
    assert report["of_model"] == pytest.approx(sum(kept) / before["parameters"])
    assert (after["parameters"], after["macs"]) == (4 * before["parameters"], 4 * before["macs"])
    assert report["stored"]["dense"] == 4 * after["parameters"]
    assert report["stored"]["bitmap"] < report["stored"]["csr"] < report["stored"]["dense"]
    tops = [before["top1"], after["top1"], *(expert["top1"] for expert in report["experts"])]
    assert all(0 <= top1 <= 1 for top1 in tops)
    assert after["top1"] == pytest.approx(saved.metrics["validation_accuracy"])


def test_the_table_says_that_masks_save_no_products(star_edge: Command, start: Path) -> None:
    code, out, err = star_edge("compress", "ensemble", start, "--levels", "0.5, 0.9", "--finetune", 1)
    assert code == 0, err
    assert "as many dense multiplications as 2 dense models" in out
    assert "expert 1" in out
    assert star_edge("evaluate", "runs/ensemble/ckpt.pt")[0] == 0


@pytest.mark.parametrize("family", ["start", "padded_start"])
def test_from_checkpoint_to_verified_int8(star_edge: Command, family: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    pytest.importorskip("modelopt.onnx.quantization", reason="modelopt.onnx is not installed")
    start = request.getfixturevalue(family)
    for command in (
        ("compress", "ensemble", start, "--levels", "0.5,0.8", "--finetune", 1),
        ("export", "--fp16", "runs/ensemble/ckpt.pt", "--out", "m.star"),
        ("calibrate", "m.star", "--samples", 6),
    ):
        code, _, err = star_edge(*command)
        assert code == 0, err
    model = json.loads((start.parent / "m.star/manifest.json").read_text())["model"]
    assert model["config"]["experts"] == 2
    code, out, err = star_edge("verify", "m.star", "--json")
    assert code in (0, 3), err  # the gate of a model of noise is not the point
    results = {(row["engine"], row["precision"]): row for row in json.loads(out)["results"]}
    assert results.keys() == {
        ("onnxruntime", "fp32"),
        ("onnxruntime", "fp16"),
        ("torch", "fp16"),
        ("onnxruntime", "int8"),
    }
    assert results["onnxruntime", "fp32"]["max_abs_err"] < 1e-4
    code, out, err = star_edge("verify", "m.star", "--layers", "--precision", "fp32", "--json")
    assert code == 0, err
    modules = [layer["module"] for layer in json.loads(out)["layers"]]
    assert modules[-1] == "mean"
    assert sum(module.startswith("experts.0.") for module in modules) == (len(modules) - 1 - ("padding" in modules)) / 2

    code, _, err = star_edge("run", "m.star", "noise.npz", "--engine", "native")
    assert code == 4
    reason = "runs no ensembles" if model["name"] == "star-64" else f"cannot run the model '{model['name']}'"
    assert reason in err
    assert "use the engine onnxruntime" in err


def test_a_bundle_of_one_model_says_nothing_of_experts(star_edge: Command, start: Path) -> None:
    assert star_edge("export", start, "--out", "one.star")[0] == 0
    assert "experts" not in json.loads((start.parent / "one.star/manifest.json").read_text())["model"]["config"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ((), "--finetune"),
        (("--finetune", 0), "--finetune"),
        (("--finetune", 1, "--levels", "0.5"), "two or more sparsities"),
        (("--finetune", 1, "--levels", "0.5,1"), "two or more sparsities"),
        (("--finetune", 1, "--levels", "0,0.5"), "two or more sparsities"),
        (("--finetune", 1, "--levels", "0.5,nan"), "two or more sparsities"),
        (("--finetune", 1, "--levels", "0.5,"), "no list of numbers"),
        (("--finetune", 2, "--warmup", 1, "--ramp", 2), "at the full sparsity"),
        (("--finetune", 1, "--data", "nowhere.npz"), "nowhere.npz"),
        (("--finetune", 1, "--out", "."), "would be overwritten"),
    ],
)
def test_wrong_ways_are_refused(star_edge: Command, start: Path, options: tuple[object, ...], part: str) -> None:
    start = start.rename(start.with_name("ckpt.pt"))
    code, _, err = star_edge("compress", "ensemble", start, *options, "--force")
    assert (code, part in err) == (2, True), err
    assert not Path("runs").exists()


def test_what_is_no_dense_model_is_refused(star_edge: Command, start: Path) -> None:
    ensemble = ("compress", "ensemble", start, "--levels", "0.5,0.8", "--finetune", 1)
    assert star_edge(*ensemble)[0] == 0
    code, _, err = star_edge(*ensemble)
    assert (code, "already there" in err) == (2, True)
    made = "runs/ensemble/ckpt.pt"
    for command in (
        ("compress", "ensemble", made, "--finetune", 1),
        ("compress", "sparse", made, "--sparsity", 0.5),
        ("compress", "lowrank", made, "--rank", 3),
    ):
        code, _, err = star_edge(*command, "--out", "again")
        assert (code, "sparse ensemble already" in err) == (2, True), err
    code, _, err = star_edge("train", "--qat", made, "--out", "qat")
    assert (code, "an ensemble of 2" in err) == (2, True), err
    assert star_edge("compress", "lowrank", start, "--rank", 3)[0] == 0
    code, _, err = star_edge("compress", "ensemble", "runs/lowrank/ckpt.pt", "--finetune", 1, "--out", "again")
    assert (code, "no layers of low rank" in err) == (2, True)
    assert not Path("again").exists()


def test_a_checkpoint_of_more_experts_than_weights_is_not_built(star_edge: Command, start: Path) -> None:
    content = torch.load(start, weights_only=True)
    content["model"]["config"]["experts"] = 10**12
    torch.save(content, start)
    code, _, err = star_edge("export", start, "--out", "m.star")
    assert (code, "fewer weights than layers" in err) == (2, True)


def test_interrupted_training_goes_on_to_the_same_experts_and_no_others(
    star_edge: Command, start: Path, tmp_path: Path, interrupted_after: Interrupt
) -> None:
    command = ("compress", "ensemble", start, "--levels", "0.5,0.8", "--finetune", 3, "--warmup", 1)
    assert star_edge(*command, "--out", "whole")[0] == 0
    with interrupted_after(2):
        assert star_edge(*command, "--out", "parts")[0] == 130
    for other in (("--levels", "0.5,0.9"), ("--levels", "0.5,0.8,0.9"), ("--scope", "network"), ("--seed", 1)):
        code, _, err = star_edge(*command, *other, "--out", "parts", "--resume")
        assert (code, "used another" in err) == (4, True), err
    assert star_edge(*command, "--out", "parts", "--resume")[0] == 0
    for name, key in (("last.pt", "weights"), ("ckpt.pt", "state_dict")):
        one, two = (torch.load(tmp_path / folder / name, weights_only=True)[key] for folder in ("whole", "parts"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[weight], two[weight]) for weight in one)
