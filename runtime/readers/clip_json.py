"""JSON clips: Northwestern-UCLA (the ``all_sqe`` archive) and Kinetics-skeleton, one clip a file.

Northwestern-UCLA: ``{"file_name": "a01_s01_e00_v01", "skeletons": [[[x, y, z], ...20], ...frames], "label": 1}``, metres.
Kinetics-skeleton: ``{"data": [{"frame_index": 1, "skeleton": [{"pose": [x, y, ...18], "score": [...18]}, ...]}, ...],
"label": "yoga", "label_index": 398}``, x and y as shares of the image's width and height from its upper left corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from runtime.clip import Clip
from runtime.errors import InputError
from runtime.readers.decoding import JSON_ERRORS
from runtime.readers.image_plane import MAX_PERSONS, on_plane
from runtime.readers.ntu import Recording

UCLA_JOINTS = 20
KINETICS_JOINTS = 18
_MAX_FRAMES = 100_000  # an hour at 30 frames a second
_MAX_BODIES = 1000  # in one frame

_T = TypeVar("_T")


class _UclaFile(msgspec.Struct):
    skeletons: list[list[tuple[float, float, float]]]
    file_name: str | None = None
    label: int | None = None


class _Body(msgspec.Struct):
    pose: list[float]
    score: list[float]


class _Frame(msgspec.Struct):
    frame_index: int
    skeleton: list[_Body]


class _KineticsFile(msgspec.Struct):
    data: list[_Frame]
    label: str | None = None
    label_index: int | None = None


class _Probe(msgspec.Struct):
    """Which of the two a file is; values are not decoded."""

    skeletons: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()


@dataclass(frozen=True)
class Labelled(Recording):
    """A recording and what its file says about its class; None where it says nothing.

    Attributes:
        label: as it stands in the file: 1-based for Northwestern-UCLA, 0-based for Kinetics.
        class_name: Kinetics only.
    """

    label: int | None = None
    class_name: str | None = None


def read_clip_json(path: str | Path) -> Labelled:
    """Read a file of either format, told by its fields; raises InputError for any other."""
    path = Path(path)
    data = path.read_bytes()
    probe = _decode(data, _Probe, str(path), "a clip: an object with 'skeletons' or 'data'")
    if bytes(probe.skeletons):
        return parse_nw_ucla(data, str(path), path.stem)
    if bytes(probe.data):
        return parse_kinetics(data, str(path), path.stem)
    raise InputError("JSON file is no clip", where=path, found="other fields",
                     expected="'skeletons' (NW-UCLA) or 'data' (Kinetics-skeleton)")  # fmt: skip


def read_nw_ucla(path: str | Path) -> Labelled:
    """One Northwestern-UCLA clip: one person, metres, ``kinect20``; rows of lost joints dropped and counted.

    Raises InputError for a file that is no such JSON, has another joint count or shows nobody.
    """
    path = Path(path)
    return parse_nw_ucla(path.read_bytes(), str(path), path.stem)


def parse_nw_ucla(data: bytes, where: str = "clip", name: str = "") -> Labelled:
    """:func:`read_nw_ucla` for the bytes of a file; ``where`` stands in error messages."""
    content = _decode(data, _UclaFile, where, "a Northwestern-UCLA clip")
    for row, frame in enumerate(content.skeletons):
        _require_count(len(frame), UCLA_JOINTS, f"{where}, frame {row}")
    joints = _numbers(content.skeletons, (len(content.skeletons), UCLA_JOINTS, 3), where)
    return Labelled(_clip([joints], where, name), len(joints), 1, content.label)


def read_kinetics(path: str | Path) -> Labelled:
    """One Kinetics-skeleton clip: at most two persons, x, y and score, ``openpose18``.

    The origin is the middle of the image and y points up; x and y stay shares of its width and height, as the format does not say how
    large the image was. A joint with a score of zero is lost. The format has no person ids: the body that stands at one place in the
    list of each frame is taken for one person. Of more than two the two with the highest total score are kept, the highest first.

    Raises InputError for a file that is no such JSON, has another joint count, repeats a frame or shows nobody.
    """
    path = Path(path)
    return parse_kinetics(path.read_bytes(), str(path), path.stem)


def parse_kinetics(data: bytes, where: str = "clip", name: str = "") -> Labelled:
    """:func:`read_kinetics` for the bytes of a file; ``where`` stands in error messages."""
    content = _decode(data, _KineticsFile, where, "a Kinetics-skeleton clip")
    frames = sorted(content.data, key=lambda frame: frame.frame_index)
    _check_frames(frames, where)
    scores = _scores(frames, where)
    totals = [float(np.maximum(score, 0).sum(dtype=np.float64)) for score in scores]
    tracked = [place for place, total in enumerate(totals) if total > 0]
    best = sorted(tracked, key=lambda place: -totals[place])[:MAX_PERSONS]
    persons = [_person(frames, place, scores[place], where) for place in best]
    return Labelled(_clip(persons, where, name), len(frames), len(tracked), content.label_index, content.label)


def _check_frames(frames: list[_Frame], where: str) -> None:
    for before, frame in zip(frames, frames[1:], strict=False):
        if before.frame_index == frame.frame_index:
            raise InputError(
                "a frame stands twice", where=where, found=f"frame_index {frame.frame_index}", expected="one of each"
            )
    if len(frames) > _MAX_FRAMES:
        raise InputError("clip is too long", where=where, found=f"{len(frames)} frames", expected=f"at most {_MAX_FRAMES}")
    for frame in frames:
        at = f"{where}, frame {frame.frame_index}"
        if len(frame.skeleton) > _MAX_BODIES:
            raise InputError("too many bodies", where=at, found=len(frame.skeleton), expected=f"at most {_MAX_BODIES}")
        for body in frame.skeleton:
            _require_count(len(body.pose) / 2, KINETICS_JOINTS, at)
            _require_count(len(body.score), KINETICS_JOINTS, at)


def _scores(frames: list[_Frame], where: str) -> list[np.ndarray]:
    """Scores [n, 18] of the bodies at each place of the lists, in the n frames whose list is that long."""
    places: list[list[list[float]]] = [[] for _ in range(max((len(frame.skeleton) for frame in frames), default=0))]
    for frame in frames:
        for place, body in enumerate(frame.skeleton):
            places[place].append(body.score)
    return [_numbers(scores, (len(scores), KINETICS_JOINTS), where) for scores in places]


def _person(frames: list[_Frame], place: int, score: np.ndarray, where: str) -> np.ndarray:
    """Rows [frames, 18, 3] of the bodies at one place of the lists; zeros where a frame's list is shorter."""
    present = [row for row, frame in enumerate(frames) if len(frame.skeleton) > place]
    pose = _numbers([frames[row].skeleton[place].pose for row in present], (len(present), KINETICS_JOINTS, 2), where)
    rows = np.zeros((len(frames), KINETICS_JOINTS, 3), dtype=np.float32)
    rows[present] = on_plane(pose[..., 0] - 0.5, pose[..., 1] - 0.5, score)
    return rows


def _decode(data: bytes, kind: type[_T], where: str, expected: str) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except JSON_ERRORS as error:
        raise InputError("cannot read the JSON clip", where=where, found=error, expected=expected) from None


def _numbers(values: object, shape: tuple[int, ...], where: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = np.array(values, dtype=np.float64).reshape(shape).astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(
            "joints hold numbers that are too large", where=where, found="infinity", expected="finite coordinates"
        )
    return array


def _require_count(found: float, joints: int, where: str) -> None:
    if found != joints:
        raise InputError("wrong joint count", where=where, found=f"{found:g} joints", expected=f"{joints} joints")


def _clip(persons: list[np.ndarray], where: str, name: str) -> Clip:
    try:
        return Clip.from_persons(persons, name)
    except InputError:
        raise InputError("no body in any frame", where=where, found="0 bodies", expected="at least one") from None
