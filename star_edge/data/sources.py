"""Where clips come from: a folder of NTU ``.skeleton`` files, or an ``.npz`` file of packed clips.

A source knows name, label and subject of each of its entries before reading any joints.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from runtime.clip import Clip
from runtime.errors import InputError, StarEdgeError
from runtime.readers.npz import NpzClips, load_npz
from runtime.readers.ntu import MAX_PERSONS, NtuName, Recording, motion, read_ntu
from runtime.skeleton import Skeleton, bones_towards_root
from star_edge.data import splits
from star_edge.data.ntu_actions import NTU_ACTIONS
from star_edge.data.writer import SetInfo
from star_edge.skeletons import LAYOUTS, NTU25, get_skeleton

DESCRIPTION_FILE = "recordings.json"
DESCRIPTION_SCHEMA = "star-edge/recordings/1"
_FILES_PER_WORKER = 64  # starting a process costs as much as reading some dozens of files
_WINDOW = 64  # files in flight per worker process: enough to keep it busy, little enough to bound the memory


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
        labels, subjects: int64 [N].
        rejected: (file, problem) of files that are no entry at all.
    """

    info: SetInfo
    names: list[str]
    labels: np.ndarray
    subjects: np.ndarray
    rejected: list[tuple[str, Problem]]

    def read(self, entries: Sequence[int], workers: int) -> Iterator[Recording | Problem]:
        """The clips of ``entries`` in that order, whatever the number of workers."""

    def splits(self, kept: np.ndarray) -> dict[str, splits.Split]:
        """The schemes over the entries that were kept, the default first."""


def open_source(path: Path, skeleton: str | None = None) -> Source:
    """The source at ``path``; ``skeleton`` names a layout or a .json file where the data cannot tell.

    Raises InputError for a path that is neither a folder of ``.skeleton`` files nor an ``.npz`` file.
    """
    if path.is_dir():
        return NtuSource(path, skeleton)
    if path.suffix == ".npz" and path.is_file():
        return NpzSource(path, skeleton)
    raise InputError("no recordings here", where=path, found="a file of another kind" if path.exists() else "nothing",
                     expected="a folder of .skeleton files, or an .npz file")  # fmt: skip


class FolderDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``recordings.json`` beside ``.skeleton`` files that are not NTU RGB+D itself: the action number minus one is the label."""

    schema: str
    name: str
    terms: str
    class_names: tuple[str, ...]
    fps: float | None = None


class NtuSource:
    """A folder (searched recursively) of files named ``SsssCcccPpppRrrrAaaa.skeleton``; the performer is the subject."""

    def __init__(self, folder: Path, skeleton: str | None = None) -> None:
        layout = get_skeleton(skeleton) if skeleton else NTU25
        _check_layout(layout, NTU25.num_joints, folder)
        self.rejected: list[tuple[str, Problem]] = []
        self._files: list[Path] = []
        parsed: list[NtuName] = []
        found = sorted(folder.rglob("*.skeleton"), key=lambda file: (file.name, str(file)))
        if not found:
            raise InputError(
                "no recordings here",
                where=folder,
                found="no .skeleton file",
                expected="files named SsssCcccPpppRrrrAaaa.skeleton",
            )
        description = _read_description(folder)
        actions = len(description.class_names) if description else len(NTU_ACTIONS)
        for file in found:
            try:
                name = NtuName.parse(file.stem)
                if name.action > actions:
                    raise InputError(
                        "action number without a class name", where=file, found=name.action, expected=f"1 to {actions}"
                    )
                if self._files and self._files[-1].name == file.name:
                    raise InputError("two files of one name", where=file, found=self._files[-1], expected="one file a clip")
            except InputError as error:
                self.rejected.append((str(file.relative_to(folder)), Problem.of(error)))
            else:
                self._files.append(file)
                parsed.append(name)
        self.names = [file.stem for file in self._files]
        columns = [(n.setup, n.camera, n.performer, n.action) for n in parsed]
        self._setups, self._cameras, self.subjects, self._actions = np.array(columns, dtype=np.int64).reshape(-1, 4).T
        self.labels = self._actions - 1
        self._sixty = splits.is_ntu60(self._actions, self._setups)
        self.info = self._describe(folder, layout, description)

    def _describe(self, folder: Path, layout: Skeleton, description: FolderDescription | None) -> SetInfo:
        source = str(folder.resolve())
        if description:
            return SetInfo(description.name, source, description.terms, layout, description.class_names, description.fps)
        terms = "NTU RGB+D, ROSE Lab, NTU Singapore: non-commercial academic research on request; redistribution restricted"
        classes = NTU_ACTIONS[: splits.NTU60_ACTIONS] if self._sixty else NTU_ACTIONS
        return SetInfo("ntu60" if self._sixty else "ntu120", source, terms, layout, classes, 30.0)

    def read(self, entries: Sequence[int], workers: int) -> Iterator[Recording | Problem]:
        return _map_files(_read_file, [self._files[entry] for entry in entries], workers)

    def splits(self, kept: np.ndarray) -> dict[str, splits.Split]:
        return splits.ntu_splits(self._setups[kept], self._cameras[kept], self.subjects[kept], sixty=self._sixty)


class NpzSource:
    """An ``.npz`` file with labels and subjects (see :mod:`runtime.readers.npz`)."""

    def __init__(self, path: Path, skeleton: str | None = None) -> None:
        self._clips = load_npz(path)
        self.names = self._clips.names
        if len(set(self.names)) != len(self.names):
            raise InputError("two clips of one name", where=path, expected="unique names")
        self.labels = self._clips.column("labels")
        self.subjects = self._clips.column("subjects")
        self.rejected: list[tuple[str, Problem]] = []
        classes = _class_names(self._clips, self.labels)
        terms, fps = (
            _KNOWN_SETS[path.stem][1:] if path.stem in _KNOWN_SETS else ("unknown: ask the owner of the recordings", None)
        )
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


_RESEARCH = "offered by its authors for research, no licence text: treat as non-commercial research data and cite the paper"
# file stem -> its published splits, terms, frames per second
_KNOWN_SETS: dict[str, tuple[Callable[..., dict[str, splits.Split]], str, float | None]] = {
    "nw_ucla": (_with_columns(splits.nw_ucla_splits, "subjects", "views", "duplicate_of"), _RESEARCH, None),
    "msr_action3d": (_with_columns(splits.msr_action3d_splits, "subjects", "valid"), _RESEARCH, 15.0),
    "sbu_interaction": (_with_columns(splits.sbu_splits, "subjects", "subjects2", "folds"), _RESEARCH, 15.0),
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
        _check_layout(layout, joints, clips.path)
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


def _check_layout(layout: Skeleton, joints: int, where: Path) -> None:
    if layout.num_joints != joints:
        raise InputError("skeleton layout does not fit the recordings", where=where, found=f"{joints} joints",
                         expected=f"{layout.num_joints} joints of '{layout.name}'")  # fmt: skip


def _read_description(folder: Path) -> FolderDescription | None:
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        return None
    try:
        description = msgspec.json.decode(path.read_bytes(), type=FolderDescription)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(
            "description of the recordings is damaged", where=path, found=str(error), expected=DESCRIPTION_SCHEMA
        ) from None
    if description.schema != DESCRIPTION_SCHEMA or not description.class_names:
        raise InputError("description of the recordings is not usable", where=path,
                         found=f"schema {description.schema}, {len(description.class_names)} classes",
                         expected=f"{DESCRIPTION_SCHEMA}, at least one class")  # fmt: skip
    return description


def _read_file(path: Path) -> Recording | Problem:
    try:
        return read_ntu(path)
    except InputError as error:
        return Problem.of(error)
    except OSError as error:
        return Problem("file cannot be read", str(path), error.strerror or str(error), "a readable file")


def _map_files(
    read: Callable[[Path], Recording | Problem], files: Sequence[Path], workers: int
) -> Iterator[Recording | Problem]:
    """Apply ``read`` in order, in processes where that pays; at most _WINDOW files a worker are in flight."""
    workers = min(workers, len(files) // _FILES_PER_WORKER)
    if workers <= 1:
        yield from map(read, files)
        return
    # spawned, not forked: a fork of a process that runs torch threads may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        pending: deque[Future[Recording | Problem]] = deque()
        try:
            for file in files:
                pending.append(pool.submit(read, file))
                if len(pending) >= workers * _WINDOW:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise StarEdgeError("a conversion process died", hint="free some memory, or convert with --workers 1") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it: a worker of a killed parent would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
