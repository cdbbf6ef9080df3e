"""The packed wire format: round trip, and a message for each way to get it wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.clip import Clip, pack_clips
from runtime.errors import InputError
from runtime.packing import check_packed, cu_seqlens_of, pack, unpack


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6))
def test_pack_and_unpack_are_inverse(lengths: list[int]) -> None:
    clips = [np.random.default_rng(i).normal(size=(n, 3, 2)).astype(np.float32) for i, n in enumerate(lengths)]
    rows, cu_seqlens = pack(clips)
    check_packed(rows, cu_seqlens, joints=3, channels=2, allow_empty=True)
    for clip, back in zip(clips, unpack(rows, cu_seqlens), strict=True):
        np.testing.assert_array_equal(clip, back)


def batch() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((5, 4, 3), np.float32), np.array([0, 2, 5], np.int32)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows, cu: (rows[0], cu), "three axes"),
        (lambda rows, cu: (rows.astype(np.float64), cu), "float32"),
        (lambda rows, cu: (rows, cu.astype(np.int64)), "cu_seqlens must be int32"),
        (lambda rows, cu: (rows, cu[:1]), "no clips"),
        (lambda rows, cu: (rows, cu + 1), "start at 0"),
        (lambda rows, cu: (rows, np.array([0, 4, 2, 5], np.int32)), "descends"),
        (lambda rows, cu: (rows[:-1], cu), "does not end at the row count"),
        (lambda rows, cu: (rows, np.array([0, 2, 2, 5], np.int32)), "empty clip"),
        (lambda rows, cu: (np.full_like(rows, np.nan), cu), "NaN or infinity"),
        (lambda rows, cu: (rows[:, :3], cu), "wrong joint count"),
        (lambda rows, cu: (rows[..., :2], cu), "wrong channel count"),
    ],
)
def test_each_defect_is_named(spoil, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_packed(*spoil(*batch()), joints=4, channels=3)


def test_a_valid_batch_passes() -> None:
    check_packed(*batch(), joints=4, channels=3)


def test_clips_drop_rows_without_a_body_and_count_them() -> None:
    person = np.ones((4, 25, 3), np.float32)
    person[1] = 0
    clip = Clip.from_persons([person, np.zeros((4, 25, 3), np.float32)])
    assert (clip.person_lengths, clip.dropped, len(clip)) == ((3,), 5, 3)


def test_a_clip_without_any_body_is_refused() -> None:
    with pytest.raises(InputError, match="without any tracked body"):
        Clip.from_persons([np.zeros((4, 25, 3), np.float32)], name="S001")


def test_pack_clips_gives_person_lengths_of_the_widest_clip() -> None:
    one, two = (Clip.from_persons([np.ones((n, 25, 3), np.float32) for n in lengths]) for lengths in ([3], [2, 4]))
    joints, cu_seqlens, person_lengths = pack_clips([one, two])
    assert joints.shape == (9, 25, 3)
    np.testing.assert_array_equal(cu_seqlens, cu_seqlens_of([3, 6]))
    np.testing.assert_array_equal(person_lengths, [[3, 0], [2, 4]])
