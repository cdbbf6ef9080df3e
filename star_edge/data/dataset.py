"""The packed dataset folder: every clip of a set in one memory-mapped array, described by a typed ``meta.json``.

``xyz.npy`` float32 [F, V, 3] holds the clips one after another; ``lengths.npy`` int32 [N] their rows, ``person_lengths.npy``
int32 [N, 2] the rows of each person, ``labels.npy`` and ``subjects.npy`` int32 [N], ``names.npy`` text [N], and
``splits/<scheme>.npy`` int8 [N] the part of each clip (0 train, 1 val, 2 test, -1 unused).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import msgspec
import numpy as np

from runtime.clip import Clip
from runtime.errors import InputError, MismatchError
from runtime.readers.decoding import DECODE_ERRORS, JSON_ERRORS, reason_of
from runtime.skeleton import Skeleton
from star_edge.data.splits import PARTS, SCHEME_NAME, TEST, UNUSED

SCHEMA = "star-edge/dataset/1"
COLUMNS = ("lengths", "person_lengths", "labels", "subjects", "names")
MAX_PERSONS = 2
_HASH_ROWS = 16384


class SplitInfo(msgspec.Struct, frozen=True):
    """One scheme in words, the subjects held out as val, and the clips of each part."""

    description: str
    val_subjects: tuple[int, ...]
    train: int
    val: int
    test: int
    unused: int


class Skipped(msgspec.Struct, frozen=True):
    """A recording that was left out: its file or clip name, the kind of reason, and what exactly was found."""

    file: str
    reason: str
    detail: str = ""


class DatasetMeta(msgspec.Struct, frozen=True):
    """``meta.json``.

    Attributes:
        schema: ``star-edge/dataset/1``.
        name: short name of the set.
        source: the path it was made from.
        terms: what the owner of the recordings allows.
        skeleton: layout of the joints.
        class_names: index is the label.
        fps: frames per second, None where unknown.
        clips, frames: N and F; frames counts the rows of both persons.
        default_split: scheme used when none is named.
        splits: schemes by name.
        skipped: recordings left out, with reasons.
        dropped_rows: rows left out because every joint of the person was lost or the person was absent.
        dropped_persons: tracked persons beyond the two with the most motion.
        sha256: of xyz and all columns, in the order of COLUMNS.
    """

    schema: str
    name: str
    source: str
    terms: str
    skeleton: Skeleton
    class_names: tuple[str, ...]
    fps: float | None
    clips: int
    frames: int
    default_split: str
    splits: dict[str, SplitInfo]
    skipped: tuple[Skipped, ...]
    dropped_rows: int
    dropped_persons: int
    sha256: str


class Dataset:
    """A packed dataset, opened read-only; joints stay on disk until a clip is asked for.

    Attributes:
        path: the folder, None for one that was converted on the fly.
        meta: the typed description.
        xyz: float32 [F, V, 3], memory-mapped.
        lengths, labels, subjects: int32 [N].
        person_lengths: int32 [N, 2], zero for an absent person.
        names: text [N].
    """

    def __init__(self, folder: Path, meta: DatasetMeta, xyz: np.ndarray, columns: dict[str, np.ndarray],
                 splits: dict[str, np.ndarray], path: Path | None) -> None:  # fmt: skip
        self.path, self.meta, self.xyz = path, meta, xyz
        self.lengths, self.person_lengths = columns["lengths"], columns["person_lengths"]
        self.labels, self.subjects, self.names = columns["labels"], columns["subjects"], columns["names"]
        self._splits = splits
        self._starts = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])
        self._where = folder

    @classmethod
    def open(cls, path: str | Path, *, temporary: bool = False) -> Dataset:
        """Open a dataset folder and check that its files fit each other.

        ``temporary`` marks a folder that is about to be deleted, so that ``path`` is None.
        Raises InputError for a folder that is damaged, MismatchError for one of another schema.
        """
        folder = Path(path)
        meta = _read_meta(folder)
        xyz = _load(folder / "xyz.npy", "f4", (meta.frames, meta.skeleton.num_joints, 3), mmap=True)
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(COLUMNS, (meta.clips,))
        shapes["person_lengths"] = (meta.clips, MAX_PERSONS)
        columns = {name: _load(folder / f"{name}.npy", "U" if name == "names" else "i4", shapes[name]) for name in COLUMNS}
        splits = {name: _load(folder / "splits" / f"{name}.npy", "i1", (meta.clips,)) for name in meta.splits}
        _check_columns(folder, meta, columns, splits)
        return cls(folder, meta, xyz, columns, splits, None if temporary else folder)

    def __len__(self) -> int:
        return self.meta.clips

    def clip(self, index: int) -> Clip:
        """Clip ``index`` with its own copy of the joints; raises InputError if they are not finite."""
        if not 0 <= index < len(self):
            raise InputError("no such clip", where=self._where, found=index, expected=f"0 to {len(self) - 1}")
        joints = np.array(self.xyz[self._starts[index] : self._starts[index + 1]])
        if not np.isfinite(joints).all():
            row, joint, _ = (int(i) for i in np.argwhere(~np.isfinite(joints))[0])
            raise InputError("joints hold NaN or infinity", where=f"{self._where / 'xyz.npy'}, clip {self.names[index]}",
                             found=f"row {row}, joint {joint}", expected="finite coordinates")  # fmt: skip
        lengths = tuple(int(rows) for rows in self.person_lengths[index] if rows)
        return Clip(joints, lengths, str(self.names[index]))

    def clips(self, indices: np.ndarray) -> Clips:
        """The clips of ``indices``, in that order, none of them in memory yet."""
        return Clips(self, indices)

    def assignment(self, scheme: str | None = None) -> np.ndarray:
        """int8 [N]: 0 train, 1 val, 2 test, -1 unused; the default scheme if none is named."""
        scheme = scheme or self.meta.default_split
        if scheme not in self._splits:
            raise InputError(f"no split '{scheme}'", where=self._where, found=scheme, expected=", ".join(self._splits))
        return self._splits[scheme]

    def indices(self, scheme: str | None, part: str) -> np.ndarray:
        """int64: the clips of ``train``, ``val`` or ``test`` in ascending order."""
        if part not in PARTS:
            raise InputError(f"no part '{part}'", found=part, expected=", ".join(PARTS))
        return np.flatnonzero(self.assignment(scheme) == PARTS[part])

    def sha256(self) -> str:
        """Hash of joints and columns as they are now; equals ``meta.sha256`` in an undamaged folder."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        digest = hashlib.sha256()
        for start in range(0, len(self.xyz), _HASH_ROWS):
            digest.update(np.ascontiguousarray(self.xyz[start : start + _HASH_ROWS]).data)
        return hash_columns(digest, columns)


