"""NTU RGB+D ``.skeleton`` text files, as Kinect v2 wrote them.

A file is: the number of frames; per frame the number of bodies; per body a line of 10 fields that starts with the body id,
a line ``25``, and 25 lines of 12 numbers that start with x y z in metres. Lines end in LF or CRLF.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from runtime.clip import Clip
from runtime.errors import InputError

JOINTS = 25
BODY_FIELDS = 10
JOINT_FIELDS = 12
MAX_PERSONS = 2
# Kinect gives a person it lost and found again a new body id. A new id that starts within this distance of where a
# person was last seen continues that person: farther than a tracked body jumps, nearer than two people stand.
LINK_METRES = 0.5

_LARGEST = float(np.finfo(np.float32).max)
_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")


@dataclass(frozen=True)
class NtuName:
    """What a file name says; all numbers are 1-based as in the data set."""

    setup: int
    camera: int
    performer: int
    repetition: int
    action: int

    @classmethod
    def parse(cls, stem: str) -> NtuName:
        """Read ``SsssCcccPpppRrrrAaaa``; raises InputError for any other name."""
        match = _NAME.fullmatch(stem)
        if match is None or min(numbers := [int(group) for group in match.groups()]) < 1:
            raise InputError(
                "file name does not say setup, camera, performer, repetition and action",
                where=stem,
                found=stem,
                expected="SsssCcccPpppRrrrAaaa, e.g. S001C002P003R002A013",
            )
        return cls(*numbers)

    def __str__(self) -> str:
        return f"S{self.setup:03}C{self.camera:03}P{self.performer:03}R{self.repetition:03}A{self.action:03}"


@dataclass(frozen=True)
class Recording:
    """One file.

    Attributes:
        clip: at most two persons, the one with more motion first; rows of a kept person without any joint are dropped
            and counted in ``clip.dropped``.
        frames: frames in the file, with or without a body.
        persons: persons found, of whom at most two are in ``clip``.
    """

    clip: Clip
    frames: int
    persons: int


@dataclass
class _Track:
    """Rows of one person so far: the frame each belongs to and its index among all bodies of the file."""

    frames: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def read_ntu(path: str | Path) -> Recording:
    """Read one ``.skeleton`` file.

    Persons are followed by body id; a new id that starts where a person was just lost continues that person
    (LINK_METRES). Of more than two persons the two with the most motion are kept: the largest sum over x, y, z of the
    standard deviation over frames and joints (as the authors of STAR prepare their data). Persons are ordered by motion,
    then by first appearance, so the order does not depend on body ids. Positions are taken as they stand, also those the
    sensor marks as inferred.

    Raises InputError, naming file and line, for a file that is truncated, has another joint count, holds anything but
    numbers where numbers belong, or shows no body in any frame.
    """
    path = Path(path)
    return parse_ntu(path.read_bytes(), where=str(path), name=path.stem)


def parse_ntu(data: bytes, where: str = "", name: str = "") -> Recording:
    """:func:`read_ntu` for the bytes of a file; ``where`` stands in error messages."""
    frames, tracks, xyz = _parse(data, where)
    persons = _link([track for track in tracks if (xyz[track.rows] != 0).any()], xyz)
    if not persons:
        raise InputError(
            "no body in any frame", where=where or None, found=f"{frames} frames, 0 bodies", expected="at least one"
        )
    moving = sorted(persons, key=lambda track: (-motion(xyz[track.rows]), track.frames[0], track.rows[0]))
    dense = []
    for track in moving[:MAX_PERSONS]:
        rows = np.zeros((frames, JOINTS, 3), dtype=np.float32)
        rows[track.frames] = xyz[track.rows]
        dense.append(rows)
    return Recording(Clip.from_persons(dense, name), frames, len(persons))


def motion(rows: np.ndarray) -> float:
    """How much a person [n, V, 3] moves: the sum over coordinates of the standard deviation over non-zero rows and joints."""
    tracked = rows[(rows != 0).any(axis=(1, 2))]
    return float(tracked.astype(np.float64).std(axis=(0, 1)).sum()) if len(tracked) else 0.0


def _parse(data: bytes, where: str) -> tuple[int, list[_Track], np.ndarray]:
    """Frame count, one track per body id in order of appearance, and float32 [bodies, 25, 3] of all bodies of all frames."""
    lines = data.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    tracks: dict[int, _Track] = {}
    joint_lines: list[bytes] = []
    first_lines: list[int] = []  # line index of each body's first joint
    at = 0

    def fail(line: int, what: str, found: object, expected: object) -> InputError:
        return InputError(what, where=f"{where or 'skeleton file'}, line {line + 1}", found=found, expected=expected)

    def count(what: str) -> int:
        nonlocal at
        if at >= len(lines):
            raise fail(at, "file is truncated", "end of file", what)
        value = _integer(lines[at])
        if value is None or value < 0:
            raise fail(at, "file is corrupt", _excerpt(lines[at]), what)
        at += 1
        return value

    frames = count("the number of frames")
    if frames == 0:
        raise fail(0, "file without frames", 0, "at least one frame")
    for frame in range(frames):
        for body in range(count(f"the number of bodies of frame {frame + 1} of {frames}")):
            if at >= len(lines):
                raise fail(len(lines), "file is truncated", "end of file", f"body {body + 1} of frame {frame + 1} of {frames}")
            fields = lines[at].split()
            identity = _integer(fields[0]) if len(fields) == BODY_FIELDS else None
            if identity is None:
                raise fail(at, "file is corrupt", _excerpt(lines[at]), f"{BODY_FIELDS} fields of a body, the first its id")
            track = tracks.setdefault(identity, _Track())
            if track.frames and track.frames[-1] == frame:
                raise fail(
                    at, "file is corrupt", f"body id {identity} twice in frame {frame + 1}", "one body per id and frame"
                )
            at += 1
            joints = count("the number of joints")
            if joints != JOINTS:
                raise fail(at - 1, "wrong joint count", f"{joints} joints", f"{JOINTS} joints")
            if at + JOINTS > len(lines):
                raise fail(len(lines), "file is truncated", "end of file", f"{JOINTS} joints in frame {frame + 1} of {frames}")
            track.frames.append(frame)
            track.rows.append(len(first_lines))
            first_lines.append(at)
            joint_lines += lines[at : at + JOINTS]
            at += JOINTS
    if at < len(lines):
        raise fail(at, "text after the last frame", _excerpt(lines[at]), f"end of file after {frames} frames")
    bad, xyz = _coordinates(joint_lines)
    if bad is not None:
        line = first_lines[bad // JOINTS] + bad % JOINTS
        cut = line == len(lines) - 1 and not data.endswith((b"\n", b"\r"))
        what = "file is truncated" if cut else "file is corrupt"
        raise fail(line, what, _excerpt(lines[line]), f"{JOINT_FIELDS} fields, the first three finite x y z in metres")
    return frames, list(tracks.values()), xyz


def _coordinates(lines: list[bytes]) -> tuple[int | None, np.ndarray]:
    """(None, float32 [bodies, 25, 3]), or the index of the first line that is not a joint.

    Only x, y, z are read: the other nine fields of real files hold anything from NaN to ``-1.#IND``.
    """
    xyz = _coordinates_of_plain(lines)
    if xyz is None:
        fields = [line.split() for line in lines]
        bad = next((i for i, joint in enumerate(fields) if not _is_joint(joint)), None)
        if bad is not None:
            return bad, np.empty(0)
        xyz = np.array([joint[:3] for joint in fields], dtype=np.float64)
    return None, xyz.astype(np.float32).reshape(-1, JOINTS, 3)


def _coordinates_of_plain(lines: list[bytes]) -> np.ndarray | None:
    """float64 [3·lines] of lines of twelve fields with one space between, as Kinect writes them; None if any is another.

    A file is read in less than half the time than by taking every line apart: the nine fields that are not wanted stay
    together, and plain numbers are JSON, for which there is a fast decoder.
    """
    if {line.count(b" ") for line in lines} != {JOINT_FIELDS - 1} or b"  " in b" ".join(lines):
        return None
    first_three = b",".join([line.rsplit(b" ", JOINT_FIELDS - 3)[0] for line in lines]).replace(b" ", b",")
    try:
        values = np.array(msgspec.json.decode(b"[" + first_three + b"]", type=list[float]))
    except msgspec.MsgspecError:  # no number, or one that JSON writes otherwise, such as .5
        return None
    return values if len(values) == 3 * len(lines) and (abs(values) <= _LARGEST).all() else None


def _is_joint(fields: list[bytes]) -> bool:
    if len(fields) != JOINT_FIELDS or any(b"_" in value for value in fields):
        return False
    try:
        return all(abs(float(value)) <= _LARGEST for value in fields[:3])
    except ValueError:
        return False


def _integer(text: bytes) -> int | None:
    """The integer on a line, None for anything else (``int`` alone would take ``1_0``)."""
    text = text.strip()
    digits = text[1:] if text[:1] == b"-" else text
    return int(text) if digits.isdigit() and len(digits) <= 19 else None


def _excerpt(line: bytes) -> str:
    text = line.decode("ascii", "backslashreplace").strip()
    return f"'{text[:60]}…'" if len(text) > 60 else f"'{text}'"


def _link(tracks: list[_Track], xyz: np.ndarray) -> list[_Track]:
    """Join tracks of one person under several body ids: each track continues the nearest person already gone, if any."""
    persons: list[_Track] = []
    ends: list[np.ndarray] = []  # where each person was last seen
    for track in sorted(tracks, key=lambda track: (track.frames[0], track.rows[0])):
        start, end = _centre(xyz[track.rows]), _centre(xyz[track.rows[::-1]])
        near = [
            (float(np.linalg.norm(start - ends[i])), i)
            for i, person in enumerate(persons)
            if person.frames[-1] < track.frames[0]
        ]
        distance, nearest = min(near, default=(np.inf, -1))
        if distance <= LINK_METRES:
            persons[nearest] = _Track(persons[nearest].frames + track.frames, persons[nearest].rows + track.rows)
            ends[nearest] = end
        else:
            persons.append(track)
            ends.append(end)
    return persons


def _centre(rows: np.ndarray) -> np.ndarray:
    """Mean of the tracked joints in the first row that has any."""
    row = next(row for row in rows if row.any())
    return row[row.any(axis=1)].mean(axis=0)
