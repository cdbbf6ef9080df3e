"""Training in several processes, with accumulated gradients and in bfloat16: the same steps as in one process by itself."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed")

import shared_training  # noqa: E402
from shared_training import made_up_task  # noqa: E402

from runtime.errors import InputError, MismatchError  # noqa: E402
from star_edge.training.batches import AugmentedBatches, deal  # noqa: E402
from star_edge.training.loop import Trainer, learning_rate  # noqa: E402
from star_edge.training.parallel import join  # noqa: E402
from star_edge.training.recipe import DEFAULT, QAT, Recipe, continued_recipe, get_recipe  # noqa: E402

SCRIPT = Path(shared_training.__file__)
NORM_SCRIPT = SCRIPT.with_name("shared_norm.py")
# without dropout, whose masks differ by process; 70 rows hold two to five of the clips, so that a third process may have none
RECIPE = msgspec.structs.replace(
    DEFAULT, epochs=3, warmup_epochs=1.0, frames_per_batch=70, dropout=0.0, head_dropout=0.0, clip_norm=0.0
)

needs_gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch has no gloo"
)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.json"
    path.write_bytes(msgspec.json.encode({**msgspec.to_builtins(RECIPE), "accumulate": 2}))
    return path


def torchrun(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in words], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def difference(one: torch.Tensor, other: torch.Tensor, scale: torch.Tensor) -> float:
    """Of two tensors, relative to the norm of a third."""
    return float((one - other).double().norm() / scale.double().norm().clamp(min=1e-12))


def state_of(folder: Path) -> dict:
    return torch.load(folder / "last.pt", weights_only=True)


@needs_gloo
def test_any_number_of_processes_gives_the_same_weights_and_may_change(tmp_path: Path, recipe: Path) -> None:
    shared_training.train("star-64", str(recipe), tmp_path / "one")
    torchrun(3, SCRIPT, "star-64", recipe, tmp_path / "several", 2)
    assert state_of(tmp_path / "several")["epoch"] == 2
    shared_training.train("star-64", str(recipe), tmp_path / "several")
    one, several = state_of(tmp_path / "one"), state_of(tmp_path / "several")
    assert (one["epoch"], one["step"]) == (several["epoch"], several["step"])
    begun = Trainer(made_up_task(), "star-64", RECIPE, tmp_path, seed=3).model.state_dict()
    for part in ("weights", "averaged"):
        for name, tensor in one[part].items():
            start = begun.get(name.removeprefix("module."), torch.zeros(1))
            assert difference(several[part][name], tensor, tensor - start) < 1e-3, (part, name)
    # the optimizer divides by what gradients are like, but not in its averages of them
    for key, moments in one["optimizer"]["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            found = several["optimizer"]["state"][key][name]
            assert difference(found, moments[name], moments[name]) < 2e-3, (key, name)
    assert (tmp_path / "several" / "ckpt.pt").is_file()
    assert len(list((tmp_path / "several").glob("events*"))) == 2  # one a run, of the first process


@needs_gloo
def test_a_padded_model_has_about_the_same_weights_from_several_processes(tmp_path: Path) -> None:
    """Forty BatchNorms over one to five clips make much of float32's rounding: exactness is tested below, of one of them."""
    path = tmp_path / "recipe.json"
    calm = {"features": {"channels": 4}, "frames": 8, "ema": 0.0, "eps": 1e-3, "lr": 1e-4, "epochs": 2}
    path.write_bytes(msgspec.json.encode({**msgspec.to_builtins(RECIPE), **calm}))
    shared_training.train("st-gcn++", str(path), tmp_path / "one")
    torchrun(3, SCRIPT, "st-gcn++", path, tmp_path / "several")
    one, several = (state_of(tmp_path / name)["weights"] for name in ("one", "several"))
    begun = Trainer(made_up_task(), "st-gcn++", get_recipe(str(path), "st-gcn++"), tmp_path, seed=3).model
    statistics = {name for name, _ in begun.named_buffers() if "running" in name}
    for names, allowed in ((statistics, 1e-3), ({name for name, _ in begun.named_parameters()}, 5e-2)):
        start, first, other = (
            torch.cat([state[name].flatten() for name in sorted(names)]) for state in (begun.state_dict(), one, several)
        )
        assert difference(other, first, first - start) < allowed


