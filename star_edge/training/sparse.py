"""Training of sparse models: under masks that stay, or with scores that learn which weights count."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from star_edge.compression.masks import Masks, hold_masks, plain_weights
from star_edge.compression.sparse_generator import Scope, attach, generator_of
from star_edge.models.registry import build_model
from star_edge.training.checkpoint import Checkpoint
from star_edge.training.distillation import Teacher
from star_edge.training.fine_tuning import FineTuner
from star_edge.training.loop import Task
from star_edge.training.parallel import ALONE, Group
from star_edge.training.recipe import Recipe


class MaskedTrainer(FineTuner):
    """Trains from weights at hand under masks; its checkpoint has plain weights, zero where they are masked.

    Args: those of :class:`FineTuner`, and the masks.
    """

    def __init__(
        self,
        task: Task,
        start: Checkpoint,
        start_sha256: str,
        recipe: Recipe,
        out: Path,
        seed: int = 0,
        teacher: Teacher | None = None,
        group: Group = ALONE,
        *,
        masks: Masks,
    ) -> None:
        self.masks = masks
        super().__init__(task, start, start_sha256, recipe, out, seed, teacher, group)

    def _build(self) -> nn.Module:
        model = super()._build()
        hold_masks(model, self.masks)
        return model

    def _identity(self) -> dict[str, Any]:
        held = hashlib.sha256()
        for path, mask in sorted(self.masks.items()):
            held.update(path.encode() + mask.cpu().numpy().tobytes())
        return {**super()._identity(), "masks": held.hexdigest()}

    def _saved_weights(self) -> dict[str, Tensor]:
        return plain_weights(self.evaluated)


class Schedule(NamedTuple):
    """Of a sparse generator: its final sparsity, what shares a threshold, epochs without masks, and epochs to rise in after them."""

    sparsity: float
    scope: Scope = "network"
    warmup: int = 0
    ramp: int = 0


class GeneratorTrainer(FineTuner):
    """Trains a fresh model of the shape of ``start`` with a sparse generator; its checkpoint has plain weights.

    Epochs before the sparsity is the final one are never the best.
    """

    def __init__(
        self,
        task: Task,
        start: Checkpoint,
        start_sha256: str,
        recipe: Recipe,
        out: Path,
        seed: int = 0,
        teacher: Teacher | None = None,
        group: Group = ALONE,
        *,
        schedule: Schedule,
    ) -> None:
        self.schedule = schedule
        super().__init__(task, start, start_sha256, recipe, out, seed, teacher, group)

    def _build(self) -> nn.Module:
        model = build_model(self.model_entry.name, self.model_entry.config)
        self.generator = attach(model, *self.schedule)
        return model

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "schedule": [*self.schedule]}

    def _fit_epoch(self) -> tuple[float, float]:
        self.generator.set_epoch(self.epoch)
        return super()._fit_epoch()

    def _penalty(self) -> Tensor:
        return self.generator.penalty()

    def _is_better(self, validation: float) -> bool:
        return self.epoch >= self.schedule.warmup + max(1, self.schedule.ramp) and super()._is_better(validation)

    def _saved_weights(self) -> dict[str, Tensor]:
        generator = generator_of(self.evaluated)
        assert generator is not None
        generator.refresh()
        return plain_weights(self.evaluated)