class Clips(Sequence[Clip]):
    """Clips of a dataset, read from its files each time one is asked for.

    Attributes:
        lengths: int32 [N], rows of each.
        persons: int64 [N], how many are in each.
    """

    def __init__(self, dataset: Dataset, indices: np.ndarray) -> None:
        self.lengths = dataset.lengths[indices]
        self.persons = (dataset.person_lengths[indices] > 0).sum(1)
        self._dataset, self._indices = dataset, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, at: int) -> Clip: ...

    @overload
    def __getitem__(self, at: slice) -> Clips: ...

    def __getitem__(self, at: int | slice) -> Clip | Clips:
        if isinstance(at, slice):
            return Clips(self._dataset, self._indices[at])
        return self._dataset.clip(int(self._indices[at]))


def hash_columns(digest: hashlib._Hash, columns: dict[str, np.ndarray]) -> str:
    """Finish the dataset hash: ``digest`` has taken the bytes of xyz, the columns follow."""
    for name in COLUMNS:
        column = columns[name]
        data = "\n".join(column.tolist()).encode() if name == "names" else column.astype("<i4").tobytes()
        digest.update(f"{name} {column.shape}\n".encode() + data)
    return digest.hexdigest()


def is_dataset(path: Path) -> bool:
    """Whether ``path`` is a folder with a dataset description."""
    return (path / "meta.json").is_file()


