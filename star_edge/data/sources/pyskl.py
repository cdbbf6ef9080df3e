"""PYSKL pickles."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from runtime.errors import InputError
from runtime.readers.ntu import NtuName, Recording
from runtime.readers.pyskl import Annotation, PysklFile, load_pyskl, read_annotation
from runtime.skeleton import Skeleton
from star_edge.data import splits
from star_edge.data.ntu_actions import NTU_ACTIONS
from star_edge.data.sources.base import (
    UNKNOWN_TERMS,
    AcceptsAll,
    Problem,
    SetInfo,
    check_layout,
    class_names_for,
    read_description,
    unique_names,
)
from star_edge.data.sources.ntu import NTU_TERMS
from star_edge.skeletons import COCO17, LAYOUTS, NTU25, get_skeleton

log = logging.getLogger(__name__)

_PART = re.compile(r"train|val|test")
_LAYOUTS = {(17, 2): COCO17, (25, 3): NTU25}


class _List(NamedTuple):
    """One of the file's split lists."""

    name: str
    clips: set[str]


class PysklSource(AcceptsAll):
    """A ``.pkl`` file as :mod:`runtime.readers.pyskl` reads it: nothing in it is run.

    A pair of its split lists, such as ``xsub_train`` and ``xsub_val``, becomes one scheme. What PYSKL calls val is what it reports on, so
    it tests here; val is whole performers where the clips are named as in NTU RGB+D, else a part of the training clips of each
    class. Of three lists (train, val and test) each is what it is called.
    """

    def __init__(self, path: Path, skeleton: str | None = None) -> None:
        content = load_pyskl(path)
        self._layout = _layout_of(content, skeleton)
        description = read_description(path.parent)
        self._annotations, self.rejected = _usable(content, len(description.class_names) if description else None)
        self.names = [annotation.name for annotation in self._annotations]
        self.files = [path] * len(self.names)
        self.labels = np.array([annotation.label for annotation in self._annotations], dtype=np.int64)
        ntu = _ntu_names(self._annotations)
        self.subjects = np.array([name.performer for name in ntu] if ntu else [0] * len(self.names), dtype=np.int64)
        self._by_performer = bool(ntu)
        self._lists = _schemes(content)
        known = dict(enumerate(NTU_ACTIONS)) if ntu else {}
        classes = class_names_for(description, known, self.labels)
        name, terms, fps = (path.stem, NTU_TERMS if ntu else UNKNOWN_TERMS, 30.0 if ntu else None)
        if description:
            name, terms, fps = description.name, description.terms, description.fps
        self.info = SetInfo(name, str(path.resolve()), terms, self._layout, classes, fps)

    def read(self, entries: Sequence[int], workers: int) -> Iterator[Recording | Problem]:
        """``workers`` is not used: the joints are views of the mapped file."""
        for entry in entries:
            annotation = self._annotations[entry]
            try:
                recording = read_annotation(annotation, self._layout.dims)
                check_layout(self._layout, recording.clip.joints.shape[1], annotation.where)
                yield recording
            except InputError as error:
                yield Problem.of(error)

    def _split(self, lists: dict[str, _List], names: list[str], kept: np.ndarray) -> splits.Split:
        masks = {part: np.array([name in clips for name in names], dtype=bool) for part, (_, clips) in lists.items()}
        nobody = np.zeros(len(names), dtype=bool)
        train, test = masks["train"], masks.get("test", masks.get("val", nobody))
        description = f"PYSKL's lists {' and '.join(entry.name for entry in lists.values())}"
        if len(masks) == 3:
            assignment = np.full(len(names), splits.UNUSED, dtype=np.int8)
            for part, mask in masks.items():
                assignment[mask] = splits.PARTS[part]
            return splits.Split(assignment, f"{description}, each what it is called")
        if self._by_performer:
            return splits.by_subjects(self.subjects[kept], train, test, description)
        return splits.by_class(names, self.labels[kept], train, test, description)

    def splits(self, kept: np.ndarray) -> dict[str, splits.Split]:
        names, labels = [self.names[entry] for entry in kept.tolist()], self.labels[kept]
        made = {scheme: self._split(lists, names, kept) for scheme, lists in self._lists.items()}
        return made or splits.stratified_splits(names, labels)


