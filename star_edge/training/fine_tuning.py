"""Training that goes on from weights at hand, for some epochs on the clips they were fitted on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from star_edge.models.registry import build_model
from star_edge.training.checkpoint import Checkpoint, ModelEntry
from star_edge.training.distillation import Teacher
from star_edge.training.loop import Task, Trainer
from star_edge.training.parallel import ALONE, Group
from star_edge.training.recipe import Recipe


class FineTuner(Trainer):
    """Trains from weights at hand.

    Args:
        task, recipe, out, seed, teacher, group: as for :class:`Trainer`.
        start: the weights to begin with, and the model they are of.
        start_sha256: of the checkpoint that ``start`` is, or was made from, so that a run is not continued on another one.
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
    ) -> None:
        self.start, self.start_sha256 = start, start_sha256
        super().__init__(task, start.model.name, recipe, out, seed, teacher=teacher, group=group)

    def _entry(self, model_name: str, attention: Any) -> ModelEntry:
        config, recipe = self.start.model.config, self.recipe
        rates = {name: getattr(recipe, name) for name in ("dropout", "attention_dropout", "head_dropout")}
        known = {name: rate for name, rate in rates.items() if hasattr(config, name)}
        return ModelEntry(model_name, msgspec.structs.replace(config, **known))

    def _build(self) -> nn.Module:
        model = build_model(self.model_entry.name, self.model_entry.config)
        model.load_state_dict(self.start.state_dict)
        return model

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "start": self.start_sha256}
