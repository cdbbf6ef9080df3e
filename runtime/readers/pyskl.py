"""PYSKL pickles: ``{"split": {name: [frame_dir, ...]}, "annotations": [{"frame_dir", "label", "keypoint", ...}, ...]}``.

An annotation is a clip: ``keypoint`` [M, T, V, C] of M persons in T frames, C = 2 (pixels, with ``keypoint_score`` [M, T, V] and
``img_shape`` (height, width)) or C = 3 (metres).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.clip import Clip
from runtime.errors import InputError
from runtime.readers.image_plane import MAX_PERSONS, on_plane, spread
from runtime.readers.ntu import Recording, motion
from runtime.readers.pickled import PickledArray, read_pickle

MAX_CLASSES = 10_000
MAX_NAME = 255


@dataclass(frozen=True)
class Annotation:
    """The checked fields of one clip whose joints are not read yet.

    Attributes:
        name, label: ``frame_dir`` and the 0-based class.
        where: file and clip, for messages.
        fields: all fields as they stand in the file.
    """

    name: str
    label: int
    where: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class PysklFile:
    """A file: its entries in order, either an annotation or why it is none, and the names of the clips of each split list."""

    path: Path
    entries: list[Annotation | InputError]
    split: dict[str, list[str]]


def load_pyskl(path: str | Path) -> PysklFile:
    """Read the structure of a file without running anything from it; joints stay on disk until they are read.

    Raises InputError for a file that is no such pickle or that repeats arrays.
    """
    path = Path(path)
    content = read_pickle(path)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        found = ", ".join(map(repr, content)) or "an empty dict" if isinstance(content, dict) else type(content).__name__
        raise InputError("not a PYSKL file", where=path, found=found[:200], expected="a dict with a list 'annotations'")
    entries = [_annotation(fields, f"{path}, annotation {i}") for i, fields in enumerate(content["annotations"])]
    _refuse_repeats(entries, path)
    return PysklFile(path, entries, _split_lists(content.get("split"), path))


def _annotation(fields: object, where: str) -> Annotation | InputError:
    if not isinstance(fields, dict):
        return InputError("annotation is no dict", where=where, found=type(fields).__name__, expected="a dict of fields")
    name, label = fields.get("frame_dir"), fields.get("label")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        return InputError("annotation without a name", where=where, found=_say(name), expected="text 'frame_dir'")
    where = f"{where} ({name})"
    if type(label) is not int or not 0 <= label < MAX_CLASSES:
        return InputError(
            "annotation without a class", where=where, found=_say(label), expected=f"'label' from 0 to {MAX_CLASSES - 1}"
        )
    if not isinstance(fields.get("keypoint"), PickledArray):
        return InputError("annotation without joints", where=where, found=", ".join(map(repr, list(fields)[:12])),
                          expected="an array 'keypoint' [persons, frames, joints, 2 or 3]")  # fmt: skip
    return Annotation(name, label, where, fields)


def _refuse_repeats(entries: list[Annotation | InputError], path: Path) -> None:
    """One array under many names would make a small file a data set without end."""
    seen: set[int] = set()
    for entry in entries:
        if isinstance(entry, Annotation):
            identity = id(entry.fields["keypoint"])
            if identity in seen:
                raise InputError("two clips with one array of joints", where=entry.where, found="a reference to an array met before",
                                 expected="an array of its own for each clip")  # fmt: skip
            seen.add(identity)


def _split_lists(split: object, path: Path) -> dict[str, list[str]]:
    if split is None:
        return {}
    if not isinstance(split, dict):
        raise InputError(
            "split lists are damaged", where=path, found=type(split).__name__, expected="a dict of lists of names"
        )
    for name, clips in split.items():
        if not isinstance(clips, (list, tuple)) or not all(isinstance(clip, str) for clip in clips):
            raise InputError("split list is damaged", where=f"{path}, split {name!r:.60}", found=type(clips).__name__,
                             expected="a list of names")  # fmt: skip
    return {name: list(clips) for name, clips in split.items()}


def read_annotation(annotation: Annotation, dims: int) -> Recording:
    """The joints of one clip for a layout of ``dims`` dimensions (2 or 3).

    In 2-D pixels become shares of the image's longer side, from its centre, with y upwards: one scale for both axes, so that limbs
    keep their proportions, and coordinates within ±0.5 whatever the resolution. The third channel is the score, 1 where the file has none; a
    joint with a score of zero or at pixel (0, 0) is lost. An array of three coordinates read as 2-D is x, y, score. At most two
    persons, those with the most motion, the most moving first; rows in which a person is lost are dropped and counted.

    Raises InputError for arrays that do not fit each other or the dimensions, NaN or infinity, or no tracked body.
    """
    where = annotation.where
    keypoint = _array(annotation, "keypoint", 4)
    frames = annotation.fields.get("total_frames", keypoint.shape[1])
    if type(frames) is not int or frames != keypoint.shape[1] or 0 in keypoint.shape:
        raise InputError("array 'keypoint' does not fit the frames", where=where, found=keypoint.shape,
                         expected=f"[persons, {frames!s:.20} frames, joints, 2 or 3]")  # fmt: skip
    if keypoint.shape[3] not in (2, 3) or (dims == 3 and keypoint.shape[3] == 2):
        raise InputError("array 'keypoint' has other coordinates than the layout", where=where,
                         found=f"{keypoint.shape[3]} coordinates", expected=f"{dims}")  # fmt: skip
    joints = _in_image(annotation, keypoint) if dims == 2 else keypoint.astype(np.float32)
    measure: Callable[[np.ndarray], float] = spread if dims == 2 else motion
    tracked = [person for person in joints if person.any()]
    moving = sorted(tracked, key=measure, reverse=True)  # stable: ties stay in the order of the file
    try:
        clip = Clip.from_persons(moving[:MAX_PERSONS], annotation.name)
    except InputError as error:
        raise InputError(error.what, where=where, found=error.found, expected=error.expected) from None
    return Recording(clip, len(joints[0]), len(tracked))


def _in_image(annotation: Annotation, keypoint: np.ndarray) -> np.ndarray:
    height, width = _image_shape(annotation)
    if keypoint.shape[3] == 3:
        if "keypoint_score" in annotation.fields:
            raise InputError("clip has two scores a joint", where=annotation.where, found="x, y, score and 'keypoint_score'",
                             expected="one of them")  # fmt: skip
        score = keypoint[..., 2]
    elif "keypoint_score" in annotation.fields:
        score = _array(annotation, "keypoint_score", 3)
    else:
        score = np.ones(keypoint.shape[:3], dtype=np.float32)
    if score.shape != keypoint.shape[:3]:
        raise InputError("array 'keypoint_score' does not fit 'keypoint'", where=annotation.where, found=score.shape,
                         expected=keypoint.shape[:3])  # fmt: skip
    pixels = keypoint[..., :2].astype(np.float32)
    scale = 1 / max(height, width)
    seen = np.where((pixels != 0).any(-1), score, 0)
    return on_plane((pixels[..., 0] - width / 2) * scale, (pixels[..., 1] - height / 2) * scale, seen)


def _image_shape(annotation: Annotation) -> tuple[int, int]:
    shape = annotation.fields.get("img_shape", annotation.fields.get("original_shape"))
    if isinstance(shape, PickledArray) and shape.array is not None and shape.array.shape == (2,):
        shape = shape.array.tolist()
    usable = isinstance(shape, (tuple, list)) and len(shape) == 2 and all(type(n) is int and 0 < n <= 65535 for n in shape)
    if not usable:
        raise InputError("clip without the size of its image", where=annotation.where, found=_say(shape),
                         expected="'img_shape': (height, width) in pixels")  # fmt: skip
    height, width = shape
    return height, width


def _array(annotation: Annotation, name: str, axes: int) -> np.ndarray:
    value = annotation.fields[name]
    array = value.array if isinstance(value, PickledArray) else None
    if array is None or array.ndim != axes or array.dtype.kind not in "fiu":
        found = _say(value) if array is None else f"{array.dtype} {array.shape}"
        raise InputError(
            f"array '{name}' is not usable", where=annotation.where, found=found, expected=f"numbers with {axes} axes"
        )
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(np.float32)).all()
    if not finite:
        raise InputError(f"array '{name}' holds NaN or infinity", where=annotation.where, expected="finite coordinates")
    return array


def _say(value: object) -> str:
    """A plain value in a message; contents only of what is short by its type."""
    plain = value is None or isinstance(value, (bool, int, float))
    return f"{value!r}" if plain else f"{value[:60]!r}" if isinstance(value, str) else type(value).__name__
