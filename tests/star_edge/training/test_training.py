"""The loop: schedule, batches, one seed one result, resume, checkpoints, and errors."""

from __future__ import annotations

import pickle
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed")

from runtime.clip import Clip  # noqa: E402
from runtime.errors import GateError, InputError, MismatchError  # noqa: E402
from star_edge.skeletons import NITE15  # noqa: E402
from star_edge.training import loop  # noqa: E402
from star_edge.training.batches import group_by_frames  # noqa: E402
from star_edge.training.checkpoint import (  # noqa: E402
    Checkpoint,
    DataEntry,
    build_from_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from star_edge.training.evaluate import class_accuracies, model_logits, top_k_accuracy  # noqa: E402
from star_edge.training.loop import Task, Trainer, constant_loss, learning_rate  # noqa: E402
from star_edge.training.recipe import DEFAULT, PAPER, Augmentation, Recipe, get_recipe  # noqa: E402


def separable_task(clips: int = 12) -> Task:
    """Two classes that differ in where one hand is."""
    rng = np.random.default_rng(0)
    labels = np.arange(clips) % 2
    made = []
    for label in labels:
        rows = int(rng.integers(6, 12))
        joints = rng.normal(0.0, 0.02, (rows, 15, 3)) + np.linspace(0.1, 1, 15)[:, None]
        joints[:, 5] += 1 if label else -1
        made.append(Clip(joints.astype(np.float32), (rows,)))
    data = DataEntry("nowhere", "separable", "xsub")
    return Task(made, labels, made[:4], labels[:4], NITE15, ("down", "up"), data)


def quick(**changes) -> Recipe:
    return msgspec.structs.replace(DEFAULT, **{"epochs": 3, "warmup_epochs": 1.0, "frames_per_batch": 48, **changes})


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    budget=st.integers(1, 100),
    seed=st.none() | st.integers(0, 9),
)
def test_groups_hold_each_clip_once_within_the_budget(lengths: list[int], budget: int, seed: int | None) -> None:
    rng = None if seed is None else np.random.default_rng(seed)
    groups = group_by_frames(np.array(lengths), budget, rng)
    members = np.concatenate(groups)
    np.testing.assert_array_equal(np.sort(members), np.arange(len(lengths)))
    if rng is None:
        np.testing.assert_array_equal(members, np.arange(len(lengths)))
    for group in groups:
        assert len(group) == 1 or sum(lengths[i] for i in group) <= budget


def test_noam_schedule_is_equation_8() -> None:
    steps = 100
    for step in (1, 250, 500, 501, 4000):
        expected = 64**-0.5 * min(step**-0.5, step * 500**-1.5)
        assert learning_rate(PAPER, 64, step, steps) == pytest.approx(expected)


def test_cosine_schedule_rises_to_the_peak_and_falls_to_zero() -> None:
    rates = [learning_rate(DEFAULT, 64, step, 10) for step in range(1, DEFAULT.epochs * 10 + 1)]
    assert max(rates) == pytest.approx(DEFAULT.lr)
    assert int(np.argmax(rates)) + 1 == 50
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_training_learns_and_one_seed_gives_one_result(tmp_path: Path) -> None:
    recipe = quick(
        epochs=8, frames_per_batch=256, dropout=0.0, head_dropout=0.0, ema=0.5, lr=1e-3, augmentation=Augmentation()
    )
    seen: list[float] = []
    paths = [
        Trainer(separable_task(), "star-64", recipe, tmp_path / run, 7).run(lambda e: seen.append(e.loss)) for run in "ab"
    ]
    first, second = (load_checkpoint(path) for path in paths)
    assert first.metrics["validation_accuracy"] == 1.0
    assert seen[:8] == seen[8:]
    for name, tensor in first.state_dict.items():
        torch.testing.assert_close(tensor, second.state_dict[name], atol=0, rtol=0)


