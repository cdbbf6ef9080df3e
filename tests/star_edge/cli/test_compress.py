"""``star-edge compress`` through the real entry point: what it makes, that the rest of the pipeline takes it, what it refuses."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import GateError
from runtime.tolerances import TOLERANCES, relative_error
from star_edge.engines import load

torch = pytest.importorskip("torch", reason="torch is not installed")

from star_edge.training.checkpoint import load_checkpoint  # noqa: E402

Command = Callable[..., tuple[int, str, str]]
Interrupt = Callable[[int], contextlib.AbstractContextManager[None]]


def test_low_rank_from_checkpoint_to_engines(star_edge: Command, start: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    code, out, err = star_edge("compress", "lowrank", start, "--params", 0.6, "--finetune", 1, "--distill", "--json")
    assert code == 0, err
    report = json.loads(out)
    low = load_checkpoint(tmp_path / "runs/lowrank/ckpt.pt")
    assert low.model.config.ranks == {layer["path"]: layer["rank"] for layer in report["layers"]}
    counted = sum(tensor.numel() for name, tensor in low.state_dict.items() if "running" not in name and "tracked" not in name)
    assert counted == report["after"]["parameters"]
    assert 0.5 * report["before"]["parameters"] < counted <= 0.6 * report["before"]["parameters"]
    assert report["after"]["macs"] < report["before"]["macs"]
    assert report["after"]["bytes"] < report["before"]["bytes"]
    assert report["epochs"] == 1
    assert low.recipe["name"] == "fine-tuning"
    assert low.recipe["teacher"] == str(start)

    assert star_edge("evaluate", "runs/lowrank/ckpt.pt")[0] == 0
    code, _, err = star_edge("export", "--fp16", "runs/lowrank/ckpt.pt", "--out", "low.star")
    assert code == 0, err
    for engine in ("native", "onnxruntime"):
        code, out, err = star_edge("verify", "low.star", "--json", *(() if engine == "native" else ("--engine", engine)))
        assert code == 0, err
        assert {row["engine"] for row in json.loads(out)["results"]} == {engine, "torch"}


def test_low_rank_in_int8(star_edge: Command, start: Path) -> None:
    pytest.importorskip("modelopt.onnx.quantization", reason="modelopt.onnx is not installed")
    assert star_edge("compress", "lowrank", start, "--rank", 5)[0] == 0
    assert star_edge("export", "runs/lowrank/ckpt.pt", "--out", "low.star")[0] == 0
    code, out, err = star_edge("calibrate", "low.star", "--samples", 8, "--json")
    assert code == 0, err
    quantised = json.loads(out)["quantised"]
    assert {"head.hidden.first", "head.hidden.second", "layers.1.temporal.qkv.second"} <= set(quantised)
    assert "head.hidden" not in quantised

    clips = np.random.default_rng(1).normal(0, 0.3, (2, 20, 15, 3)).astype(np.float32)
    for precision in ("fp32", "int8"):
        native, other = (load("low.star", engine, precision, threads=1) for engine in ("native", "onnxruntime"))
        for clip in clips:
            # an activation half-way between two levels may be rounded either way
            assert relative_error(native.logits(clip), other.logits(clip)) <= (
                2e-2 if precision == "int8" else TOLERANCES["fp32"]
            )


@pytest.mark.parametrize("policy", [("--rank", 4), ("--energy", 0.9), ("--macs", 0.7)])
def test_every_policy_makes_the_model_smaller(star_edge: Command, start: Path, policy: tuple[str, float]) -> None:
    code, out, err = star_edge("compress", "lowrank", start, *policy, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["after"]["parameters"] < report["before"]["parameters"]
    if policy[0] == "--macs":
        assert report["after"]["macs"] <= 0.7 * report["before"]["macs"]
    if policy[0] == "--rank":
        assert {layer["rank"] for layer in report["layers"]} == {4}


def test_without_clips_the_matrices_are_approximated(star_edge: Command, random_checkpoint: Path, tmp_path: Path) -> None:
    code, out, err = star_edge("compress", "lowrank", random_checkpoint, "--params", 0.6, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert (report["before"]["top1"], report["cut_top1"], report["validation_clips"]) == (None, None, 0)
    code, _, err = star_edge("compress", "lowrank", random_checkpoint, "--rank", 3, "--finetune", 1, "--out", "other")
    assert code == 2
    assert "--data" in err


def test_a_full_rank_model_answers_as_before(star_edge: Command, start: Path, tmp_path: Path) -> None:
    from star_edge.compression.low_rank import decompose
    from star_edge.training.checkpoint import build_from_checkpoint

    model = build_from_checkpoint(load_checkpoint(start))
    low = decompose(model, {"layers.0.spatial.qkv": 16, "head.hidden": 24}).eval()
    rows, ends = torch.randn(9, 15, 9), torch.tensor([0, 4, 9], dtype=torch.int32)
    with torch.no_grad():
        torch.testing.assert_close(low(rows, ends), model(rows, ends), atol=1e-4, rtol=1e-4)


def test_wrong_ways_are_refused(star_edge: Command, start: Path) -> None:
    for arguments, part in (
        ((), "one of --rank"),
        (("--rank", 3, "--energy", 0.5), "one of --rank"),
        (("--rank", 3, "--lr", 0.1), "belong to --finetune"),
        (("--params", 0.01), "too small"),
        (("--rank", 1000), "no layer gets smaller"),
    ):
        code, _, err = star_edge("compress", "lowrank", start, *arguments)
        assert (code, part in err) == (2, True), err
    assert star_edge("compress", "lowrank", start, "--rank", 3)[0] == 0
    code, _, err = star_edge("compress", "lowrank", start, "--rank", 3)
    assert (code, "already there" in err) == (2, True)
    Path("rounds/round-1").mkdir(parents=True)
    code, _, err = star_edge("compress", "sparse", start, "--sparsity", 0.5, "--out", "rounds")
    assert (code, "already there" in err, "round-1" in err) == (2, True, True)
    code, _, err = star_edge("compress", "lowrank", "runs/lowrank/ckpt.pt", "--rank", 3, "--out", "again")
    assert (code, "low rank already" in err) == (2, True)


def test_there_has_to_be_something_to_resume(star_edge: Command, start: Path) -> None:
    """Or else --resume would replace a checkpoint that nothing interrupted."""
    assert star_edge("compress", "lowrank", start, "--rank", 4)[0] == 0
    before = Path("runs/lowrank/ckpt.pt").read_bytes()
    code, _, err = star_edge("compress", "lowrank", start, "--rank", 3, "--finetune", 1, "--resume")
    assert (code, "no interrupted training" in err) == (2, True)
    assert Path("runs/lowrank/ckpt.pt").read_bytes() == before


def test_a_model_that_cannot_be_exported_keeps_its_report(
    star_edge: Command, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from star_edge.compression import latency

    def refuse(path: Path, out: Path) -> None:
        raise GateError("the exported model gives other answers", where=out, found="1", expected="0")

    monkeypatch.setattr(latency, "export_checkpoint", refuse)
    code, out, err = star_edge("compress", "lowrank", start, "--rank", 4, "--latency", "engines", "--json")
    assert (code, json.loads(out)["engines"]) == (0, [])
    assert "gives other answers" in err


def test_interrupted_fine_tuning_goes_on_to_the_same_weights(
    star_edge: Command, start: Path, tmp_path: Path, interrupted_after: Interrupt
) -> None:
    command = ("compress", "lowrank", start, "--rank", 4, "--finetune", 3)
    assert star_edge(*command, "--out", "whole")[0] == 0
    with interrupted_after(2):
        assert star_edge(*command, "--out", "parts")[0] == 130
    assert star_edge(*command, "--out", "parts", "--resume")[0] == 0
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True)["weights"] for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (("--pattern", "2:4"), 0.5),
        (("--sparsity", 0.75), 0.25),
        (("--sparsity", 0.75, "--scope", "layer"), 0.25),
        (("--sparsity", 0.75, "--method", "tickets", "--rounds", 2), 0.25),
        (("--sparsity", 0.75, "--method", "generator", "--warmup", 1), 0.25),
    ],
)
def test_sparse_checkpoints_are_plain_ones_with_zeros(
    star_edge: Command, start: Path, tmp_path: Path, options: tuple[object, ...], left: float
) -> None:
    """Three epochs, so that training goes on after a checkpoint was written."""
    code, out, err = star_edge("compress", "sparse", start, *options, "--finetune", 3, "--out", tmp_path / "sparse", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["sparsity"] == pytest.approx(1 - left, abs=0.02)
    assert report["stored"]["bitmap"] < report["stored"]["dense"]
    dense, sparse = load_checkpoint(start), load_checkpoint(tmp_path / "sparse" / "ckpt.pt")
    assert sparse.state_dict.keys() == dense.state_dict.keys()
    zeros = {layer["path"]: layer["density"] for layer in report["layers"]}
    for path, share in zeros.items():
        weight = sparse.state_dict[f"{path}.weight"]
        assert share == pytest.approx(int(weight.count_nonzero()) / weight.numel())
    for path in zeros if "2:4" in options else ():
        groups = sparse.state_dict[f"{path}.weight"].unflatten(1, (-1, 4))
        assert int(groups.count_nonzero(dim=-1).max()) <= 2
    code, _, err = star_edge("evaluate", tmp_path / "sparse" / "ckpt.pt")
    assert code == 0, err


@pytest.mark.parametrize("method", ["magnitude", "generator"])
def test_interrupted_sparse_training_goes_on_to_the_same_weights(
    star_edge: Command, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from star_edge.training.fine_tuning import FineTuner

    command = ("compress", "sparse", start, "--method", method, "--sparsity", 0.8, "--finetune", 3)
    assert star_edge(*command, "--out", tmp_path / "whole")[0] == 0
    fit = FineTuner._fit_epoch
    with monkeypatch.context() as patched:

        def interrupted(self: FineTuner) -> tuple[float, float]:
            if self.epoch == 2:
                raise KeyboardInterrupt
            return fit(self)

        patched.setattr(FineTuner, "_fit_epoch", interrupted)
        try:
            code = star_edge(*command, "--out", tmp_path / "parts")[0]
        except KeyboardInterrupt:
            code = 130
        assert code != 0
    assert star_edge(*command, "--out", tmp_path / "parts", "--resume")[0] == 0
    whole, parts = (torch.load(tmp_path / name / "last.pt", weights_only=True)["weights"] for name in ("whole", "parts"))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--pattern", "2:4", "--sparsity", 0.7),
        ("--pattern", "2:4", "--method", "tickets", "--finetune", 1),
        ("--method", "tickets", "--sparsity", 0.5),
        ("--sparsity", 0.5, "--warmup", 1, "--finetune", 2),
        ("--sparsity", 0.5, "--method", "generator", "--warmup", 2, "--finetune", 2),
        ("--sparsity", 0.5, "--lr", 0.1),
        ("--pattern", "channel"),
        ("--pattern", "channel", "--sparsity", 0.5, "--method", "tickets", "--finetune", 1),
        ("--pattern", "channel", "--sparsity", 0.5, "--method", "generator", "--finetune", 2),
    ],
)
def test_sparse_options_that_say_nothing_are_refused(star_edge: Command, start: Path, options: tuple[object, ...]) -> None:
    code, _, err = star_edge("compress", "sparse", start, *options)
    assert code == 2
    assert "sparsity" in err or "--" in err


def test_tickets_need_the_weights_that_a_model_began_with(star_edge: Command, start: Path, tmp_path: Path) -> None:
    assert star_edge("compress", "sparse", start, "--sparsity", 0.5, "--finetune", 1, "--out", tmp_path / "tuned")[0] == 0
    tickets = ("--method", "tickets", "--sparsity", 0.5, "--finetune", 1)
    code, _, err = star_edge("compress", "sparse", tmp_path / "tuned" / "ckpt.pt", *tickets, "--out", tmp_path / "tickets")
    assert code == 2
    assert "began with" in err
    assert not (tmp_path / "tickets" / "ckpt.pt").exists()


CHANNEL = ("compress", "sparse", "--pattern", "channel")


def test_fewer_channels_from_checkpoint_to_engines(star_edge: Command, start: Path, tmp_path: Path) -> None:
    pytest.importorskip("modelopt.onnx.quantization", reason="modelopt.onnx is not installed")
    options = ("--sparsity", 0.5, "--finetune", 1, "--distill", "--latency", "engines", "--json")
    code, out, err = star_edge(*CHANNEL, start, *options)
    assert code == 0, err
    report = json.loads(out)
    narrow = load_checkpoint(tmp_path / "runs/sparse/ckpt.pt")
    channels = {layer["path"]: (layer["before"], layer["after"]) for layer in report["channels"]}
    assert narrow.model.config.widths == {path: after for path, (before, after) in channels.items() if after < before}
    assert sum(after for _, after in channels.values()) == (4 * 16 + 24) / 2
    assert not report["layers"]
    for path, (_, after) in channels.items():
        assert len(narrow.state_dict[f"{path}.weight"]) == after
    assert report["sparsity"] == 0.5
    for size in ("parameters", "macs", "bytes"):
        assert report["after"][size] < report["before"][size]
    assert None not in (report["before"]["top1"], report["cut_top1"], report["after"]["top1"])
    assert (report["epochs"], narrow.recipe["name"], narrow.recipe["teacher"]) == (1, "fine-tuning", str(start))
    times = {each["engine"]: (each["before_ms"], each["after_ms"]) for each in report["engines"]}
    assert set(times) == {"onnxruntime", "native"}
    assert all(times["onnxruntime"])

    assert star_edge("evaluate", "runs/sparse/ckpt.pt")[0] == 0
    code, _, err = star_edge("export", "--fp16", "runs/sparse/ckpt.pt", "--out", "narrow.star")
    assert code == 0, err
    code, out, err = star_edge("calibrate", "narrow.star", "--samples", 8, "--json")
    assert code == 0, err
    assert {"head.hidden", "layers.0.spatial.linear1"} <= set(json.loads(out)["quantised"])
    _, out, err = star_edge(
        "verify", "narrow.star", "--engine", "onnxruntime", "--json"
    )  # of 30 clips of noise one may change
    rows = json.loads(out)["results"]
    assert {row["precision"] for row in rows if row["engine"] == "onnxruntime"} == {"fp32", "fp16", "int8"}, err
    code, out, err = star_edge("inspect", "narrow.star", "--json")
    assert code == 0, err
    assert json.loads(out)["manifest"]["model"]["config"]["widths"] == narrow.model.config.widths
    assert star_edge("run", "narrow.star", "noise.npz")[0] == 0


def test_what_is_shown_of_fewer_channels_tells_of_no_zeros(star_edge: Command, start: Path) -> None:
    code, out, err = star_edge(*CHANNEL, start, "--sparsity", 0.25, "--scope", "layer")
    assert code == 0, err
    assert "25.0% of the hidden channels of 5 layers are gone" in out
    assert "head.hidden" in out
    assert "--latency engines" in out
    assert "zero" not in out
    assert "mask" not in out


def test_channels_and_other_ways_after_each_other(star_edge: Command, start: Path, tmp_path: Path) -> None:
    assert star_edge(*CHANNEL, start, "--sparsity", 0.5, "--out", "one")[0] == 0
    one = load_checkpoint(tmp_path / "one/ckpt.pt").model.config.widths
    assert star_edge(*CHANNEL, "one/ckpt.pt", "--sparsity", 0.5, "--out", "two")[0] == 0
    two = load_checkpoint(tmp_path / "two/ckpt.pt").model.config.widths
    assert sum(two.values()) == pytest.approx(sum(one.values()) / 2, abs=5)
    assert star_edge("compress", "lowrank", "one/ckpt.pt", "--rank", 2, "--out", "low")[0] == 0
    low = load_checkpoint(tmp_path / "low/ckpt.pt").model.config
    assert (low.widths, bool(low.ranks)) == (one, True)
    assert star_edge("compress", "sparse", "one/ckpt.pt", "--sparsity", 0.5, "--out", "zeros")[0] == 0
    assert load_checkpoint(tmp_path / "zeros/ckpt.pt").model.config.widths == one
    assert star_edge("export", "low/ckpt.pt", "--out", "low.star")[0] == 0
    code, _, err = star_edge(*CHANNEL, "low/ckpt.pt", "--sparsity", 0.5, "--out", "no")
    assert (code, "low rank" in err) == (2, True)
    code, _, err = star_edge("compress", "sparse", "one/ckpt.pt", "--method", "tickets", "--sparsity", 0.5, "--finetune", 1)
    assert (code, "began with" in err) == (2, True)
    code, _, err = star_edge(*CHANNEL, start, "--sparsity", 0.001, "--out", "no")
    assert (code, "no channel goes" in err) == (2, True)


def test_fewer_channels_go_through_quantisation_aware_training(star_edge: Command, start: Path, tmp_path: Path) -> None:
    pytest.importorskip("modelopt.torch.quantization", reason="modelopt.torch is not installed: pip install 'star-edge[qat]'")
    assert star_edge(*CHANNEL, start, "--sparsity", 0.5)[0] == 0
    code, _, err = star_edge("train", "--qat", "runs/sparse/ckpt.pt", "--epochs", 1)
    assert code == 0, err
    widths = load_checkpoint(tmp_path / "runs/sparse/ckpt.pt").model.config.widths
    assert load_checkpoint(tmp_path / "runs/qat/ckpt.pt").model.config.widths == widths
    assert star_edge("export", "runs/qat/ckpt.pt", "--out", "qat.star")[0] == 0


def test_models_without_hidden_channels_are_told_who_has_some(star_edge: Command, tmp_path: Path) -> None:
    from runtime.features import FeatureRecipe
    from star_edge.models.registry import build_model, padded_config
    from star_edge.skeletons import NITE15
    from star_edge.training.checkpoint import Checkpoint, DataEntry, ModelEntry, build_from_checkpoint, save_checkpoint

    for name in ("ctr-gcn", "aagcn"):
        config = padded_config(name, NITE15, 4, 3, frames=5, persons=1, dim=8)
        entry, data = ModelEntry(name, config), DataEntry("nowhere", "none", "xsub")
        weights = build_model(name, config).state_dict()
        whole = Checkpoint(entry, weights, NITE15, FeatureRecipe(channels=4), ("a", "b", "c"), data)
        save_checkpoint(whole, tmp_path / f"{name}.pt")
    code, _, err = star_edge(*CHANNEL, "ctr-gcn.pt", "--sparsity", 0.5)
    assert code == 2
    assert "one of star-64, star-128, step-catformer, aagcn" in err
    assert star_edge(*CHANNEL, "aagcn.pt", "--sparsity", 0.5)[0] == 0
    narrow = load_checkpoint(tmp_path / "runs/sparse/ckpt.pt")
    assert narrow.model.config.widths
    assert sum(tensor.numel() for tensor in narrow.state_dict.values()) < sum(tensor.numel() for tensor in weights.values())
    assert bool(build_from_checkpoint(narrow)(torch.zeros(4, 15, 4), torch.tensor([0, 4])).isfinite().all())


@pytest.mark.parametrize(
    ("widths", "part"),
    [
        ({"head.hidden": 0}, "so many channels"),
        ({"head.hidden": -3}, "so many channels"),
        ({"head.hidden": 25}, "so many channels"),
        ({"layers.9.spatial.linear1": 3}, "no hidden channels"),
        ({"layers.0.spatial.qkv": 3}, "no hidden channels"),
        ({"head.hidden": "three"}, "wrong field"),
        ({"head.hidden": 23}, "does not fit the model"),
    ],
)
def test_widths_that_cannot_be_are_refused(star_edge: Command, start: Path, widths: dict[str, object], part: str) -> None:
    content = torch.load(start, weights_only=True)
    content["model"]["config"]["widths"] = widths
    torch.save(content, start)
    code, _, err = star_edge("export", start)
    assert code == 2
    assert part in err
    assert str(start) in err