class _SchemaOnly(msgspec.Struct):
    schema: str


def _read_meta(folder: Path) -> DatasetMeta:
    where = folder / "meta.json"
    try:
        data = where.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("not a dataset folder", where=folder, found="no meta.json", expected="a folder made by star-edge data convert",
                         hint=f"star-edge data convert SOURCE {folder.name}") from None  # fmt: skip
    try:
        schema = msgspec.json.decode(data, type=_SchemaOnly).schema
        if schema != SCHEMA:
            raise MismatchError("dataset of another schema", where=where, found=schema, expected=SCHEMA,
                                hint="convert the source again, or use the star-edge that made it")  # fmt: skip
        meta = msgspec.json.decode(data, type=DatasetMeta)
    except JSON_ERRORS as error:
        raise InputError("dataset description is damaged", where=where, found=str(error), expected=SCHEMA,
                         hint="convert the source again") from None  # fmt: skip
    meta.skeleton.check(where=where)
    _require(meta.clips > 0 and meta.frames > 0, where, "dataset without clips", f"{meta.clips} clips", "at least one")
    _require(meta.default_split in meta.splits, where, "default split is not among the splits", meta.default_split,
             ", ".join(meta.splits))  # fmt: skip
    for name in meta.splits:
        _require(SCHEME_NAME.fullmatch(name) is not None, where, "split name is not usable", name, "letters, digits, _ and -")
    return meta


def _load(path: Path, kind: str, shape: tuple[int, ...], mmap: bool = False) -> np.ndarray:
    """One .npy file of the expected type and shape; never unpickles."""
    try:
        array = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except FileNotFoundError:
        raise InputError("dataset file is missing", where=path, found="no such file", expected=f"an array {shape}",
                         hint="convert the source again") from None  # fmt: skip
    except DECODE_ERRORS as error:
        raise InputError("dataset file is damaged", where=path, found=reason_of(error),
                         expected=f"an array {shape}", hint="convert the source again") from None  # fmt: skip
    matches = isinstance(array, np.ndarray) and (
        array.dtype.kind == "U" if kind == "U" else array.dtype == np.dtype("<" + kind)
    )
    if not matches or array.shape != shape:
        raise InputError("dataset file does not fit meta.json", where=path, found=f"{getattr(array, 'dtype', type(array))} "
                         f"{getattr(array, 'shape', '')}", expected=f"{kind} {shape}", hint="convert the source again")  # fmt: skip
    return array


def _check_columns(folder: Path, meta: DatasetMeta, columns: dict[str, np.ndarray], splits: dict[str, np.ndarray]) -> None:
    lengths, persons, labels = columns["lengths"], columns["person_lengths"], columns["labels"]
    _require(
        bool((lengths > 0).all()), folder / "lengths.npy", "clip without rows", int(lengths.min()), "at least one row a clip"
    )
    total = int(lengths.sum(dtype=np.int64))
    _require(total == meta.frames, folder / "lengths.npy", "lengths do not cover the frames", total, meta.frames)
    fits = (persons >= 0).all() and (persons.sum(1, dtype=np.int64) == lengths).all()
    _require(bool(fits), folder / "person_lengths.npy", "rows per person do not sum to the clip lengths",
             f"clip {int(np.argmax((persons < 0).any(1) | (persons.sum(1, dtype=np.int64) != lengths)))}", "equal sums")  # fmt: skip
    _require(bool((labels >= 0).all() and (labels < len(meta.class_names)).all()), folder / "labels.npy",
             "label without a class name", f"{labels.min()} to {labels.max()}", f"0 to {len(meta.class_names) - 1}")  # fmt: skip
    for name, assignment in splits.items():
        _require(bool((assignment >= UNUSED).all() and (assignment <= TEST).all()), folder / "splits" / f"{name}.npy",
                 "unknown part", f"{assignment.min()} to {assignment.max()}", "-1, 0, 1 or 2")  # fmt: skip


def _require(holds: bool, where: object, what: str, found: object, expected: object) -> None:
    if not holds:
        raise InputError(what, where=where, found=found, expected=expected, hint="convert the source again")
