"""Quantisation-aware training: a checkpoint's weights, trained on for a few epochs while their INT8 is faked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from calibration.selection import stratified
from runtime.errors import InputError
from runtime.files import sha256_of
from star_edge.data.recorded import Recorded, open_recorded, split_to_fit
from star_edge.models.config import StarConfig
from star_edge.models.star import Star
from star_edge.training.batches import packed_batches, rows_of
from star_edge.training.checkpoint import Checkpoint, QuantisationEntry, load_checkpoint
from star_edge.training.evaluate import FRAMES_PER_BATCH
from star_edge.training.fake_quant import find_ranges, get_ranges, insert_quantisers, set_ranges
from star_edge.training.fine_tuning import FineTuner
from star_edge.training.loop import Task
from star_edge.training.recipe import QAT, Recipe, continued_recipe

_CALIBRATION_CLIPS = 128


class QatTrainer(FineTuner):
    """Trains from a checkpoint; what it validates, and keeps the best epoch of, is the model as quantised.

    Ranges are taken from fitted clips when an epoch begins, so they follow the weights. ``ckpt.pt`` holds the weights under their
    plain names, and the ranges they were validated with.

    Args:
        task, recipe, out, seed: as for :class:`Trainer`.
        path: of the checkpoint to begin with; ``start`` is what it holds.
    """

    def __init__(self, task: Task, path: Path, start: Checkpoint, recipe: Recipe, out: Path, seed: int = 0) -> None:
        self.path = path
        places = np.arange(len(task.fit)).astype(str)
        chosen = stratified(places, task.fit_labels, rows_of(task.fit), _CALIBRATION_CLIPS)
        self.calibration = [task.fit[clip] for clip in chosen]
        super().__init__(task, start, sha256_of(path), recipe, out, seed)

    @classmethod
    def of(cls, path: Path, data: Path | None, split: str | None, out: Path, seed: int = 0, **changes: Any) -> QatTrainer:
        """Train a checkpoint on, on the parts of its split that it was fitted on.

        Args:
            path: the checkpoint.
            data: a dataset; default: the recorded one.
            split: scheme, if given it has to be the recorded one.
            out, seed: as for :class:`Trainer`.
            changes: fields of the recipe to replace, unless None.

        Raises InputError (a file that cannot be used, no data), MismatchError (another skeleton, split or classes, changed data).
        """
        if path.resolve() == (out / "ckpt.pt").resolve():
            raise InputError("the checkpoint to begin with would be overwritten", where=path, hint="another --out")
        start = load_checkpoint(path)
        config = start.model.config
        if not isinstance(config, StarConfig) or config.experts > 1:
            raise InputError(
                "only STAR is trained with its INT8 faked",
                where=path,
                found=start.model.name if config.experts == 1 else f"an ensemble of {config.experts}",
                expected="star-64 or star-128",
                hint="star-edge export and star-edge calibrate need no training",
            )
        trained = start.data
        scheme = split_to_fit(trained.split, split, path)
        dataset = open_recorded(Recorded.in_checkpoint(start), data, f"train --qat {path}")
        task = Task.of(dataset, scheme, trained.fitted)
        return cls(
            task, path, start, continued_recipe(start.model.name, start.recipe, start.features, QAT, **changes), out, seed
        )

    def _build(self) -> nn.Module:
        model = super()._build()
        assert isinstance(model, Star)
        insert_quantisers(model)
        return model

    def _fit_epoch(self) -> tuple[float, float]:
        set_ranges(self.model, find_ranges(self.model, self._calibration_batches))
        return super()._fit_epoch()

    def _is_better(self, validation: float) -> bool:
        """Of equal ones the last, whose weights have settled; they all begin where val is good already."""
        return validation >= self.best

    def _calibration_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, cu_seqlens, _ in packed_batches(
            self.calibration, self.task.skeleton, self.recipe.features, FRAMES_PER_BATCH
        ):
            yield torch.from_numpy(rows), torch.from_numpy(cu_seqlens)

    def _checkpoint(self, accuracy: float, validation: float | None) -> Checkpoint:
        saved = super()._checkpoint(accuracy, validation)
        saved.state_dict = {name: saved.state_dict[name] for name in self.start.state_dict}
        saved.quantisation = QuantisationEntry(str(self.path), self.start_sha256, get_ranges(self.model))
        return saved
