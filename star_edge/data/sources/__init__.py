"""Where clips come from: one file a source.

A source knows name and subject of each of its entries before reading any joints; see :class:`Source`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runtime.errors import InputError
from star_edge.data.sources.base import DESCRIPTION_FILE, DESCRIPTION_SCHEMA, FolderDescription, Problem, Source, find_files
from star_edge.data.sources.kinetics import KineticsSource
from star_edge.data.sources.npy_folder import NpyFolderSource
from star_edge.data.sources.npz import NpzSource
from star_edge.data.sources.ntu import NtuSource
from star_edge.data.sources.nw_ucla import NAME, NwUclaSource
from star_edge.data.sources.pyskl import PysklSource

__all__ = ["DESCRIPTION_FILE", "DESCRIPTION_SCHEMA", "KINDS", "FolderDescription", "Problem", "Source", "open_source"]

KINDS = (
    "a folder of .skeleton files, of NW-UCLA or Kinetics-skeleton .json files, or of .npy files in a sub-folder a class; "
    "an .npz file, or a PYSKL .pkl file"
)
_FILES: dict[str, Callable[[Path, str | None], Source]] = {".npz": NpzSource, ".pkl": PysklSource}


def open_source(path: Path, skeleton: str | None = None) -> Source:
    """The source at ``path``; ``skeleton`` names a layout or a .json file where the data cannot tell.

    Raises InputError for a path that holds no recordings of a known kind.
    """
    if path.is_dir():
        return _open_folder(path, skeleton)
    if path.suffix in _FILES and path.is_file():
        return _FILES[path.suffix](path, skeleton)
    found = "a file of another kind" if path.exists() else "nothing"
    raise InputError("no recordings here", where=path, found=found, expected=KINDS)


def _open_folder(folder: Path, skeleton: str | None) -> Source:
    """The source whose kind of file the folder holds; of several kinds the first named in KINDS."""
    if any(folder.rglob("*.skeleton")):
        return NtuSource(folder, skeleton)
    clips = find_files(folder, ".json")
    if any(NAME.fullmatch(file.stem) for file in clips):
        return NwUclaSource(folder, skeleton)
    if clips:
        return KineticsSource(folder, skeleton)
    if any(folder.rglob("*.npy")):
        return NpyFolderSource(folder, skeleton)
    raise InputError("no recordings here", where=folder, found="no file of a known kind", expected=KINDS)
