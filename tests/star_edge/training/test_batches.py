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
        for (rows, cu_seqlens, group), expected in zip(batches, groups, strict=True):
            np.testing.assert_array_equal(group, expected)
            features, offsets = featurise([changed[i] for i in expected], skeleton, recipe.features)
            np.testing.assert_array_equal(rows, features)
            np.testing.assert_array_equal(cu_seqlens, offsets)


def test_making_batches_does_not_depend_on_what_is_drawn_meanwhile(tiny_dataset: Path) -> None:
    dataset, recipe = Dataset.open(tiny_dataset), get_recipe("default", frames_per_batch=200)
    rng = np.random.default_rng(0)
    batches = AugmentedBatches(dataset.clips(np.arange(10)), dataset.meta.skeleton, recipe, rng)
    first = [rows for rows, _, _ in batches]
    rng.random(1000)
    for rows, again in zip(first, (rows for rows, _, _ in batches), strict=True):
        np.testing.assert_array_equal(rows, again)


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
