"""Reader of .npz clips: shapes and types are checked, damage is refused, nothing is unpickled."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InputError
from runtime.readers import read_clips
from runtime.readers.npz import load_npz


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    """Three clips of 4, 1 and 6 rows with 5 joints; the last has two persons."""
    base = {
        "xyz": np.random.default_rng(0).normal(size=(11, 5, 3)).astype(np.float32),
        "lengths": np.array([4, 1, 6], dtype=np.int32),
        "persons": np.array([1, 1, 2], dtype=np.int32),
        "names": np.array(["a", "b", "c"]),
    }
    return {name: value for name, value in (base | changes).items() if value is not None}


def write(path: Path, **changes: Any) -> Path:
    np.savez(path, **arrays(**changes))
    return path


def test_clips_and_persons(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz")
    clips = read_clips(path)
    xyz = arrays()["xyz"]
    assert [clip.name for clip in clips] == ["a", "b", "c"]
    assert [clip.person_lengths for clip in clips] == [(4,), (1,), (3, 3)]
    np.testing.assert_array_equal(np.concatenate([clip.joints for clip in clips]), xyz)


def test_lost_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    xyz = arrays()["xyz"]
    xyz[[1, 5]] = 0
    clips = read_clips(write(tmp_path / "x.npz", xyz=xyz))
    assert [(clip.person_lengths, clip.dropped) for clip in clips] == [((3,), 1), ((1,), 0), ((2, 3), 1)]


def test_one_clip_needs_joints_only(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", xyz=arrays()["xyz"].astype(np.float64))
    (clip,) = read_clips(tmp_path / "one.npz")
    assert (len(clip), clip.name, clip.joints.dtype) == (11, "one/0", np.float32)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"xyz": None}, "array is missing"),
        ({"xyz": np.zeros((11, 5), dtype=np.float32)}, "wrong shape"),
        ({"xyz": np.zeros((11, 5, 2), dtype=np.float32)}, "wrong shape"),
        ({"xyz": np.zeros((11, 5, 3), dtype=np.int32)}, "wrong type"),
        ({"xyz": np.full((11, 5, 3), np.nan, dtype=np.float32)}, "NaN"),
        ({"xyz": np.full((11, 5, 3), 1e300)}, "NaN or infinity"),
        ({"lengths": np.array([4, 1, 7])}, "does not cover"),
        ({"lengths": np.array([-1, 6, 6])}, "does not cover"),
        ({"lengths": np.array([], dtype=np.int32)}, "not usable"),
        ({"lengths": np.array([4.0, 1.0, 6.0])}, "not usable"),
        ({"lengths": np.array([2**63 - 1, 2**63 - 1, 13], dtype=np.int64)}, "does not cover"),
        ({"persons": np.array([1, 1, 4])}, "does not divide"),
        ({"persons": np.array([1, 0, 2])}, "does not divide"),
        ({"persons": np.array([1, 1])}, "does not fit"),
        ({"names": np.array(["a", "b"])}, "does not fit"),
        ({"names": np.array([1, 2, 3])}, "does not fit"),
        ({"extra": np.array([{"a": 1}], dtype=object)}, "cannot read"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    path = write(tmp_path / "x.npz", **changes)
    with pytest.raises(InputError, match=what) as caught:
        read_clips(path)
    assert caught.value.where == str(path)


def test_pickle_is_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return Path.touch, (marker,)

    path = write(tmp_path / "x.npz", extra=np.array([Trap()], dtype=object))
    with pytest.raises(InputError):
        load_npz(path)
    assert not marker.exists()


def test_column_must_fit_the_clips(tmp_path: Path) -> None:
    clips = load_npz(write(tmp_path / "x.npz", labels=np.array([0, 1]), subjects=np.array([1.0, 2.0, 3.0])))
    for name in ("labels", "subjects", "absent"):
        with pytest.raises(InputError):
            clips.column(name)


BUFFER = io.BytesIO()
np.savez_compressed(BUFFER, **arrays())
GOOD = BUFFER.getvalue()


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_archives_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    mutated = bytearray(GOOD)
    if data.draw(st.booleans()):
        del mutated[data.draw(st.integers(0, len(mutated) - 1)) :]
    for _ in range(data.draw(st.integers(0, 3))):
        if mutated:
            mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(bytes(mutated))
    try:
        clips = load_npz(path)
    except InputError:
        return
    assert np.isfinite(clips.xyz).all()


def test_real_files(real_data: Path) -> None:
    sbu = load_npz(real_data / "sbu_interaction.npz")
    first, second = sbu.person_rows(0)
    assert len(sbu) == 282
    assert len(first) == len(second)
    assert not np.array_equal(first, second)
    assert sum(len(clip) for clip in read_clips(real_data / "nw_ucla.npz")) == 58534
