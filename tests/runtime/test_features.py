"""Features against a float64 reference written joint by joint from the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.features import FeatureRecipe, compute_features
from runtime.skeleton import Skeleton
from star_edge.skeletons import COCO17, LAYOUTS, NTU25


def naive_features(joints: np.ndarray, person_lengths: np.ndarray, skeleton: Skeleton, recipe: FeatureRecipe) -> np.ndarray:
    dims = skeleton.dims
    xyz = joints.astype(np.float64)[..., :dims]
    lost = (xyz == 0).all(-1)
    position, bone, motion = np.zeros_like(xyz), np.zeros_like(xyz), np.zeros_like(xyz)
    start = 0
    for persons in person_lengths:
        rows = range(start, start + sum(persons))
        centre = np.zeros(dims)
        first = next((n for n in persons if n), 0)
        for f in range(start, start + first):
            if not lost[f, skeleton.root]:
                centre = xyz[f, skeleton.root]
                break
        for f in rows:
            for v in range(skeleton.num_joints):
                if not lost[f, v]:
                    position[f, v] = xyz[f, v] - (centre if recipe.centre == "root" else 0)
        for f in rows:
            for child, parent in skeleton.bones:
                if not (lost[f, child] or lost[f, parent]):
                    bone[f, child] = position[f, child] - position[f, parent]
        for n in persons:
            for f in range(start, start + n - 1):
                for v in range(skeleton.num_joints):
                    if not (lost[f, v] or lost[f + 1, v]):
                        motion[f, v] = position[f + 1, v] - position[f, v]
            if n > 1:
                motion[start + n - 1] = motion[start + n - 2]
            start += n
    parts = [position, bone, motion] if recipe.channels in (9, 10) else [position]
    if dims == 2:
        parts = [np.concatenate([part, joints[..., 2:]], -1) for part in parts]
    return np.concatenate(parts, -1)


@given(
    persons=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
    layout=st.sampled_from(sorted(LAYOUTS)),
    channels=st.sampled_from([3, 4, 9, 10]),
    centre=st.sampled_from(["root", "none"]),
)
def test_equals_naive(persons: list, seed: int, layout: str, channels: int, centre: str) -> None:
    rng = np.random.default_rng(seed)
    skeleton, lengths = LAYOUTS[layout], np.array(persons)
    joints = rng.normal(size=(lengths.sum(), skeleton.num_joints, 3)).astype(np.float32)
    joints[rng.random(joints.shape[:2]) < 0.2] = 0
    recipe = FeatureRecipe(channels=channels, centre=centre)
    made = compute_features(joints, lengths, skeleton, recipe)
    if channels in (4, 10):
        numbers = [person for row in persons for person, rows in enumerate(row) for _ in range(rows)]
        np.testing.assert_array_equal(made[..., -1], np.repeat(np.array(numbers)[:, None], skeleton.num_joints, axis=1))
        made, channels = made[..., :-1], channels - 1
    assert made.dtype == np.float32
    assert made.shape == (*joints.shape[:2], channels)
    np.testing.assert_allclose(made, naive_features(joints, lengths, skeleton, recipe), atol=1e-5)


def test_distance_between_persons_survives_centring() -> None:
    joints = np.random.default_rng(0).normal(size=(6, 25, 3)).astype(np.float32)
    made = compute_features(joints, np.array([[3, 3]]), NTU25)
    np.testing.assert_allclose(made[3, 0, :3] - made[0, 0, :3], joints[3, 0] - joints[0, 0], atol=1e-6)
    np.testing.assert_array_equal(made[0, NTU25.root, :3], 0)


def test_motion_stops_at_a_person_boundary() -> None:
    joints = np.ones((4, 25, 3), dtype=np.float32)
    joints[2:] += 100
    assert not compute_features(joints, np.array([[2, 2]]), NTU25)[..., 6:].any()


def test_one_row_person_has_no_motion() -> None:
    joints = np.random.default_rng(0).normal(size=(1, 25, 3)).astype(np.float32)
    assert not compute_features(joints, np.array([[1]]), NTU25)[..., 6:].any()


def test_two_dimensional_parts_carry_the_score() -> None:
    joints = np.random.default_rng(0).uniform(0.1, 1, (5, 17, 3)).astype(np.float32)
    made = compute_features(joints, np.array([[5]]), COCO17)
    for part in range(3):
        np.testing.assert_array_equal(made[..., 3 * part + 2], joints[..., 2])


@pytest.mark.parametrize("clips", [1, 3])
def test_a_clip_has_the_same_features_alone_and_packed(clips: int) -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 5, (clips, 2))
    joints = rng.normal(size=(lengths.sum(), 25, 3)).astype(np.float32)
    packed = compute_features(joints, lengths, NTU25)
    starts = np.concatenate([[0], np.cumsum(lengths.sum(1))])
    for clip in range(clips):
        rows = slice(starts[clip], starts[clip + 1])
        np.testing.assert_array_equal(packed[rows], compute_features(joints[rows], lengths[clip : clip + 1], NTU25))
