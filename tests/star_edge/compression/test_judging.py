"""What a judge judges by: losses of a sample that is always the same, accuracy of every clip."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from shared_training import made_up_task  # noqa: E402

from star_edge.compression.judging import LOSS_CLIPS, Judge  # noqa: E402
from star_edge.training.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint  # noqa: E402
from star_edge.training.evaluate import model_logits  # noqa: E402
from star_edge.training.loop import Task, Trainer  # noqa: E402
from star_edge.training.parallel import ALONE  # noqa: E402
from star_edge.training.recipe import DEFAULT  # noqa: E402


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    recipe = msgspec.structs.replace(DEFAULT, epochs=1, warmup_epochs=0.0, frames_per_batch=70)
    return load_checkpoint(Trainer(made_up_task(), "star-64", recipe, tmp_path_factory.mktemp("run")).run())


def judged(count: int) -> Task:
    """The task with so many val clips, the same few again and again."""
    task = made_up_task()
    clips = np.arange(count) % len(task.fit)
    return dataclasses.replace(
        task, validation=[task.fit[int(clip)] for clip in clips], validation_labels=np.asarray(task.fit_labels)[clips]
    )


@pytest.mark.parametrize("count", [1, LOSS_CLIPS, 3 * LOSS_CLIPS + 1])
def test_accuracy_is_of_all_clips_and_loss_of_a_few(start: Checkpoint, count: int) -> None:
    task, model = judged(count), build_from_checkpoint(start)
    judge = Judge(task, start, ALONE)
    logits = model_logits(model, task.validation, start.skeleton, start.features).astype(np.float64)
    right = logits.argmax(1) == task.validation_labels
    assert len(judge) == count
    assert judge.accuracy(model) == pytest.approx(right.mean())
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(count), task.validation_labels]
    some = np.random.default_rng(0).permutation(count)[:LOSS_CLIPS]
    assert judge.loss(model) == pytest.approx(losses[some].mean(), rel=1e-5)
    assert judge.loss(model) == Judge(task, start, ALONE).loss(model)


def test_without_clips_there_is_no_accuracy(start: Checkpoint) -> None:
    judge = Judge(judged(0), start, ALONE)
    assert not judge
    assert judge.accuracy(build_from_checkpoint(start)) is None