@needs_gloo
def test_statistics_and_gradients_are_those_of_all_rows(tmp_path: Path) -> None:
    """In float64, over rows [N, C, T, V] of which one process has none."""
    torchrun(3, NORM_SCRIPT, tmp_path)
    x, weight, output, input_gradient, weight_gradient, mean, variance = torch.load(tmp_path / "shared.pt", weights_only=True)
    norm = torch.nn.BatchNorm2d(x.shape[1], dtype=torch.float64)
    with torch.no_grad():
        norm.weight.copy_(weight)
    x.requires_grad_()
    expected = norm(x)
    expected.square().mul(x.detach()).sum().backward()
    assert x.grad is not None
    assert norm.weight.grad is not None
    for found, wanted in (
        (output, expected),
        (input_gradient, x.grad),
        (weight_gradient, norm.weight.grad),
        (mean, norm.running_mean),
        (variance, norm.running_var),
    ):
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-12, atol=1e-12)


@given(rows=st.lists(st.integers(0, 300), max_size=30), hands=st.integers(1, 6))
def test_dealt_parts_hold_each_clip_once_and_about_as_many_rows(rows: list[int], hands: int) -> None:
    lengths = np.array(rows, dtype=np.int64)
    parts = deal(lengths, hands)
    assert len(parts) == hands
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(rows)))
    loads = [int(lengths[part].sum()) for part in parts]
    assert max(loads) - min(loads) <= max(rows, default=0)
    assert all(part.tolist() == sorted(part) for part in parts)


def test_accumulated_batches_make_the_step_of_all_their_clips(tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(RECIPE, accumulate=2, ema=0.0)
    trainer = Trainer(made_up_task(), "star-64", recipe, tmp_path, seed=3)
    task, model = trainer.task, copy.deepcopy(trainer.model).train()
    rng = np.random.default_rng((3, 0))
    rng.integers(2**63)
    batches = list(AugmentedBatches(task.fit, task.skeleton, recipe, rng))
    assert len(batches) % 2 == 1  # the last step has one batch alone
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        betas=recipe.betas,
        eps=recipe.eps,
    )
    for step, start in enumerate(range(0, len(batches), 2), 1):
        group = batches[start : start + 2]
        losses = [
            torch.nn.functional.cross_entropy(
                model(torch.from_numpy(batch.features), torch.from_numpy(batch.cu_seqlens)),
                torch.from_numpy(task.fit_labels[batch.indices]),
                label_smoothing=recipe.label_smoothing,
                reduction="sum",
            )
            for batch in group
        ]
        optimizer.zero_grad()
        (sum(losses) / sum(len(batch.indices) for batch in group)).backward()
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate(recipe, 64, step, -(-len(batches) // 2))
        optimizer.step()
    trainer._fit_epoch()
    assert trainer.step == -(-len(batches) // 2)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], tensor, atol=2e-5, rtol=1e-4)


def loss_of(recipe: Recipe, out: Path) -> float:
    trainer = Trainer(made_up_task(), "star-64", recipe, out, seed=3)
    batches = AugmentedBatches(trainer.task.fit, trainer.task.skeleton, recipe, np.random.default_rng(0))
    loss, _ = trainer._loss(next(iter(batches)))
    loss.backward()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    return loss.item()


def test_bfloat16_products_are_close_to_float32_and_not_the_same(tmp_path: Path) -> None:
    plain, mixed = (loss_of(msgspec.structs.replace(RECIPE, amp=amp), tmp_path) for amp in ("none", "bf16"))
    assert mixed != plain
    assert mixed == pytest.approx(plain, rel=0.02)


@pytest.mark.parametrize("field", [{"accumulate": 0}, {"temperature": 0.0}, {"distillation": 1.5}])
def test_a_recipe_that_would_train_nothing_is_refused(tmp_path: Path, field: dict) -> None:
    (tmp_path / "bad.json").write_bytes(msgspec.json.encode(field))
    with pytest.raises(InputError, match="cannot read the recipe"):
        get_recipe(str(tmp_path / "bad.json"))


def test_quantisation_aware_training_goes_on_in_float32() -> None:
    trained = msgspec.to_builtins(msgspec.structs.replace(RECIPE, amp="bf16", accumulate=3))
    recipe = continued_recipe("star-64", trained, RECIPE.features, QAT)
    assert (recipe.amp, recipe.accumulate) == ("none", 3)


def test_a_part_of_what_torchrun_sets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match="torchrun"):
        join("cpu")


def test_a_process_without_a_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(MismatchError, match="no GPU for this process"):
        join("cuda")


@pytest.mark.slow
@needs_gloo
def test_torchrun_starts_the_command_line(tiny_dataset: Path, tmp_path: Path) -> None:
    """Two processes say once what one would, and write one checkpoint."""
    train = ("-m", "star_edge", "train", "--data", tiny_dataset, "--epochs", 1, "--out", tmp_path / "run", "--json")
    done = torchrun(2, *train)
    report = json.loads(done.stdout)
    assert report["epochs"] == 1
    assert "2 processes, on cpu" in done.stderr
    assert Path(report["checkpoint"]).is_file()
