"""``.npz`` files of packed clips: all clips one after another along the frames.

Arrays: ``xyz`` float32 [frames, joints, 3] and ``lengths`` int [clips]; optional ``persons`` int [clips] (a clip of p persons
is p equal parts of its rows), ``labels``, ``subjects``, ``names``, ``class_names``, ``edges`` int [bones, 2], and any other
array with one entry per clip.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.clip import Clip
from runtime.errors import InputError
from runtime.readers.decoding import DECODE_ERRORS, reason_of


@dataclass(frozen=True)
class NpzClips:
    """The checked arrays of one file.

    Attributes:
        path: the file.
        xyz: float32 [F, V, 3], finite.
        starts: int64 [N+1]; clip i is rows ``starts[i]:starts[i+1]``.
        persons: int64 [N], persons per clip.
        names: one per clip.
        arrays: every other array of the file; integers and text only.
    """

    path: Path
    xyz: np.ndarray
    starts: np.ndarray
    persons: np.ndarray
    names: list[str]
    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def person_rows(self, index: int) -> list[np.ndarray]:
        """Views [n_p, V, 3] of the persons of one clip, lost rows included."""
        return np.split(self.xyz[self.starts[index] : self.starts[index + 1]], self.persons[index])

    def column(self, name: str) -> np.ndarray:
        """An integer array with one entry per clip, as int64 [N]; raises InputError when absent or of another shape."""
        array = self.arrays.get(name)
        if array is None:
            raise InputError(
                "array is missing", where=self.path, found=", ".join(sorted(self.arrays)), expected=f"an array '{name}'"
            )
        _require(array.dtype.kind in "iu" and array.shape == (len(self),), self.path, f"array '{name}' does not fit the clips",
                 f"{array.dtype} {array.shape}", f"integers ({len(self)},)")  # fmt: skip
        return array.astype(np.int64)


def load_npz(path: str | Path) -> NpzClips:
    """Read and check a file of clips.

    Raises InputError for a file that is truncated or no zip archive, holds Python objects, lacks ``xyz``, or whose
    arrays do not fit each other.
    """
    path = Path(path)
    arrays = _load_arrays(path)
    _require("xyz" in arrays, path, "array is missing", ", ".join(sorted(arrays)) or "no arrays", "an array 'xyz'")
    xyz = arrays.pop("xyz")
    _require(xyz.ndim == 3 and xyz.shape[2] == 3 and xyz.shape[1] > 0, path, "array 'xyz' has the wrong shape", xyz.shape,
             "(frames, joints, 3)")  # fmt: skip
    _require(xyz.dtype.kind == "f", path, "array 'xyz' has the wrong type", xyz.dtype, "float32")
    with np.errstate(over="ignore"):  # too large for float32: found as infinity below
        xyz = np.ascontiguousarray(xyz, dtype=np.float32)
    if not np.isfinite(xyz).all():
        row, joint, _ = (int(i) for i in np.argwhere(~np.isfinite(xyz))[0])
        _require(False, path, "joints hold NaN or infinity", f"row {row}, joint {joint}", "finite coordinates")
    lengths = arrays.pop("lengths", np.array([len(xyz)]))
    _require(lengths.ndim == 1 and lengths.dtype.kind in "iu" and len(lengths) > 0, path, "array 'lengths' is not usable",
             f"{lengths.dtype} {lengths.shape}", "integers (clips,)")  # fmt: skip
    _require(bool((lengths >= 0).all()) and int(lengths.astype(object).sum()) == len(xyz), path,
             "array 'lengths' does not cover the frames", f"smallest {lengths.min()}, sum {lengths.astype(object).sum()}",
             f"no negative length, sum {len(xyz)}")  # fmt: skip
    lengths = lengths.astype(np.int64)
    clips = NpzClips(path, xyz, np.concatenate([[0], np.cumsum(lengths)]), np.ones(len(lengths), dtype=np.int64), [], arrays)
    persons = clips.column("persons") if "persons" in arrays else clips.persons
    _require(bool((persons > 0).all()) and not (lengths % np.maximum(persons, 1)).any(), path,
             "array 'persons' does not divide the clips", f"{persons.min()} to {persons.max()} persons",
             "at least one person, rows of a clip divisible by its persons")  # fmt: skip
    names = arrays.pop("names", None)
    if names is None:
        names = np.array([f"{path.stem}/{i}" for i in range(len(lengths))])
    _require(names.dtype.kind == "U" and names.shape == lengths.shape, path, "array 'names' does not fit the clips",
             f"{names.dtype} {names.shape}", f"text ({len(lengths)},)")  # fmt: skip
    return NpzClips(path, xyz, clips.starts, persons, names.tolist(), arrays)


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        if not zipfile.is_zipfile(path):  # which np.load takes for a single array, or for a pickle
            raise zipfile.BadZipFile("no zip directory")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except DECODE_ERRORS as error:
        raise InputError("cannot read the .npz file", where=path, found=reason_of(error),
                         expected="arrays of numbers and text, undamaged") from None  # fmt: skip
    for name, array in arrays.items():
        _require(isinstance(array, np.ndarray), path, "archive holds something else than arrays", name, "arrays only")
    return arrays


def _require(holds: bool, where: object, what: str, found: object, expected: object) -> None:
    if not holds:
        raise InputError(what, where=where, found=found, expected=expected)


def read_npz(path: str | Path) -> list[Clip]:
    """Every clip of a file, lost rows dropped and counted; raises InputError, also for a clip without any tracked row."""
    clips = load_npz(path)
    return [Clip.from_persons(clips.person_rows(i), name) for i, name in enumerate(clips.names)]
