"""Folders of Northwestern-UCLA JSON clips, the ``all_sqe`` archive."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from runtime.readers.clip_json import Labelled, read_nw_ucla
from runtime.readers.ntu import Recording
from star_edge.data import splits
from star_edge.data.sources.base import RESEARCH_TERMS, Problem, SetInfo, choose_layout, find_files, unique_names
from star_edge.data.sources.workers import read_files
from star_edge.skeletons import KINECT20

NAME = re.compile(r"a([0-9]{2})_s([0-9]{2})_e([0-9]{2})_v([0-9]{2})")
# action number of a file name -> class; 7 and 10 were not recorded
ACTIONS = {
    1: "pick up with one hand", 2: "pick up with two hands", 3: "drop trash", 4: "walk around", 5: "sit down", 6: "stand up",
    8: "donning", 9: "doffing", 11: "throw", 12: "carry",
}  # fmt: skip
_LABELS = {action: label for label, action in enumerate(ACTIONS)}


class NwUclaSource:
    """A folder (searched recursively) of files named ``aAA_sSS_eEE_vVV.json``: action, subject, repetition, view."""

    def __init__(self, folder: Path, skeleton: str | None = None) -> None:
        self.rejected: list[tuple[str, Problem]] = []
        self.files: list[Path] = []
        columns = []
        found = find_files(folder, ".json")
        doubles = unique_names([file.stem for file in found], found)
        for index, file in enumerate(found):
            try:
                column = _parse_name(file)
            except InputError as error:
                doubles[index] = Problem.of(error)
            if index in doubles:
                self.rejected.append((str(file.relative_to(folder)), doubles[index]))
            else:
                self.files.append(file)
                columns.append(column)
        self.names = [file.stem for file in self.files]
        self.labels, self.subjects, self._views = np.array(columns, dtype=np.int64).reshape(-1, 3).T
        layout = choose_layout(skeleton, KINECT20, folder)
        self.info = SetInfo("nw_ucla", str(folder.resolve()), RESEARCH_TERMS, layout, tuple(ACTIONS.values()), None)
        self._contents: dict[int, bytes] = {}

    def read(self, entries: Sequence[int], workers: int) -> Iterator[Recording | Problem]:
        return read_files(read_nw_ucla, [self.files[entry] for entry in entries], workers)

    def accept(self, entry: int, recording: Recording) -> Problem | None:
        """A file whose own label is not that of its name is a problem."""
        label = int(self.labels[entry])
        found = recording.label if isinstance(recording, Labelled) else None
        # some copies number the classes 1 to 10, some write the action number
        expected = (label + 1, list(ACTIONS)[label])
        if found is not None and found not in expected:
            return Problem("label does not fit the file name", str(self.files[entry]), str(found), f"{expected[0]}")
        self._contents[entry] = hashlib.sha256(recording.clip.joints.tobytes()).digest()
        return None

    def splits(self, kept: np.ndarray) -> dict[str, splits.Split]:
        """Cross-subject and cross-view; call it when the kept entries were accepted: clips with equal joints are told by them."""
        return splits.nw_ucla_splits(self.subjects[kept], self._views[kept], self._duplicates(kept))

    def _duplicates(self, kept: np.ndarray) -> np.ndarray:
        """int64 [N]: the earlier entry with the same joints, -1 where there is none."""
        first: dict[bytes, int] = {}
        earlier = [first.setdefault(self._contents[entry], entry) for entry in kept.tolist()]
        return np.where(np.array(earlier) == kept, -1, earlier)


def _parse_name(file: Path) -> tuple[int, int, int]:
    """(label, subject, view) of a file name."""
    match = NAME.fullmatch(file.stem)
    if match is None:
        raise InputError("file name does not say action, subject, repetition and view", where=file, found=file.stem,
                         expected="aAA_sSS_eEE_vVV, e.g. a01_s02_e00_v03")  # fmt: skip
    action, subject, _, view = map(int, match.groups())
    if action not in _LABELS or subject < 1 or view < 1:
        raise InputError("action number without a class name", where=file, found=action, expected=", ".join(map(str, ACTIONS)))
    return _LABELS[action], subject, view
