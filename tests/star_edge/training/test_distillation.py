"""Distillation: its loss by the equation, what a student takes from a teacher, and which teachers are refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from shared_training import made_up_task  # noqa: E402

from runtime.errors import MismatchError  # noqa: E402
from runtime.features import FeatureRecipe  # noqa: E402
from star_edge.skeletons import NITE15  # noqa: E402
from star_edge.training.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from star_edge.training.distillation import Teacher, distillation_loss  # noqa: E402
from star_edge.training.loop import Task, Trainer  # noqa: E402
from star_edge.training.parallel import CPU  # noqa: E402
from star_edge.training.recipe import DEFAULT  # noqa: E402

RECIPE = msgspec.structs.replace(DEFAULT, epochs=1, warmup_epochs=0.0, frames_per_batch=70)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes positions alone, where students take nine channels."""
    recipe = msgspec.structs.replace(RECIPE, features=FeatureRecipe(channels=3), epochs=2)
    return Trainer(made_up_task(), "star-64", recipe, tmp_path_factory.mktemp("teacher"), seed=5).run()


def test_the_loss_is_that_of_the_equation() -> None:
    rng = np.random.default_rng(0)
    student, taught, t = rng.normal(size=(5, 7)), 3 * rng.normal(size=(5, 7)), 4.0

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum(1, keepdims=True)

    p, q = softmax(taught / t), softmax(student / t)
    expected = t**2 * (p * np.log(p / q)).sum(1).mean()
    found = distillation_loss(torch.from_numpy(student).float(), torch.from_numpy(taught).float(), t)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def weights_of(task: Task, out: Path, teacher: Path | None, part: float) -> dict[str, torch.Tensor]:
    recipe = msgspec.structs.replace(RECIPE, distillation=part)
    trainer = Trainer(task, "star-64", recipe, out, 1, teacher=None if teacher is None else Teacher(teacher, CPU))
    trainer.run()
    return trainer.model.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_student_learns_from_labels_and_teacher_in_the_recipes_shares(tmp_path: Path, teacher: Path) -> None:
    task = made_up_task()
    other = Task(**{**vars(task), "fit_labels": (task.fit_labels + 1) % 3})
    taught = weights_of(task, tmp_path / "a", teacher, 1.0)
    assert same(taught, weights_of(other, tmp_path / "b", teacher, 1.0))  # labels have no part in it
    assert not same(weights_of(task, tmp_path / "c", teacher, 0.5), weights_of(other, tmp_path / "d", teacher, 0.5))
    alone = weights_of(task, tmp_path / "e", None, 0.5)
    assert same(alone, weights_of(task, tmp_path / "f", teacher, 0.0))
    assert not same(alone, taught)


def test_a_checkpoint_names_its_teacher(tmp_path: Path, teacher: Path) -> None:
    weights_of(made_up_task(), tmp_path, teacher, 0.5)
    recipe = load_checkpoint(tmp_path / "ckpt.pt").recipe
    assert recipe["teacher"] == str(teacher)
    assert recipe["teacher_sha256"] == Teacher(teacher, CPU).sha256


def test_a_run_with_another_teacher_is_not_continued(tmp_path: Path, teacher: Path) -> None:
    weights_of(made_up_task(), tmp_path, teacher, 0.5)
    with pytest.raises(MismatchError, match="another teacher"):
        Trainer(made_up_task(), "star-64", RECIPE, tmp_path, 1).resume()


@pytest.mark.parametrize(
    ("change", "what"),
    [({"class_names": ("a", "c", "b")}, "classes"), ({"skeleton": msgspec.structs.replace(NITE15, name="nite")}, "skeleton")],
)
def test_a_teacher_of_other_clips_is_refused(tmp_path: Path, teacher: Path, change: dict, what: str) -> None:
    save_checkpoint(msgspec.structs.replace(load_checkpoint(teacher), **change), tmp_path / "other.pt")
    with pytest.raises(MismatchError, match=f"other {what}"):
        Trainer(made_up_task(), "star-64", RECIPE, tmp_path, teacher=Teacher(tmp_path / "other.pt", CPU))
