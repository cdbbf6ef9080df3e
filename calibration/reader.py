"""The calibration data reader: one clip at a time, as it came from the camera; no batch, no padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.features import FeatureRecipe, compute_features
from runtime.packing import cu_seqlens_of

if TYPE_CHECKING:
    from star_edge.data import Dataset

Track = Callable[..., Iterable[Any]]  # (items, description, total) -> the same items, with a progress bar
Inputs = dict[str, np.ndarray]


class ClipReader:
    """Feeds the clips of a dataset to a calibrator; a ``CalibrationDataReader`` as ONNX Runtime and ModelOpt expect it.

    ModelOpt's own readers take arrays and cut each of them on its own, which tears ``features`` from ``cu_seqlens`` and,
    with an open first axis, feeds single rows.

    Args:
        dataset: where the clips are.
        clips: int [N], their indices, in the order they are fed.
        recipe: from joints to features.
        track: wraps one pass over the clips for a progress bar.
    """

    def __init__(self, dataset: Dataset, clips: np.ndarray, recipe: FeatureRecipe, track: Track | None = None) -> None:
        self._dataset, self._clips, self._recipe, self._track = dataset, clips, recipe, track
        self._pass: Iterator[int] = iter(())
        self._label = ""
        self.clip_name = ""

    def __len__(self) -> int:
        return len(self._clips)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the clips, in the order they are fed."""
        return tuple(str(name) for name in self._dataset.names[self._clips])

    def start(self, label: str) -> ClipReader:
        """Begin a pass whose progress bar reads ``label``; iterating over the reader then yields the inputs of each clip."""
        self._label = label
        self.rewind()
        return self

    def rewind(self) -> None:
        """Begin again at the first clip."""
        tracked = self._track(self._clips, self._label, len(self)) if self._track else self._clips
        self._pass = iter(tracked)

    def get_first(self) -> Inputs:
        """Inputs of the first clip; does not move the pass."""
        return self._inputs(int(self._clips[0]))

    def get_next(self) -> Inputs | None:
        """``features`` float32 [n, V, C] and ``cu_seqlens`` int32 [2] of the next clip, None behind the last one.

        Raises InputError when its joints are not finite.
        """
        clip = next(self._pass, None)
        return None if clip is None else self._inputs(int(clip))

    def __iter__(self) -> Iterator[Inputs]:
        while (inputs := self.get_next()) is not None:
            yield inputs

    def _inputs(self, index: int) -> Inputs:
        clip = self._dataset.clip(index)
        self.clip_name = clip.name
        persons = np.array([clip.person_lengths], dtype=np.int32)
        features = compute_features(clip.joints, persons, self._dataset.meta.skeleton, self._recipe)
        return {"features": features, "cu_seqlens": cu_seqlens_of([len(clip)])}
