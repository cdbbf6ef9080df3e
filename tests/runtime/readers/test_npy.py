"""A plain array file is one clip of one person."""

import io
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError
from runtime.readers import read_clips


def test_rows_are_read_and_lost_ones_dropped(tmp_path: Path) -> None:
    array = np.arange(4 * 5 * 3, dtype=np.float64).reshape(4, 5, 3) + 1
    array[2] = 0
    np.save(tmp_path / "wave.npy", array)
    (clip,) = read_clips(tmp_path / "wave.npy")
    np.testing.assert_array_equal(clip.joints, np.delete(array, 2, axis=0).astype(np.float32))
    assert (clip.name, clip.person_lengths, clip.dropped) == ("wave", (3,), 1)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no array",
        npy(np.ones((2, 5, 3)))[:-1],
        npy(np.ones((2, 5))),
        npy(np.ones((2, 5, 2))),
        npy(np.full((2, 5, 3), "x")),
        npy(np.full((2, 5, 3), None)),
        npy(np.zeros((2, 5, 3))),
    ],
    ids=["empty", "text", "cut", "two axes", "two coordinates", "strings", "objects", "nobody"],
)
def test_what_is_no_clip_names_the_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.npy").write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_clips(tmp_path / "bad.npy")
    assert "bad" in (caught.value.where or "")
