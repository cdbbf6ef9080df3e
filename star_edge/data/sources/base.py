"""What all sources share: their protocol, problems, and the description of a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from runtime.errors import InputError
from runtime.readers.decoding import JSON_ERRORS
from runtime.readers.ntu import Recording
from runtime.skeleton import Skeleton
from star_edge.data import splits
from star_edge.skeletons import get_skeleton

DESCRIPTION_FILE = "recordings.json"
DESCRIPTION_SCHEMA = "star-edge/recordings/1"
UNKNOWN_TERMS = "unknown: ask the owner of the recordings"
RESEARCH_TERMS = (
    "offered by its authors for research, no licence text: treat as non-commercial research data and cite the paper"
)


class SetInfo(msgspec.Struct, frozen=True):
    """What is known about a set before any clip is read; the fields are those of :class:`star_edge.data.dataset.DatasetMeta`."""

    name: str
    source: str
    terms: str
    skeleton: Skeleton
    class_names: tuple[str, ...]
    fps: float | None


class Problem(NamedTuple):
    """Why an entry cannot be used; the fields of an InputError, which does not travel between processes by itself."""

    what: str
    where: str | None
    found: str | None
    expected: str | None

    @classmethod
    def of(cls, error: InputError) -> Problem:
        return cls(error.what, error.where, error.found, error.expected)

    def error(self, hint: str | None = None) -> InputError:
        return InputError(self.what, where=self.where, found=self.found, expected=self.expected, hint=hint)


class Source(Protocol):
    """Entries in a fixed order; every array has one element an entry.

    Attributes:
        info: name, terms, skeleton, classes.
        names: clip names, unique.
        files: the file each entry is read from.
        labels, subjects: int64 [N]; subject 0 where none is known.
        rejected: (file, problem) of files that are no entry at all.

    Where only the files themselves tell their class, the label of an entry is set when it is accepted, and ``info`` has the classes of
    all that were accepted.
    """

    names: list[str]
    files: list[Path]
    labels: np.ndarray
    subjects: np.ndarray
    rejected: list[tuple[str, Problem]]

    @property
    def info(self) -> SetInfo: ...

    def read(self, entries: Sequence[int], workers: int) -> Iterator[Recording | Problem]:
        """The clips of ``entries`` in that order, whatever the number of workers."""

    def accept(self, entry: int, recording: Recording) -> Problem | None:
        """Take note of what was read, by this run or an earlier one; entries come in order. Returns why it cannot be used, if so."""

    def splits(self, kept: np.ndarray) -> dict[str, splits.Split]:
        """The schemes over the entries that were kept, all accepted before; the default first."""


class AcceptsAll:
    """For sources that know all about an entry before it is read."""

    def accept(self, entry: int, recording: Recording) -> None:
        return None


class FolderDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``recordings.json`` beside recordings that are not a known set itself; of ``.skeleton`` files the label is the action number minus one."""

    schema: str
    name: str
    terms: str
    class_names: tuple[str, ...]
    fps: float | None = None


def check_layout(layout: Skeleton, joints: int, where: object) -> None:
    if layout.num_joints != joints:
        raise InputError("skeleton layout does not fit the recordings", where=where, found=f"{joints} joints",
                         expected=f"{layout.num_joints} joints of '{layout.name}'")  # fmt: skip


def read_description(folder: Path) -> FolderDescription | None:
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        return None
    try:
        description = msgspec.json.decode(path.read_bytes(), type=FolderDescription)
    except JSON_ERRORS as error:
        raise InputError(
            "description of the recordings is damaged", where=path, found=str(error), expected=DESCRIPTION_SCHEMA
        ) from None
    if description.schema != DESCRIPTION_SCHEMA or not description.class_names:
        raise InputError("description of the recordings is not usable", where=path,
                         found=f"schema {description.schema}, {len(description.class_names)} classes",
                         expected=f"{DESCRIPTION_SCHEMA}, at least one class")  # fmt: skip
    return description


def choose_layout(skeleton: str | None, default: Skeleton, where: Path) -> Skeleton:
    """The layout asked for, which must have the joints and dimensions of ``default``, or ``default``."""
    layout = get_skeleton(skeleton) if skeleton else default
    check_layout(layout, default.num_joints, where)
    if layout.dims != default.dims:
        raise InputError("skeleton layout does not fit the recordings", where=where, found=f"{default.dims}-D joints",
                         expected=f"{layout.dims}-D joints of '{layout.name}'")  # fmt: skip
    return layout


def class_names_for(description: FolderDescription | None, known: Mapping[int, str], labels: np.ndarray) -> tuple[str, ...]:
    """Names of classes 0 to the largest label: the description's, else those known, else ``class i``."""
    if description:
        return description.class_names
    return tuple(known.get(label, f"class {label}") for label in range(int(labels.max(initial=-1)) + 1))


def find_files(folder: Path, suffix: str) -> list[Path]:
    """The files of a suffix under a folder, by name and then by path; the folder's description is not one of them."""
    return sorted(
        (file for file in folder.rglob(f"*{suffix}") if file.name != DESCRIPTION_FILE and file.is_file()),
        key=lambda file: (file.name, str(file)),
    )


def unique_names(names: Sequence[str], where: Sequence[object]) -> dict[int, Problem]:
    """The entries whose name an earlier entry has, with that as their problem."""
    first: dict[str, int] = {}
    problems = {}
    for entry, name in enumerate(names):
        if name in first:
            problems[entry] = Problem("two clips of one name", str(where[entry]), str(where[first[name]]), "one clip a name")
        else:
            first[name] = entry
    return problems
