"""Packed batches by frame budget: clips of similar length share a batch, nothing is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from runtime.clip import Clip, pack_clips
from runtime.features import FeatureRecipe, compute_features
from runtime.skeleton import Skeleton
from star_edge.data.dataset import Clips
from star_edge.training.augment import augment
from star_edge.training.recipe import Recipe


def group_by_frames(lengths: np.ndarray, budget: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
    """Split clips 0..N-1 into groups of at most ``budget`` rows (a longer clip alone).

    Without ``rng`` clips keep their order. With it, clips of similar length meet (lengths are compared after a random
    change of up to 20 %), and groups come in random order.
    """
    order = np.arange(len(lengths))
    if rng is not None:
        order = rng.permutation(len(lengths))
        order = order[np.argsort(lengths[order] * rng.uniform(0.8, 1.25, len(lengths)), kind="stable")]
    groups: list[list[int]] = []
    rows = budget + 1
    for clip in order:
        rows += int(lengths[clip])
        if rows > budget:
            groups.append([])
            rows = int(lengths[clip])
        groups[-1].append(int(clip))
    if rng is not None:
        groups = [groups[i] for i in rng.permutation(len(groups))]
    return [np.array(group) for group in groups]


def featurise(clips: Sequence[Clip], skeleton: Skeleton, recipe: FeatureRecipe) -> tuple[np.ndarray, np.ndarray]:
    """Pack clips and compute their features: float32 [F, V, C], int32 cu_seqlens [B+1]."""
    joints, cu_seqlens, person_lengths = pack_clips(clips)
    return compute_features(joints, person_lengths, skeleton, recipe), cu_seqlens


def packed_batches(
    clips: Sequence[Clip], skeleton: Skeleton, recipe: FeatureRecipe, budget: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Features, cu_seqlens and clip indices of all clips in order, batch by batch."""
    for group in group_by_frames(rows_of(clips), budget):
        yield (*featurise([clips[i] for i in group], skeleton, recipe), group)


class AugmentedBatches:
    """One epoch of randomly changed clips, packed in random order; the same for the same state of ``rng``.

    One batch at a time is in memory, however many clips there are: a clip is changed once to learn how long it becomes, and
    again from the same state of the generator when its batch is made, a few thousandths of what training on it costs.

    Args:
        rng: what it draws next is independent of when batches are asked for.
    """

    def __init__(self, clips: Sequence[Clip], skeleton: Skeleton, recipe: Recipe, rng: np.random.Generator) -> None:
        self._clips, self._skeleton, self._recipe = clips, skeleton, recipe
        self._states = []
        lengths = np.empty(len(clips), dtype=np.int64)
        for i, clip in enumerate(clips):
            self._states.append(rng.bit_generator.state)
            lengths[i] = len(augment(clip, skeleton, recipe.augmentation, rng))
        self._groups = group_by_frames(lengths, recipe.frames_per_batch, rng)

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Features, cu_seqlens and clip indices, batch by batch."""
        rng = np.random.default_rng()
        for group in self._groups:
            clips = []
            for i in group:
                rng.bit_generator.state = self._states[i]
                clips.append(augment(self._clips[i], self._skeleton, self._recipe.augmentation, rng))
            yield (*featurise(clips, self._skeleton, self._recipe.features), group)


def rows_of(clips: Sequence[Clip]) -> np.ndarray:
    """Rows of each clip [N], without reading the clips of a dataset."""
    return clips.lengths if isinstance(clips, Clips) else np.array([len(clip) for clip in clips])
