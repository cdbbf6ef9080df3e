"""``.npz`` files of packed clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from runtime.clip import Clip
from runtime.errors import InputError
from runtime.readers.npz import NpzClips, load_npz
from runtime.readers.ntu import MAX_PERSONS, Recording, motion
from runtime.skeleton import Skeleton, bones_towards_root
from star_edge.data import splits
from star_edge.data.sources.base import RESEARCH_TERMS, UNKNOWN_TERMS, AcceptsAll, Problem, SetInfo, check_layout
from star_edge.skeletons import LAYOUTS, get_skeleton


class NpzSource(AcceptsAll):
    """An ``.npz`` file with labels and subjects (see :mod:`runtime.readers.npz`)."""

    def __init__(self, path: Path, skeleton: str | None = None) -> None:
        self._clips = load_npz(path)
        self.names = self._clips.names
        if len(set(self.names)) != len(self.names):
            raise InputError("two clips of one name", where=path, expected="unique names")
        self.files = [path] * len(self.names)
        self.labels = self._clips.column("labels")
        self.subjects = self._clips.column("subjects")
        self.rejected: list[tuple[str, Problem]] = []
        classes = _class_names(self._clips, self.labels)
        terms, fps = _KNOWN_SETS[path.stem][1:] if path.stem in _KNOWN_SETS else (UNKNOWN_TERMS, None)
        self.info = SetInfo(path.stem, str(path.resolve()), terms, _layout_of(self._clips, skeleton), classes, fps)

    def read(self, entries: Sequence[int], workers: int) -> Iterator[Recording | Problem]:
        """``workers`` is not used: the joints are in memory already."""
        for entry in entries:
            persons = self._clips.person_rows(entry)
            rows = len(persons[0])
            tracked = [person for person in persons if person.any()]
            if len(tracked) > MAX_PERSONS:  # in the order of the file: it says who is person 1
                order = sorted(range(len(tracked)), key=lambda i: -motion(tracked[i]))[:MAX_PERSONS]
                persons = [tracked[i] for i in sorted(order)]
            try:
                yield Recording(Clip.from_persons(persons, self.names[entry]), rows, len(tracked))
            except InputError as error:
                yield Problem.of(error)

    def splits(self, kept: np.ndarray) -> dict[str, splits.Split]:
        make = _KNOWN_SETS[self.info.name][0] if self.info.name in _KNOWN_SETS else _generic
        return make(self._clips, kept)


def _generic(clips: NpzClips, kept: np.ndarray) -> dict[str, splits.Split]:
    return splits.generic_splits(clips.column("subjects")[kept])


def _with_columns(make: Callable[..., dict[str, splits.Split]], *names: str) -> Callable[..., dict[str, splits.Split]]:
    return lambda clips, kept: make(*(clips.column(name)[kept] for name in names))


# file stem -> its published splits, terms, frames per second
_KNOWN_SETS: dict[str, tuple[Callable[..., dict[str, splits.Split]], str, float | None]] = {
    "nw_ucla": (_with_columns(splits.nw_ucla_splits, "subjects", "views", "duplicate_of"), RESEARCH_TERMS, None),
    "msr_action3d": (_with_columns(splits.msr_action3d_splits, "subjects", "valid"), RESEARCH_TERMS, 15.0),
    "sbu_interaction": (_with_columns(splits.sbu_splits, "subjects", "subjects2", "folds"), RESEARCH_TERMS, 15.0),
}


def _class_names(clips: NpzClips, labels: np.ndarray) -> tuple[str, ...]:
    names = clips.arrays.get("class_names")
    if names is None or names.dtype.kind != "U" or names.ndim != 1:
        raise InputError("array 'class_names' is missing or no text", where=clips.path, expected="text (classes,)")
    if (labels < 0).any() or (labels >= len(names)).any():
        raise InputError("label without a class name", where=clips.path, found=f"labels {labels.min()} to {labels.max()}",
                         expected=f"0 to {len(names) - 1}, as 'class_names' has {len(names)}")  # fmt: skip
    return tuple(names.tolist())


def _layout_of(clips: NpzClips, skeleton: str | None) -> Skeleton:
    """The layout asked for, else the named one with these bones, else a custom one from ``edges`` rooted at ``root`` or 0."""
    joints = clips.xyz.shape[1]
    if skeleton is not None:
        layout = get_skeleton(skeleton)
        check_layout(layout, joints, clips.path)
        return layout
    edges = clips.arrays.get("edges")
    if edges is None or edges.dtype.kind not in "iu" or edges.ndim != 2 or edges.shape[1] != 2:
        raise InputError("cannot tell the skeleton layout", where=clips.path, found="no usable array 'edges'",
                         expected="integers (bones, 2)", hint=f"add --skeleton with one of {', '.join(LAYOUTS)}, or a .json file")  # fmt: skip
    pairs = [(int(a), int(b)) for a, b in edges]
    bones = {frozenset(pair) for pair in pairs}
    for layout in LAYOUTS.values():
        if layout.num_joints == joints and {frozenset(bone) for bone in layout.bones} == bones:
            return layout
    root = clips.arrays.get("root", np.array(0))
    if root.dtype.kind not in "iu" or root.size != 1 or not 0 <= int(root.reshape(())) < joints:
        raise InputError("array 'root' is not a joint", where=clips.path, found=root, expected=f"one of 0 to {joints - 1}")
    index = int(root.reshape(()))
    names = tuple(f"joint_{i}" for i in range(joints))
    if len(pairs) != joints - 1:
        raise InputError("bones are not a tree", where=clips.path, found=f"{len(pairs)} bones", expected=f"{joints - 1} bones")
    return Skeleton(f"custom{joints}", names, bones_towards_root(pairs, index, joints), index).check(where=clips.path)
