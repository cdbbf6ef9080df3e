"""Training in which a checkpoint becomes a smaller one, on the clips that it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.errors import InputError
from runtime.files import sha256_of
from star_edge.compression.judging import FineTuning
from star_edge.training.checkpoint import Checkpoint, load_checkpoint
from star_edge.training.distillation import Teacher
from star_edge.training.fine_tuning import FineTuner
from star_edge.training.loop import Task
from star_edge.training.parallel import Group
from star_edge.training.recipe import FINE_TUNING, Recipe, continued_recipe


def load_start(path: Path, out: Path) -> Checkpoint:
    """The checkpoint to make a smaller one from; InputError where it is an ensemble, or would be overwritten."""
    start = load_checkpoint(path)
    if start.model.config.experts > 1:
        raise InputError(
            "the model is a sparse ensemble already",
            where=path,
            found=f"{start.model.config.experts} experts",
            expected="one model",
            hint="begin with the checkpoint it was made from",
        )
    if path.resolve() == (out / "ckpt.pt").resolve():
        raise InputError("the checkpoint to begin with would be overwritten", where=path, hint="another --out")
    return start


class Retraining:
    """How a checkpoint is trained.

    Args:
        start, path: the checkpoint.
        task: its clips; None where nothing is to be trained.
        tuning: epochs, learning rate, and whether the checkpoint teaches.
        run: trains.
    """

    def __init__(
        self,
        start: Checkpoint,
        path: Path,
        task: Task | None,
        tuning: FineTuning,
        seed: int,
        group: Group,
        run: Callable[[FineTuner], object],
    ) -> None:
        self.start, self.path, self.task, self.tuning = start, path, task, tuning
        self.seed, self.group, self._run = seed, group, run

    def on(self) -> Recipe:
        """The recipe for training that goes on from weights at hand."""
        return self._recipe(FINE_TUNING)

    def anew(self) -> Recipe:
        """The recipe of the checkpoint, for training from the beginning."""
        return self._recipe({})

    def _recipe(self, changes: dict[str, Any]) -> Recipe:
        start, tuning = self.start, self.tuning
        return continued_recipe(start.model.name, start.recipe, start.features, changes, epochs=tuning.epochs, lr=tuning.lr)

    def train(self, trainer: Callable[..., FineTuner], start: Checkpoint, recipe: Recipe, out: Path, **own: Any) -> None:
        """Train from ``start`` into the folder ``out``, or go on with what was interrupted there; ``own``: of this trainer alone."""
        teacher = Teacher(self.path, self.group.device) if self.tuning.distil else None
        found = trainer(self.task, start, sha256_of(self.path), recipe, out, self.seed, teacher, self.group, **own)
        if self.tuning.resume and (out / "last.pt").exists():
            found.resume()
        self._run(found)
