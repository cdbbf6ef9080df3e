"""Writing a packed dataset folder: clips are appended to files, and the whole folder appears by one rename."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec
import numpy as np

from runtime.clip import Clip
from runtime.errors import InputError
from runtime.readers.clip_json import Labelled
from runtime.readers.ntu import Recording
from star_edge.data.dataset import COLUMNS, MAX_PERSONS, SCHEMA, DatasetMeta, Skipped, SplitInfo, hash_columns, is_dataset
from star_edge.data.journal import Journal, Kept, Stamp, Step
from star_edge.data.sources.base import Problem, SetInfo
from star_edge.data.splits import TEST, TRAIN, UNUSED, VAL, Split

log = logging.getLogger(__name__)

_HEADER_BYTES = 128


class DatasetWriter:
    """Writes one dataset folder, in a context, recording by recording.

    Memory holds a few numbers and the name of each clip, never its joints. Until :meth:`commit` all is in the folder
    ``.NAME.partial`` beside the target. Bad input removes it; it outlives anything else that ends the context, a kill too,
    and a writer with the same plan finds it (:meth:`replay`).

    Args:
        out: the folder to make; raises InputError if it exists, unless ``force`` and it is a dataset, which is replaced.
        joints: joints per row.
        plan: names all that the result depends on, apart from the files the recordings are read from.
    """

    def __init__(self, out: Path, joints: int, plan: str, *, force: bool = False) -> None:
        self.out, self.joints, self._plan = out, joints, plan
        self._partial = out.with_name(f".{out.name}.partial")
        self._old = out.with_name(f".{out.name}.old")
        self._folder = self._partial / "dataset"
        _finish_replacing(out, self._old)
        if out.exists() and not (force and (is_dataset(out) or (out.is_dir() and not any(out.iterdir())))):
            raise InputError("the target exists" if not force else "the target exists and is not a dataset folder", where=out,
                             expected="a new folder" if not force else "a dataset folder to replace",
                             hint="choose another name" if force or not is_dataset(out) else "add --force to replace it")  # fmt: skip
        self._lengths: list[int] = []
        self._person_lengths: list[tuple[int, ...]] = []
        self._labels: list[int] = []
        self._subjects: list[int] = []
        self._names: list[str] = []
        self._frames = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> DatasetWriter:
        self._partial.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self._partial, self.out)
        try:
            self._begin()
        except BaseException as error:
            os.close(self._lock)
            self._name_place(error)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # what a full disk refused is refused again; the error is on its way
            self._xyz.close()
            self._journal.close()
        if kind is None or issubclass(kind, InputError):
            shutil.rmtree(self._partial, ignore_errors=True)
        else:
            self._name_place(error)
            log.warning("what is done is kept in %s: the same command goes on from there", self._partial)
        os.close(self._lock)

    def _begin(self) -> None:
        """Open the files to go on with, cleared of what belongs to another plan."""
        self._journal = Journal(self._partial / "journal.jsonl")
        path = self._folder / "xyz.npy"
        if not (
            self._journal.belongs_to(self._plan) and path.is_file()
        ):  # a kill after the last rename leaves the journal alone
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(exist_ok=True)
            path.write_bytes(bytes(_HEADER_BYTES))
            self._journal.start(self._plan)
        (self._folder / "splits").mkdir(exist_ok=True)
        self._xyz: BinaryIO = path.open("r+b")

    def _name_place(self, error: BaseException | None) -> None:
        """Say where it was written: a full disk does not say which file."""
        if isinstance(error, OSError):
            error.filename = error.filename or str(self._partial)

    def __len__(self) -> int:
        return len(self._lengths)

    def replay(self, stamps: Sequence[Stamp]) -> Iterator[Recording | Problem]:
        """What an earlier writer with this plan has done, in order; iterate to the end before anything is written.

        It ends at the first recording whose file has changed since, or whose clip is not on the disk as it should be.

        Args:
            stamps: of the files of all recordings.
        """
        steps = end = 0
        self._xyz.seek(_HEADER_BYTES)
        for stamp, step in zip(stamps, self._journal.steps(), strict=False):
            result = step.problem if step.kept is None else self._read(step.kept)
            if result is None or step.stamp != stamp:
                break
            steps, end = steps + 1, self._xyz.tell()
            yield result
        self._journal.cut(steps)
        self._xyz.seek(end or _HEADER_BYTES)
        self._xyz.truncate()

    def keep(self, recording: Recording, name: str, label: int, subject: int, stamp: Stamp, *, stored: bool) -> None:
        """Add a recording's clip of at most two persons; ``stored`` says that it came from :meth:`replay`."""
        clip = recording.clip
        data = _bytes(clip)
        if not stored:
            self._xyz.write(data)
            self._xyz.flush()  # before the journal says that it is there
            self._journal.append(Step(stamp, kept=_describe_kept(recording, data)))
        self._digest.update(data)
        self._lengths.append(len(clip))
        self._person_lengths.append(clip.person_lengths)
        self._labels.append(label)
        self._subjects.append(subject)
        self._names.append(name)
        self._frames += len(clip)

    def leave_out(self, problem: Problem, stamp: Stamp) -> None:
        """Note that a recording is done and not in the dataset."""
        self._journal.append(Step(stamp, problem=problem))

    def commit(self, info: SetInfo, splits: Mapping[str, Split], default_split: str, skipped: Sequence[Skipped],
               dropped_rows: int, dropped_persons: int) -> DatasetMeta:  # fmt: skip
        """Write columns, splits and ``meta.json``, flush everything and rename the folder into place."""
        columns = self._columns()
        for name, column in columns.items():
            _save(self._folder / f"{name}.npy", column)
        for name, split in splits.items():
            _save(self._folder / "splits" / f"{name}.npy", split.assignment)
        self._xyz.seek(0)
        self._xyz.write(self._header())
        _flush(self._xyz)
        meta = DatasetMeta(
            schema=SCHEMA,
            **msgspec.structs.asdict(info),
            clips=len(self),
            frames=self._frames,
            default_split=default_split,
            splits={name: _describe(split) for name, split in splits.items()},
            skipped=tuple(skipped),
            dropped_rows=dropped_rows,
            dropped_persons=dropped_persons,
            sha256=hash_columns(self._digest, columns),
        )
        with (self._folder / "meta.json").open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(meta), indent=2) + b"\n")
            _flush(file)
        self._replace()
        return meta

    def _read(self, kept: Kept) -> Recording | None:
        """The next recording in ``xyz.npy``, None if it is not the one that was written."""
        rows = sum(kept.person_lengths)
        data = self._xyz.read(rows * self.joints * 12)
        if zlib.crc32(data) != kept.crc32 or len(data) != rows * self.joints * 12:
            return None
        joints = np.frombuffer(data, dtype="<f4").reshape(rows, self.joints, 3)
        clip = Clip(joints, kept.person_lengths, dropped=kept.dropped)
        return Labelled(clip, kept.frames, kept.persons, kept.label, kept.class_name)

    def _columns(self) -> dict[str, np.ndarray]:
        persons = np.zeros((len(self), MAX_PERSONS), dtype="<i4")
        for row, lengths in zip(persons, self._person_lengths, strict=True):
            row[: len(lengths)] = lengths
        numbers = {"lengths": self._lengths, "labels": self._labels, "subjects": self._subjects}
        columns = {name: np.array(values, dtype="<i4") for name, values in numbers.items()}
        columns |= {"person_lengths": persons, "names": np.array(self._names, dtype=np.str_)}
        return {name: columns[name] for name in COLUMNS}

    def _header(self) -> bytes:
        """The .npy version 1.0 header, always of the same size, so that it can be written when F is known."""
        shape = (self._frames, self.joints, 3)
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        body = text.ljust(_HEADER_BYTES - 11) + "\n"
        return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body.encode()

    def _replace(self) -> None:
        if self.out.exists():
            self.out.rename(self._old)
        self._folder.rename(self.out)
        shutil.rmtree(self._old, ignore_errors=True)


def _finish_replacing(out: Path, old: Path) -> None:
    """Put back the dataset that a replacement killed between its two renames had set aside, or remove it."""
    if old.exists() and not out.exists():
        old.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _lock(partial: Path, out: Path) -> int:
    """Open and lock a folder; the lock ends with the descriptor, so with the process too."""
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise InputError(
            "another conversion to this target is running", where=out, hint="wait for it, or choose another name"
        ) from None
    return descriptor


def _bytes(clip: Clip) -> bytes:
    return np.ascontiguousarray(clip.joints, dtype="<f4").tobytes()


def _describe_kept(recording: Recording, data: bytes) -> Kept:
    said = (recording.label, recording.class_name) if isinstance(recording, Labelled) else (None, None)
    clip = recording.clip
    return Kept(zlib.crc32(data), clip.person_lengths, recording.frames, recording.persons, clip.dropped, *said)


def _describe(split: Split) -> SplitInfo:
    count = {part: int((split.assignment == part).sum()) for part in (TRAIN, VAL, TEST, UNUSED)}
    return SplitInfo(split.description, split.val_subjects, count[TRAIN], count[VAL], count[TEST], count[UNUSED])


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        _flush(file)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
