"""Readers: a recording on disk becomes clips."""

from __future__ import annotations

from pathlib import Path

from runtime.clip import Clip
from runtime.errors import InputError
from runtime.readers.clip_json import read_clip_json
from runtime.readers.npy import read_npy
from runtime.readers.npz import read_npz
from runtime.readers.ntu import read_ntu

SUFFIXES = (".skeleton", ".npz", ".npy", ".json")


def read_clips(path: str | Path) -> list[Clip]:
    """The clips of one file, chosen by suffix: ``.skeleton`` (NTU RGB+D, one clip), ``.npz`` (packed clips),
    ``.npy`` (one person, [n, V, 3]) or ``.json`` (Northwestern-UCLA or Kinetics-skeleton, one clip).

    Raises InputError for a missing file, another suffix or a damaged file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such file", where=path, expected=f"a file: {', '.join(SUFFIXES)}")
    if path.suffix == ".skeleton":
        return [read_ntu(path).clip]
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix == ".npy":
        return [read_npy(path)]
    if path.suffix == ".json":
        return [read_clip_json(path).clip]
    raise InputError("unknown kind of recording", where=path, found=path.suffix or "no suffix", expected=", ".join(SUFFIXES))
