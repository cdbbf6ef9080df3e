"""NTU .skeleton reader: files built here line by line, edited copies of real files, and arbitrary bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InputError
from runtime.readers import read_clips
from runtime.readers.ntu import LINK_METRES, NtuName, motion, parse_ntu, read_ntu

Frame = list[tuple[int, np.ndarray]]  # bodies of one frame: id and joints [25, 3]


def joints(seed: int, at: float = 0.0) -> np.ndarray:
    """A body around x = ``at`` whose joints are multiples of 1/64, so that text and float32 hold them exactly."""
    rng = np.random.default_rng(seed)
    return rng.integers(-20, 21, (25, 3)) / 64 + np.array([at, 0.0, 3.0])


def skeleton(frames: list[Frame], newline: str = "\n") -> bytes:
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for identity, xyz in bodies:
            lines += [f"{identity} 0 1 1 1 1 0 0.1 -0.2 2", "25"]
            lines += [f"{x:.7g} {y:.7g} {z:.7g} 1 2 3 4 0 0 0 0 2" for x, y, z in xyz]
    return (newline.join(lines) + newline).encode()


def moving(seed: int, frames: int, at: float = 0.0, speed: float = 0.0) -> list[np.ndarray]:
    return [joints(seed, at) + np.array([0.0, speed * t, 0.0]) for t in range(frames)]


def test_coordinates_are_exact() -> None:
    body = moving(0, 5)
    recording = parse_ntu(skeleton([[(7, xyz)] for xyz in body]))
    assert recording.clip.joints.dtype == np.float32
    np.testing.assert_array_equal(recording.clip.joints, np.array(body, dtype=np.float32))
    assert (recording.frames, recording.persons, recording.clip.person_lengths, recording.clip.dropped) == (5, 1, (5,), 0)


def test_line_ends_do_not_matter() -> None:
    frames: list[Frame] = [[(7, joints(t))] for t in range(4)]
    unix, windows = (parse_ntu(skeleton(frames, newline)).clip for newline in ("\n", "\r\n"))
    np.testing.assert_array_equal(unix.joints, windows.joints)
    assert len(parse_ntu(skeleton(frames).rstrip(b"\n")).clip) == 4


def test_persons_stand_by_motion_whatever_their_ids() -> None:
    still, lively = moving(1, 6, at=-2.0), moving(2, 6, at=2.0, speed=0.25)
    for low, high in ((1, 2), (2, 1)):
        clip = parse_ntu(skeleton([[(low, a), (high, b)] for a, b in zip(still, lively, strict=True)])).clip
        assert clip.person_lengths == (6, 6)
        np.testing.assert_array_equal(clip.joints[:6], np.array(lively, dtype=np.float32))
        np.testing.assert_array_equal(clip.joints[6:], np.array(still, dtype=np.float32))


def test_two_most_moving_of_three_are_kept() -> None:
    bodies = [moving(3, 8, at=at, speed=speed) for at, speed in ((-3.0, 0.25), (0.0, 0.0), (3.0, 0.5))]
    recording = parse_ntu(skeleton([[(i, bodies[i][t]) for i in range(3)] for t in range(8)]))
    assert recording.persons == 3
    expected = np.array(bodies[2] + bodies[0], dtype=np.float32)
    np.testing.assert_array_equal(recording.clip.joints, expected)


def test_frames_without_body_are_dropped_and_counted() -> None:
    body = moving(4, 6)
    frames: list[Frame] = [[] if t in (0, 3) else [(5, body[t])] for t in range(6)]
    recording = parse_ntu(skeleton(frames))
    assert (recording.frames, recording.clip.person_lengths, recording.clip.dropped) == (6, (4,), 2)
    np.testing.assert_array_equal(recording.clip.joints, np.array([body[t] for t in (1, 2, 4, 5)], dtype=np.float32))


def test_body_of_zeros_is_lost_in_that_frame() -> None:
    body = moving(5, 4)
    body[2] = np.zeros((25, 3))
    recording = parse_ntu(skeleton([[(5, xyz)] for xyz in body]))
    assert (recording.clip.person_lengths, recording.clip.dropped) == ((3,), 1)


def test_body_that_appears_late() -> None:
    first, late = moving(6, 6, at=-2.0), moving(7, 6, at=2.0)
    frames: list[Frame] = [[(1, first[t])] + ([(9, late[t])] if t >= 4 else []) for t in range(6)]
    clip = parse_ntu(skeleton(frames)).clip
    assert sorted(clip.person_lengths) == [2, 6]
    assert clip.dropped == 4


def test_new_id_at_the_same_place_continues_the_person() -> None:
    body = moving(8, 6, speed=0.0625)
    recording = parse_ntu(skeleton([[(100 if t < 3 else 200, body[t])] for t in range(6)]))
    assert (recording.persons, recording.clip.person_lengths) == (1, (6,))
    np.testing.assert_array_equal(recording.clip.joints, np.array(body, dtype=np.float32))


def test_new_id_elsewhere_is_another_person() -> None:
    here, there = joints(9), joints(9, at=LINK_METRES * 2)
    recording = parse_ntu(skeleton([[(1, here)]] * 3 + [[(2, there)]] * 3))
    assert (recording.persons, recording.clip.person_lengths, recording.clip.dropped) == (2, (3, 3), 6)


def test_two_persons_who_both_change_ids() -> None:
    left, right = moving(10, 6, at=-1.0), moving(11, 6, at=1.0, speed=0.125)
    frames: list[Frame] = [[(1 if t < 3 else 3, left[t]), (2 if t < 3 else 4, right[t])] for t in range(6)]
    recording = parse_ntu(skeleton(frames))
    assert recording.persons == 2
    np.testing.assert_array_equal(recording.clip.joints, np.array(right + left, dtype=np.float32))


def test_motion_is_the_sum_of_standard_deviations_over_tracked_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 25, 3))
    rows[3] = 0
    tracked = np.delete(rows, 3, axis=0)
    assert motion(rows) == pytest.approx(sum(np.std(tracked[:, :, c]) for c in range(3)))
    assert motion(np.zeros((4, 25, 3))) == 0


GOOD = skeleton([[(1, joints(0))], [(1, joints(1)), (2, joints(2, at=2.0))]])


@pytest.mark.parametrize(
    ("data", "what", "line"),
    [
        (b"", "truncated", 0),
        (b"0\n", "without frames", 1),
        (b"x\n", "corrupt", 1),
        (b"-3\n", "corrupt", 1),
        (b"1_0\n", "corrupt", 1),
        (b"5\n", "truncated", 0),
        (GOOD.replace(b"\n25\n", b"\n24\n", 1), "wrong joint count", 4),
        (GOOD.replace(b"\n2\n", b"\n9\n", 1), "truncated", 0),
        (GOOD[: len(GOOD) // 2], "truncated", 0),
        (GOOD[:-40], "truncated", 84),
        (GOOD + b"1\n", "text after the last frame", 85),
        (GOOD.replace(b" 1 2 3 4 ", b" 1 2 3 ", 1), "corrupt", 5),
        (GOOD.replace(b"1 0 1 1 1 1 0 0.1", b"one 0 1 1 1 1 0 0.1", 1), "corrupt", 3),
        (GOOD.replace(b"2 0 1 1 1 1 0 0.1", b"1 0 1 1 1 1 0 0.1", 1), "corrupt", 58),
    ],
)
def test_damage_is_named_with_its_line(data: bytes, what: str, line: int) -> None:
    line = line or len(data.splitlines()) + 1  # a truncated file lacks the line after its last
    with pytest.raises(InputError, match=what) as caught:
        parse_ntu(data, where="S001.skeleton")
    assert caught.value.where == f"S001.skeleton, line {line}"
    assert caught.value.found
    assert caught.value.expected


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e99", "1_0", "abc", "0x1"])
def test_coordinates_must_be_finite_numbers(value: str) -> None:
    lines = GOOD.decode().split("\n")
    lines[10] = " ".join([value, *lines[10].split()[1:]])
    with pytest.raises(InputError) as caught:
        parse_ntu("\n".join(lines).encode(), where="f")
    assert caught.value.where == "f, line 11"


@pytest.mark.parametrize("value", [".5", "5e-1", "+0.5", "0.50", "00.5", "5.E-1"])
@pytest.mark.parametrize("space", [b" ", b"  ", b"\t"])
def test_however_numbers_and_spaces_are_written(value: str, space: bytes) -> None:
    frames: list[Frame] = [[(1, body)] for body in moving(0, 3)]
    plain = skeleton(frames).splitlines()
    plain[4] = b"0.5 " + plain[4].split(b" ", 1)[1]
    other = [*plain[:4], plain[4].replace(b"0.5", value.encode(), 1).replace(b" ", space), *plain[5:]]
    expected, found = (parse_ntu(b"\n".join(lines)).clip.joints for lines in (plain, other))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "line", [b" 1 2 3 1 2 3 4 0 0 0 2", b"1 2 3 1 2 3 4 0 0 0 2 ", b"1 2  1 2 3 4 0 0 0 0 2", b"1,2 3 1 2 3 4 0 0 0 0 2 7"]
)
def test_fields_are_counted(line: bytes) -> None:
    lines = skeleton([[(1, body)] for body in moving(0, 3)]).splitlines()
    lines[4] = line
    with pytest.raises(InputError, match="corrupt"):
        parse_ntu(b"\n".join(lines))


@given(st.lists(st.floats(-1e6, 1e6), min_size=75, max_size=75))
def test_every_digit_counts(values: list[float]) -> None:
    """Numbers are rounded to float64 and then to float32 as Python and numpy do."""
    lines = [" ".join([*map(repr, values[i : i + 3]), "1 2 3 4 0 0 0 0 2"]) for i in range(0, 75, 3)]
    data = "\n".join(["1", "1", "7 0 1 1 1 1 0 0.1 -0.2 2", "25", *lines]).encode()
    if any(np.float32(values)):
        np.testing.assert_array_equal(parse_ntu(data).clip.joints, np.array(values).astype(np.float32).reshape(1, 25, 3))


def test_columns_nobody_reads_may_hold_anything() -> None:
    data = GOOD.replace(b" 1 2 3 4 0 0 0 0 2", b" NaN -1.#IND 3 4 0 0 0 0 2")
    np.testing.assert_array_equal(parse_ntu(data).clip.joints, parse_ntu(GOOD).clip.joints)


def test_file_without_any_body() -> None:
    for frames in ([[], [], []], [[(1, np.zeros((25, 3)))]]):
        with pytest.raises(InputError, match="no body in any frame"):
            parse_ntu(skeleton(frames))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        parse_ntu(data)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_mutated_files_are_read_or_refused(data: st.DataObject) -> None:
    mutated = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(mutated)))
        stop = data.draw(st.integers(start, min(len(mutated), start + 40)))
        mutated[start:stop] = data.draw(st.binary(max_size=12))
    try:
        clip = parse_ntu(bytes(mutated)).clip
    except InputError:
        return
    assert np.isfinite(clip.joints).all()
    assert sum(clip.person_lengths) == len(clip) > 0


@settings(deadline=None, max_examples=100)
@given(st.integers(0, len(GOOD) - 3))
def test_truncated_files_are_refused(size: int) -> None:
    with pytest.raises(InputError):
        parse_ntu(GOOD[:size])


def test_file_names() -> None:
    name = NtuName.parse("S017C003P040R002A060")
    assert name == NtuName(setup=17, camera=3, performer=40, repetition=2, action=60)
    assert str(name) == "S017C003P040R002A060"
    for stem in ("", "S1C1P1R1A1", "S001C001P001R001A000", "S001C001P001R001A001_copy", "xS001C001P001R001A001"):
        with pytest.raises(InputError, match="file name"):
            NtuName.parse(stem)


# frames and persons as counted in the data set's own files; line ends differ between them
REAL = {
    "S001C001P001R001A001": (103, 1),
    "S001C001P001R001A011": (82, 1),
    "S001C001P001R001A050": (74, 2),
    "S001C003P008R002A058": (70, 2),
    "S002C001P003R001A003": (100, 1),
    "S003C001P015R001A034": (71, 1),
    "S004C002P003R001A017": (124, 1),
}


@pytest.mark.parametrize("stem", REAL)
def test_real_files(real_data: Path, stem: str) -> None:
    frames, persons = REAL[stem]
    (clip,) = read_clips(real_data / "ntu_samples" / f"{stem}.skeleton")
    assert clip.name == stem
    assert clip.person_lengths == (frames,) * persons
    assert clip.dropped == 0
    parts = np.split(clip.joints, persons)
    assert [motion(part) for part in parts] == sorted((motion(part) for part in parts), reverse=True)
    spine = np.linalg.norm(clip.joints[:, 20] - clip.joints[:, 0], axis=-1)
    assert 0.35 < np.median(spine) < 0.65  # metres, a human back


def test_first_joint_of_a_real_file(real_data: Path) -> None:
    clip = read_ntu(real_data / "ntu_samples" / "S001C001P001R001A001.skeleton").clip
    np.testing.assert_array_equal(clip.joints[0, 0], np.array([0.2181153, 0.1725972, 3.785547], dtype=np.float32))


def split_frames(data: bytes) -> list[list[bytes]]:
    """A real file as frames of bodies, each body its 27 lines, for the edits below."""
    lines, at, frames = data.splitlines(), 1, []
    for _ in range(int(lines[0])):
        count, at = int(lines[at]), at + 1
        frames.append([b"\n".join(lines[at + 27 * i : at + 27 * (i + 1)]) for i in range(count)])
        at += 27 * count
    return frames


def join_frames(frames: list[list[bytes]]) -> bytes:
    parts = [str(len(frames)).encode()]
    for bodies in frames:
        parts += [str(len(bodies)).encode(), *bodies]
    return b"\n".join(parts) + b"\n"


def test_edited_real_file_missing_and_late_body(real_data: Path) -> None:
    """S001C001P001R001A050 with edits: nobody in frames 5 to 9, and one of the two bodies only from frame 30 on."""
    data = (real_data / "ntu_samples" / "S001C001P001R001A050.skeleton").read_bytes()
    frames = split_frames(data)
    edited = [[] if 5 <= t < 10 else bodies[:1] if t < 30 else bodies for t, bodies in enumerate(frames)]
    whole, clip = parse_ntu(data).clip, parse_ntu(join_frames(edited)).clip
    assert sorted(clip.person_lengths) == [44, 69]
    assert clip.dropped == 5 + 30
    rows = {row.tobytes() for row in whole.joints}
    assert all(row.tobytes() in rows for row in clip.joints)


def test_edited_real_file_three_bodies(real_data: Path) -> None:
    """S001C001P001R001A050 with a third body that stands still: its first body of frame 1 with a new id, in every frame, 5 m aside."""
    data = (real_data / "ntu_samples" / "S001C001P001R001A050.skeleton").read_bytes()
    frames = split_frames(data)
    head, count, *rows = frames[0][0].split(b"\n")
    aside = [b" ".join([str(float(row.split()[0]) + 5).encode(), *row.split()[1:]]) for row in rows]
    third = b"\n".join([b" ".join([b"1", *head.split()[1:]]), count, *aside])
    recording = parse_ntu(join_frames([[third, *bodies] for bodies in frames]))
    assert recording.persons == 3
    np.testing.assert_array_equal(recording.clip.joints, parse_ntu(data).clip.joints)


def test_edited_real_file_zero_frames(real_data: Path) -> None:
    """S001C001P001R001A001 cut to a count of zero frames, and to frames that are all empty."""
    data = (real_data / "ntu_samples" / "S001C001P001R001A001.skeleton").read_bytes()
    for edited in (join_frames([]), join_frames([[] for _ in split_frames(data)])):
        with pytest.raises(InputError):
            parse_ntu(edited)


def test_read_clips_names_what_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_clips(tmp_path / "absent.skeleton")
    (tmp_path / "clip.txt").write_text("x")
    with pytest.raises(InputError, match="unknown kind"):
        read_clips(tmp_path / "clip.txt")
