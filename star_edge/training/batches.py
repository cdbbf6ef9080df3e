"""Packed batches by frame budget: clips of similar length share a batch, nothing is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from runtime.clip import Clip, pack_clips
from runtime.features import FeatureRecipe, compute_features
from runtime.skeleton import Skeleton


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
    for group in group_by_frames(np.array([len(clip) for clip in clips]), budget):
        yield (*featurise([clips[i] for i in group], skeleton, recipe), group)
