"""Folders of Kinetics-skeleton JSON clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from runtime.readers.clip_json import Labelled, read_kinetics
from runtime.readers.ntu import Recording
from runtime.readers.pyskl import MAX_CLASSES
from star_edge.data import splits
from star_edge.data.sources.base import (
    UNKNOWN_TERMS,
    Problem,
    SetInfo,
    choose_layout,
    class_names_for,
    find_files,
    read_description,
    unique_names,
)
from star_edge.data.sources.workers import read_files
from star_edge.skeletons import OPENPOSE18

TRAIN_FOLDER, TEST_FOLDER = "kinetics_train", "kinetics_val"
_FPS = 30.0  # to which the authors of the set brought all videos


class KineticsSource:
    """A folder of clips as :func:`runtime.readers.clip_json.read_kinetics` reads them, told apart by file name.

    With sub-folders ``kinetics_train`` and ``kinetics_val`` only these are searched, and what the set calls val tests; else a
    stratified part of all clips does. The class stands in the clips themselves, so labels are known when they were read.
    """

    def __init__(self, folder: Path, skeleton: str | None = None) -> None:
        parts = [folder / name for name in (TRAIN_FOLDER, TEST_FOLDER) if (folder / name).is_dir()]
        found = [file for part in parts or [folder] for file in find_files(part, ".json")]
        doubles = unique_names([file.stem for file in found], found)
        self.rejected = [(str(found[entry].relative_to(folder)), problem) for entry, problem in doubles.items()]
        self.files = [file for entry, file in enumerate(found) if entry not in doubles]
        self.names = [file.stem for file in self.files]
        self.labels = np.full(len(self.names), -1, dtype=np.int64)
        self.subjects = np.zeros(len(self.names), dtype=np.int64)
        self._published = bool(parts)
        self._tests = np.array([file.relative_to(folder).parts[0] == TEST_FOLDER for file in self.files], dtype=bool)
        self._folder, self._layout = folder, choose_layout(skeleton, OPENPOSE18, folder)
        self._description = read_description(folder)
        self._classes: dict[int, str] = {}

    @property
    def info(self) -> SetInfo:
        described, source = self._description, str(self._folder.resolve())
        classes = class_names_for(described, self._classes, self.labels)
        if described:
            return SetInfo(described.name, source, described.terms, self._layout, classes, described.fps)
        name, fps = ("kinetics_skeleton", _FPS) if self._published else (self._folder.resolve().name, None)
        return SetInfo(name, source, UNKNOWN_TERMS, self._layout, classes, fps)

    def read(self, entries: Sequence[int], workers: int) -> Iterator[Recording | Problem]:
        return read_files(read_kinetics, [self.files[entry] for entry in entries], workers)

    def accept(self, entry: int, recording: Recording) -> Problem | None:
        """A clip without a usable class, or with another name for a class than an earlier clip has, is a problem."""
        label, name = (recording.label, recording.class_name) if isinstance(recording, Labelled) else (None, None)
        where = str(self.files[entry])
        count = len(self._description.class_names) if self._description else MAX_CLASSES
        if label is None or not 0 <= label < count:
            return Problem("label without a class name", where, f"label_index {label}", f"0 to {count - 1}")
        if name and not self._description and self._classes.setdefault(label, name) != name:
            return Problem("class has two names", where, f"{label}: {name!r}", repr(self._classes[label]))
        self.labels[entry] = label
        return None

    def splits(self, kept: np.ndarray) -> dict[str, splits.Split]:
        names, labels = [self.names[entry] for entry in kept.tolist()], self.labels[kept]
        if not self._published:
            return splits.stratified_splits(names, labels)
        tests = self._tests[kept]
        return {"kinetics": splits.by_class(names, labels, ~tests, tests, f"{TRAIN_FOLDER} trains, {TEST_FOLDER} tests")}
