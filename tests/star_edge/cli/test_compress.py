"""``star-edge compress`` through the real entry point: what it makes, that the rest of the pipeline takes it, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from star_edge.training.checkpoint import load_checkpoint  # noqa: E402

Command = Callable[..., tuple[int, str, str]]


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
    code, out, err = star_edge("verify", "low.star", "--json")  # with the engine that has kernels for it
    assert code == 0, err
    assert {row["engine"] for row in json.loads(out)["results"]} == {"onnxruntime", "torch"}
    code, _, err = star_edge("run", "low.star", "noise.npz", "--engine", "native")
    assert code == 4
    assert "cannot run the model 'star-64'" in err
    assert "use the engine onnxruntime" in err


def test_low_rank_in_int8(star_edge: Command, start: Path) -> None:
    pytest.importorskip("modelopt.onnx.quantization", reason="modelopt.onnx is not installed")
    assert star_edge("compress", "lowrank", start, "--rank", 5)[0] == 0
    assert star_edge("export", "runs/lowrank/ckpt.pt", "--out", "low.star")[0] == 0
    code, out, err = star_edge("calibrate", "low.star", "--samples", 8, "--json")
    assert code == 0, err
    quantised = json.loads(out)["quantised"]
    assert {"head.hidden.first", "head.hidden.second", "layers.1.temporal.qkv.second"} <= set(quantised)
    assert "head.hidden" not in quantised


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
    code, _, err = star_edge("compress", "lowrank", "runs/lowrank/ckpt.pt", "--rank", 3, "--out", "again")
    assert (code, "low rank already" in err) == (2, True)


def test_interrupted_fine_tuning_goes_on_to_the_same_weights(
    star_edge: Command, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from star_edge.training.loop import Trainer

    command = ("compress", "lowrank", start, "--rank", 4, "--finetune", 3)
    assert star_edge(*command, "--out", "whole")[0] == 0
    finish = Trainer._finish_epoch

    def interrupted(trainer: Trainer, loss: float, accuracy: float) -> object:
        found = finish(trainer, loss, accuracy)
        if trainer.epoch == 2:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_finish_epoch", interrupted)
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
