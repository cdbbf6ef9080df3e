"""Augmentation: what it may change, and what it must not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.clip import Clip
from star_edge.skeletons import COCO17, NTU25
from star_edge.training.augment import augment
from star_edge.training.recipe import DEFAULT, Augmentation


def clip(lengths: tuple[int, ...], seed: int = 0, joints: int = 25) -> Clip:
    rng = np.random.default_rng(seed)
    return Clip(rng.normal(size=(sum(lengths), joints, 3)).astype(np.float32), lengths)


def test_no_change_is_the_identity() -> None:
    before = clip((5, 3))
    after = augment(before, NTU25, Augmentation(), np.random.default_rng(0))
    assert after.person_lengths == before.person_lengths
    np.testing.assert_allclose(after.joints, before.joints, atol=1e-6)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=2), seed=st.integers(0, 1000))
def test_any_clip_stays_a_clip(lengths: list[int], seed: int) -> None:
    before = clip(tuple(lengths), seed)
    after = augment(before, NTU25, DEFAULT.augmentation, np.random.default_rng(seed))
    assert len(after.person_lengths) == len(lengths)
    assert min(after.person_lengths) >= 1
    assert np.isfinite(after.joints).all()
    assert after.joints.dtype == np.float32
    again = augment(before, NTU25, DEFAULT.augmentation, np.random.default_rng(seed))
    np.testing.assert_array_equal(after.joints, again.joints)


def test_lost_joints_stay_lost() -> None:
    before = clip((6,))
    before.joints[2:4, 7] = 0
    changes = Augmentation(yaw=90, tilt=20, scale=0.2, noise=0.1, jitter=0.1)
    after = augment(before, NTU25, changes, np.random.default_rng(0))
    np.testing.assert_array_equal((after.joints == 0).all(-1), (before.joints == 0).all(-1))


def test_mirroring_exchanges_left_and_right() -> None:
    before = clip((4,))
    after = augment(before, NTU25, Augmentation(mirror=1.0), np.random.default_rng(0))
    left, right = NTU25.joints.index("left_hand"), NTU25.joints.index("right_hand")
    np.testing.assert_allclose(after.joints[:, left], before.joints[:, right] * [-1, 1, 1], atol=1e-6)


def test_rotation_keeps_distances() -> None:
    before = clip((4,))
    after = augment(before, NTU25, Augmentation(yaw=180, tilt=180), np.random.default_rng(5))
    distances = [np.linalg.norm(x.joints[:, :, None] - x.joints[:, None], axis=-1) for x in (before, after)]
    np.testing.assert_allclose(*distances, atol=1e-4)
    assert not np.allclose(before.joints, after.joints, atol=0.1)


def test_swap_exchanges_whole_persons() -> None:
    before = clip((5, 3))
    after = augment(before, NTU25, Augmentation(swap=1.0), np.random.default_rng(0))
    assert after.person_lengths == (3, 5)
    np.testing.assert_allclose(after.joints[:3], before.joints[5:], atol=1e-6)


def test_speed_resamples_between_the_same_ends() -> None:
    line = np.linspace(1, 2, 11, dtype=np.float32)[:, None, None] * np.ones((1, 25, 3), np.float32)
    after = augment(Clip(line, (11,)), NTU25, Augmentation(speed=1.0), np.random.default_rng(1))
    assert len(after) != 11
    np.testing.assert_allclose(after.joints[:, 0, 0], np.linspace(1, 2, len(after)), atol=1e-6)


@pytest.mark.parametrize("changes", [Augmentation(tilt=90, noise=0.1), Augmentation(scale=0.5, jitter=0.1)])
def test_two_dimensional_scores_are_left_alone(changes: Augmentation) -> None:
    before = clip((4,), joints=17)
    after = augment(before, COCO17, changes, np.random.default_rng(0))
    np.testing.assert_array_equal(after.joints[..., 2], before.joints[..., 2])
    assert not np.allclose(after.joints[..., :2], before.joints[..., :2])
