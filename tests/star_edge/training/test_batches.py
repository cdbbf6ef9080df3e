"""Batches of a training epoch: those of a plain loop over all clips in memory, though only one batch ever is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from star_edge.data import Dataset
from star_edge.training.augment import augment
from star_edge.training.batches import AugmentedBatches, featurise, group_by_frames, packed_batches, rows_of
from star_edge.training.recipe import get_recipe


def test_augmented_batches_are_those_of_a_plain_loop(tiny_dataset: Path) -> None:
    dataset, recipe = Dataset.open(tiny_dataset), get_recipe("default", frames_per_batch=200)
    skeleton, fitted = dataset.meta.skeleton, dataset.indices(None, "train")
    rng = np.random.default_rng(3)
    changed = [augment(dataset.clip(i), skeleton, recipe.augmentation, rng) for i in fitted]
    groups = group_by_frames(rows_of(changed), recipe.frames_per_batch, rng)
    batches = AugmentedBatches(dataset.clips(fitted), skeleton, recipe, np.random.default_rng(3))
    assert len(batches) == len(groups) > 3
    for _ in range(2):  # the same each time they are asked for
        for batch, expected in zip(batches, groups, strict=True):
            np.testing.assert_array_equal(batch.indices, expected)
            features, offsets = featurise([changed[i] for i in expected], skeleton, recipe.features)
            np.testing.assert_array_equal(batch.features, features)
            np.testing.assert_array_equal(batch.cu_seqlens, offsets)


def test_processes_share_the_same_batches(tiny_dataset: Path) -> None:
    dataset, recipe = Dataset.open(tiny_dataset), get_recipe("default", frames_per_batch=200)
    clips = dataset.clips(np.arange(12))

    def batches(rank: int, size: int) -> AugmentedBatches:
        return AugmentedBatches(clips, dataset.meta.skeleton, recipe, np.random.default_rng(3), rank, size)

    shares = [list(batches(rank, 5)) for rank in range(5)]
    for whole, *parts in zip(batches(0, 1), *shares, strict=True):
        np.testing.assert_array_equal(np.sort(np.concatenate([part.indices for part in parts])), np.sort(whole.indices))
        place = {int(clip): i for i, clip in enumerate(whole.indices)}
        for part in parts:
            assert part.size == whole.size == len(whole.indices)
            offsets = [whole.cu_seqlens[place[int(clip)]] for clip in part.indices]
            rows = [whole.features[start : start + n] for start, n in zip(offsets, np.diff(part.cu_seqlens), strict=True)]
            np.testing.assert_array_equal(part.features, np.concatenate([whole.features[:0], *rows]))
            if not part.clips:
                assert part.cu_seqlens.tolist() == [0]
    assert any(not part.clips for share in shares for part in share)


def test_making_batches_does_not_depend_on_what_is_drawn_meanwhile(tiny_dataset: Path) -> None:
    dataset, recipe = Dataset.open(tiny_dataset), get_recipe("default", frames_per_batch=200)
    rng = np.random.default_rng(0)
    batches = AugmentedBatches(dataset.clips(np.arange(10)), dataset.meta.skeleton, recipe, rng)
    first = [batch.features for batch in batches]
    rng.random(1000)
    for rows, again in zip(first, batches, strict=True):
        np.testing.assert_array_equal(rows, again.features)


def test_clips_of_a_dataset_are_read_when_asked_for(tiny_dataset: Path) -> None:
    dataset = Dataset.open(tiny_dataset)
    indices = np.array([7, 0, 3])
    clips = dataset.clips(indices)
    assert len(clips) == 3
    assert [len(clip) for clip in clips] == rows_of(clips).tolist() == dataset.lengths[indices].tolist()
    np.testing.assert_array_equal(clips[1].joints, dataset.clip(0).joints)
    assert [clip.name for clip in clips[1:]] == [dataset.names[0], dataset.names[3]]
    packed = list(packed_batches(clips, dataset.meta.skeleton, get_recipe("default").features, 10_000))
    assert len(packed) == 1
    assert packed[0][1].tolist() == [0, *np.cumsum(dataset.lengths[indices])]