def _usable(content: PysklFile, classes: int | None) -> tuple[list[Annotation], list[tuple[str, Problem]]]:
    """The annotations that are clips, and what is wrong with the others."""
    good: list[Annotation] = []
    rejected: list[tuple[str, Problem]] = []
    for index, entry in enumerate(content.entries):
        if isinstance(entry, InputError):
            rejected.append((f"annotation {index}", Problem.of(entry)))
        elif classes is not None and entry.label >= classes:
            problem = Problem("label without a class name", entry.where, str(entry.label), f"0 to {classes - 1}")
            rejected.append((entry.name, problem))
        else:
            good.append(entry)
    doubles = unique_names([annotation.name for annotation in good], [annotation.where for annotation in good])
    rejected += [(good[index].name, problem) for index, problem in doubles.items()]
    return [annotation for index, annotation in enumerate(good) if index not in doubles], rejected


def _layout_of(content: PysklFile, skeleton: str | None) -> Skeleton:
    """The layout asked for, else the one that the shape of the first usable array of joints tells."""
    if skeleton is not None:
        return get_skeleton(skeleton)
    shapes = (entry.fields["keypoint"].array for entry in content.entries if isinstance(entry, Annotation))
    shape = next((array.shape for array in shapes if array is not None and array.ndim == 4), None)
    layout = _LAYOUTS.get(shape[2:]) if shape else None
    if layout is None:
        raise InputError("cannot tell the skeleton layout", where=content.path,
                         found=f"{shape[2]} joints of {shape[3]} coordinates" if shape else "no usable array 'keypoint'",
                         expected="17 joints in 2-D (coco17) or 25 in 3-D (ntu25)",
                         hint=f"add --skeleton with one of {', '.join(LAYOUTS)}, or a .json file")  # fmt: skip
    return layout


def _ntu_names(annotations: list[Annotation]) -> list[NtuName] | None:
    """What the names say, where all of them are NTU RGB+D names of their labels."""
    try:
        names = [NtuName.parse(annotation.name) for annotation in annotations]
    except InputError:
        return None
    fits = all(name.action == annotation.label + 1 for name, annotation in zip(names, annotations, strict=True))
    known = all(name.action <= len(NTU_ACTIONS) for name in names)
    return names if names and fits and known else None


def _schemes(content: PysklFile) -> dict[str, dict[str, _List]]:
    """Split lists as scheme -> part -> clip names; schemes without a train list are left out."""
    schemes: dict[str, dict[str, _List]] = {}
    for name, clips in content.split.items():
        part = _PART.search(name)
        rest = _PART.sub("", name, count=1).strip("_- ") if part else name
        scheme = re.sub(r"[^A-Za-z0-9_-]+", "_", f"split{rest}" if rest.isdigit() else rest or "pyskl")
        if part is None or part[0] in schemes.get(scheme, {}):
            log.warning("split list '%s' of %s is not used: not one of train, val and test", name, content.path)
            continue
        schemes.setdefault(scheme, {})[part[0]] = _List(name, set(clips))
    schemes = {scheme: lists for scheme, lists in schemes.items() if "train" in lists}
    for scheme, lists in schemes.items():
        _refuse_overlap(scheme, lists, content.path)
    return schemes


def _refuse_overlap(scheme: str, lists: dict[str, _List], path: Path) -> None:
    parts = list(lists)
    for index, part in enumerate(parts):
        for other in parts[index + 1 :]:
            shared = lists[part].clips & lists[other].clips
            if shared:
                raise InputError("split lists share clips", where=f"{path}, split {scheme}",
                                 found=f"{len(shared)} in {lists[part].name} and {lists[other].name}, e.g. {min(shared)}", expected="each clip in one list")  # fmt: skip
