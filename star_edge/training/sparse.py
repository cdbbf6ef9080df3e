"""Training of sparse models: under masks that stay, or with scores that learn which weights count."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from star_edge.compression.masks import Masks, hold_masks, plain_weights
from star_edge.compression.sparse_generator import Scope, attach, generator_of
from star_edge.models.ensemble import experts_of
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
    """Of sparse generators: final sparsity of each expert, or of the model; what shares a threshold; epochs without masks, and
    epochs to rise in after them."""

    levels: tuple[float, ...]
    scope: Scope = "network"
    warmup: int = 0
    ramp: int = 0


class GeneratorTrainer(FineTuner):
    """Trains a fresh model of the shape of ``start`` with a sparse generator in each expert; its checkpoint has plain weights.

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
        levels, scope, warmup, ramp = self.schedule
        pairs = zip(experts_of(model).values(), levels, strict=True)
        self.generators = [attach(expert, level, scope, warmup, ramp) for expert, level in pairs]
        return model

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "schedule": [*self.schedule]}

    def _fit_epoch(self) -> tuple[float, float]:
        for generator in self.generators:
            generator.set_epoch(self.epoch)
        return super()._fit_epoch()

    def _penalty(self) -> Tensor:
        return torch.stack([generator.penalty() for generator in self.generators]).sum()

    def _is_better(self, validation: float) -> bool:
        return self.epoch >= self.schedule.warmup + max(1, self.schedule.ramp) and super()._is_better(validation)

    def _saved_weights(self) -> dict[str, Tensor]:
        for expert in experts_of(self.evaluated).values():
            generator = generator_of(expert)
            assert generator is not None
            generator.refresh()
        return plain_weights(self.evaluated)


class EnsembleTrainer(GeneratorTrainer):
    """Trains a fresh ensemble, each expert by a loss of its own beside that of all."""

    def _objective(self, logits: Tensor, criterion: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        return ensemble_loss(logits, criterion), logits.mean(0)


def ensemble_loss(logits: Tensor, loss: Callable[[Tensor], Tensor], weight: float = 1.0) -> Tensor:
    """Loss of the mean logits, and ``weight`` times that of each expert's own.

    Args:
        logits: [experts, B, K]. loss: of logits [B, K].
    """
    return loss(logits.mean(0)) + weight * torch.stack([loss(own) for own in logits]).sum()