def test_resume_after_a_kill_gives_the_same_weights(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill_after_the_second(epoch) -> None:
        if epoch.number == 2:
            raise Killed

    whole = Trainer(separable_task(), "star-64", quick(), tmp_path / "whole", 1).run()
    with pytest.raises(Killed):
        Trainer(separable_task(), "star-64", quick(), tmp_path / "parts", 1).run(kill_after_the_second)
    continued = Trainer(separable_task(), "star-64", quick(), tmp_path / "parts", 1)
    continued.resume()
    assert continued.epoch == 2
    parts = continued.run()
    states = [torch.load(path.parent / "last.pt", weights_only=True) for path in (whole, parts)]
    for part in ("weights", "averaged"):
        for name, tensor in states[0][part].items():
            torch.testing.assert_close(tensor, states[1][part][name], atol=0, rtol=0)


def test_a_run_begun_anew_never_mixes_with_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between its first checkpoint and its first state, it leaves no state of the earlier run to resume from."""
    first = Trainer(separable_task(), "star-64", quick(), tmp_path, 1).run()

    def kill(content: dict, path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_torch", kill)
    with pytest.raises(KeyboardInterrupt):
        Trainer(separable_task(), "star-64", quick(), tmp_path, 1).run()
    assert load_checkpoint(first).metrics["epoch"] == 1
    assert not (tmp_path / "last.pt").exists()


@pytest.mark.parametrize("epochs", [10, 20])
def test_a_run_that_learns_nothing_stops_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """With a loss that never leaves that of a constant answer; a short run is left to itself."""
    monkeypatch.setattr(Trainer, "_fit_epoch", lambda self: (float(np.log(2)), 0.5))
    trainer = Trainer(separable_task(), "star-64", quick(epochs=epochs), tmp_path)
    if epochs == 10:
        trainer.run()
        return
    with pytest.raises(GateError, match="learned nothing") as caught:
        trainer.run()
    assert (caught.value.where, caught.value.found) == ("epoch 10 of 20", "loss 0.693")
    assert trainer.epoch == 9
    assert "--lr" in (caught.value.hint or "")


def test_the_loss_of_a_constant_answer() -> None:
    assert constant_loss(np.array([0, 1, 0, 1]), 2, 0.1) == pytest.approx(np.log(2))
    assert constant_loss(np.zeros(5, dtype=int), 3, 0.0) == 0
    labels, smoothing = np.array([0, 0, 0, 1]), 0.1
    target = np.full((4, 2), smoothing / 2) + (1 - smoothing) * np.eye(2)[labels]
    answer = target.mean(0)
    assert constant_loss(labels, 2, smoothing) == pytest.approx(-(target * np.log(answer)).sum(1).mean())


def test_resume_refuses_another_recipe(tmp_path: Path) -> None:
    Trainer(separable_task(), "star-64", quick(), tmp_path, 1).run()
    with pytest.raises(MismatchError, match="another recipe"):
        Trainer(separable_task(), "star-64", quick(lr=1e-4), tmp_path, 1).resume()
    with pytest.raises(MismatchError, match="another seed"):
        Trainer(separable_task(), "star-64", quick(), tmp_path, 2).resume()
    with pytest.raises(MismatchError, match="another model"):
        Trainer(separable_task(), "star-64", quick(), tmp_path, 1, attention="full").resume()


def test_without_validation_the_last_epoch_is_kept(tmp_path: Path) -> None:
    task = separable_task()
    task = Task(task.fit, task.fit_labels, [], task.fit_labels[:0], task.skeleton, task.class_names, task.data)
    saved = load_checkpoint(Trainer(task, "star-64", quick(), tmp_path).run())
    assert (saved.metrics["epoch"], saved.metrics["validation_accuracy"]) == (3, None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Trainer(separable_task(), "star-64", quick(epochs=1), tmp_path_factory.mktemp("run")).run()


def test_a_checkpoint_gives_back_model_and_recipe(checkpoint: Path) -> None:
    saved = load_checkpoint(checkpoint)
    task = separable_task()
    logits = model_logits(build_from_checkpoint(saved), task.fit, saved.skeleton, saved.features)
    assert logits.shape == (12, 2)
    assert saved.recipe["frames_per_batch"] == 48
    assert saved.skeleton == NITE15
    assert torch.load(checkpoint, weights_only=True)["schema"] == "star-edge/checkpoint/1"


def rewrite(checkpoint: Path, target: Path, change) -> Path:
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, target)
    return target


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: c.update(schema="star-edge/checkpoint/9"), MismatchError, "newer star-edge"),
        (lambda c: c.update(schema="other"), InputError, "not a star-edge checkpoint"),
        (lambda c: c.pop("skeleton"), InputError, "skeleton"),
        (lambda c: c.pop("state_dict"), InputError, "no state_dict"),
        (lambda c: c["state_dict"].pop("head.output.bias"), InputError, r"head\.output\.bias"),
        (lambda c: c["state_dict"]["context.weight"].fill_(float("nan")), InputError, "NaN"),
        (lambda c: c.update(class_names=["one", "two", "three"]), InputError, "contradicts itself"),
        (lambda c: c["model"]["config"].update(dim="wide"), InputError, "wrong field"),
    ],
)
def test_a_bad_checkpoint_is_named(checkpoint: Path, tmp_path: Path, change, error, message: str) -> None:
    with pytest.raises(error, match=message):
        load_checkpoint(rewrite(checkpoint, tmp_path / "bad.pt", change))


@pytest.mark.parametrize("keep", [0, 1, 100, 5000])
def test_a_truncated_checkpoint_is_named(checkpoint: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "short.pt"
    path.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(InputError, match="checkpoint"):
        load_checkpoint(path)


def test_a_checkpoint_that_needs_pickle_is_refused_unread(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    for save in (torch.save, lambda obj, path: path.write_bytes(pickle.dumps(obj))):
        path = tmp_path / "evil.pt"
        save({"schema": "star-edge/checkpoint/1", "state_dict": Payload()}, path)
        with pytest.raises(InputError, match=r"pickle|cannot be read"):
            load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_keeps_the_old_checkpoint(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = checkpoint.read_bytes()
    saved: Checkpoint = load_checkpoint(checkpoint)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(saved, checkpoint)
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.glob("*.tmp")) == []


def test_recipes_from_files_fill_in_the_default(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"lr": 0.001}')
    recipe = get_recipe(str(path), epochs=4)
    assert (recipe.name, recipe.lr, recipe.epochs, recipe.dropout) == ("mine", 0.001, 4, DEFAULT.dropout)
    path.write_text('{"learning_rate": 0.001}')
    with pytest.raises(InputError, match="learning_rate"):
        get_recipe(str(path))
    with pytest.raises(InputError, match="default, paper"):
        get_recipe("other")


def test_accuracies_count_by_hand() -> None:
    logits = np.array([[3.0, 2, 1], [1, 2, 3], [0, 5, 4], [2, 2, 2]])
    labels = np.array([0, 1, 1, 2])
    assert top_k_accuracy(logits, labels) == 0.5
    assert top_k_accuracy(logits, labels, 2) == 0.75
    rows = class_accuracies(logits, labels, ("a", "b", "c"))
    assert [(row.correct, row.clips) for row in rows] == [(1, 1), (1, 2), (0, 1)]
