"""Packed batches by frame budget: clips of similar length share a batch, nothing is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

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


class Batch(NamedTuple):
    """This process's part of a batch.

    Attributes:
        clips: as they were changed. features: float32 [F, V, C]. cu_seqlens: int32 [B + 1].
        indices: of the clips among all, int [B].
        size: clips of the whole batch.
    """

    clips: list[Clip]
    features: np.ndarray
    cu_seqlens: np.ndarray
    indices: np.ndarray
    size: int


class AugmentedBatches:
    """One epoch of randomly changed clips, packed in random order; the same for the same state of ``rng``.

    One batch at a time is in memory, however many clips there are: a clip is changed once to learn how long it becomes, and
    again from the same state of the generator when its batch is made, a few thousandths of what training on it costs.

    Args:
        rng: what it draws next is independent of when batches are asked for.
        rank, size: which of how many processes this is that share each batch, with about as many rows each; batches are the
            same whatever their number.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        skeleton: Skeleton,
        recipe: Recipe,
        rng: np.random.Generator,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self._clips, self._skeleton, self._recipe, self._rank, self._size = clips, skeleton, recipe, rank, size
        self._states = []
        self._lengths = np.empty(len(clips), dtype=np.int64)
        for i, clip in enumerate(clips):
            self._states.append(rng.bit_generator.state)
            self._lengths[i] = len(augment(clip, skeleton, recipe.augmentation, rng))
        self._groups = group_by_frames(self._lengths, recipe.frames_per_batch, rng)

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Batch]:
        """Batch by batch."""
        for group in self._groups:
            own = group[deal(self._lengths[group], self._size)[self._rank]]
            clips = [self._changed(int(i)) for i in own]
            yield Batch(clips, *self._featurise(clips), own, len(group))

    def _changed(self, index: int) -> Clip:
        rng = np.random.default_rng()
        rng.bit_generator.state = self._states[index]
        return augment(self._clips[index], self._skeleton, self._recipe.augmentation, rng)

    def _featurise(self, clips: Sequence[Clip]) -> tuple[np.ndarray, np.ndarray]:
        features = self._recipe.features
        if clips:
            return featurise(clips, self._skeleton, features)
        return np.zeros((0, self._skeleton.num_joints, features.channels), np.float32), np.zeros(1, np.int32)


def deal(rows: np.ndarray, hands: int) -> list[np.ndarray]:
    """Split clips with ``rows`` [N] into as many parts with about as many rows each: the longest first, to whoever has least.

    Parts may be empty; each is in ascending order.
    """
    parts: list[list[int]] = [[] for _ in range(hands)]
    loads = np.zeros(hands, dtype=np.int64)
    for clip in np.argsort(-rows, kind="stable"):
        hand = int(loads.argmin())
        parts[hand].append(int(clip))
        loads[hand] += rows[clip]
    return [np.array(sorted(part), dtype=np.int64) for part in parts]


def most_persons(clips: Sequence[Clip]) -> int:
    """The most persons of any clip, without reading the clips of a dataset; 1 for no clips."""
    persons = clips.persons if isinstance(clips, Clips) else [len(clip.person_lengths) for clip in clips]
    return int(max(persons, default=1))


def rows_of(clips: Sequence[Clip]) -> np.ndarray:
    """Rows of each clip [N], without reading the clips of a dataset."""
    return clips.lengths if isinstance(clips, Clips) else np.array([len(clip) for clip in clips])
