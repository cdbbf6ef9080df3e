"""Writing a packed dataset folder: clips are appended to files, and the whole folder appears by one rename."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec
import numpy as np

from runtime.clip import Clip
from runtime.errors import InputError
from runtime.skeleton import Skeleton
from star_edge.data.dataset import COLUMNS, MAX_PERSONS, SCHEMA, DatasetMeta, Skipped, SplitInfo, hash_columns, is_dataset
from star_edge.data.splits import TEST, TRAIN, UNUSED, VAL, Split

_HEADER_BYTES = 128


class SetInfo(msgspec.Struct, frozen=True):
    """What is known about a set before any clip is read; the fields are those of :class:`DatasetMeta`."""

    name: str
    source: str
    terms: str
    skeleton: Skeleton
    class_names: tuple[str, ...]
    fps: float | None


class DatasetWriter:
    """Writes one dataset folder, in a context: what was appended vanishes unless :meth:`commit` was reached.

    Memory holds a few numbers and the name of each clip, never its joints. A folder left by a killed conversion to the
    same target is cleared away first.

    Args:
        out: the folder to make; raises InputError if it exists, unless ``force`` and it is a dataset, which is replaced.
        joints: joints per row.
    """

    def __init__(self, out: Path, joints: int, *, force: bool = False) -> None:
        self.out, self.joints = out, joints
        if out.exists() and not (force and (is_dataset(out) or (out.is_dir() and not any(out.iterdir())))):
            raise InputError("the target exists" if not force else "the target exists and is not a dataset folder", where=out,
                             expected="a new folder" if not force else "a dataset folder to replace",
                             hint="choose another name" if force or not is_dataset(out) else "add --force to replace it")  # fmt: skip
        self._folder = out.with_name(f".{out.name}.{os.getpid()}.partial")
        self._lengths: list[int] = []
        self._person_lengths: list[tuple[int, ...]] = []
        self._labels: list[int] = []
        self._subjects: list[int] = []
        self._names: list[str] = []
        self._frames = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> DatasetWriter:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(self.out)
        (self._folder / "splits").mkdir(parents=True)
        self._xyz: BinaryIO = (self._folder / "xyz.npy").open("wb")
        self._xyz.write(self._header())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._xyz.close()
        shutil.rmtree(self._folder, ignore_errors=True)  # gone already after a commit

    def __len__(self) -> int:
        return len(self._lengths)

    def append(self, clip: Clip, name: str, label: int, subject: int) -> None:
        """Add one clip of at most two persons."""
        data = np.ascontiguousarray(clip.joints, dtype="<f4").tobytes()
        self._xyz.write(data)
        self._digest.update(data)
        self._lengths.append(len(clip))
        self._person_lengths.append(clip.person_lengths)
        self._labels.append(label)
        self._subjects.append(subject)
        self._names.append(name)
        self._frames += len(clip)

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
        self._xyz.close()
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

    def _columns(self) -> dict[str, np.ndarray]:
        persons = np.zeros((len(self), MAX_PERSONS), dtype="<i4")
        for row, lengths in zip(persons, self._person_lengths, strict=True):
            row[: len(lengths)] = lengths
        numbers = {"lengths": self._lengths, "labels": self._labels, "subjects": self._subjects}
        columns = {name: np.array(values, dtype="<i4") for name, values in numbers.items()}
        columns |= {"person_lengths": persons, "names": np.array(self._names, dtype=np.str_)}
        return {name: columns[name] for name in COLUMNS}

    def _header(self) -> bytes:
        """The .npy version 1.0 header, always of the same size, so that it can be written again when F is known."""
        shape = (self._frames, self.joints, 3)
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        body = text.ljust(_HEADER_BYTES - 11) + "\n"
        return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body.encode()

    def _replace(self) -> None:
        old = self.out.with_name(f".{self.out.name}.{os.getpid()}.old")
        if self.out.exists():
            self.out.rename(old)
        try:
            self._folder.rename(self.out)
        except BaseException:
            if old.exists():
                old.rename(self.out)
            raise
        shutil.rmtree(old, ignore_errors=True)


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


def _remove_abandoned(out: Path) -> None:
    """Remove partial folders of this target whose process is gone."""
    for folder in out.parent.glob(f".{out.name}.*.partial"):
        pid = folder.name.split(".")[-2]
        if pid.isdigit() and (int(pid) == os.getpid() or not _alive(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # there, but another user's
        return True
    return True
