"""Folders of ``.npy`` clips, one sub-folder a class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from runtime.readers.npy import read_npy
from runtime.readers.ntu import Recording
from star_edge.data import splits
from star_edge.data.sources.base import UNKNOWN_TERMS, AcceptsAll, Problem, SetInfo, find_files, read_description
from star_edge.data.sources.workers import read_files
from star_edge.skeletons import LAYOUTS, get_skeleton


class NpyFolderSource(AcceptsAll):
    """Files ``CLASS/CLIP.npy``, arrays [n, V, 3] of one person each; classes are the sub-folders in the order of their names.

    The clips say nothing of their joints, so the layout has to be named. With a ``recordings.json`` the classes are its class names, and each
    sub-folder is called like one of them.
    """

    def __init__(self, folder: Path, skeleton: str | None = None) -> None:
        if skeleton is None:
            raise InputError("cannot tell the skeleton layout", where=folder, found="arrays without names of joints", expected="a layout",
                             hint=f"add --skeleton with one of {', '.join(LAYOUTS)}, or a .json file")  # fmt: skip
        self._layout = get_skeleton(skeleton)
        description = read_description(folder)
        found = sorted(find_files(folder, ".npy"), key=lambda file: file.relative_to(folder).parts)
        classes = description.class_names if description else tuple(sorted({_class_of(file, folder) for file in found} - {""}))
        self.rejected: list[tuple[str, Problem]] = []
        self.files: list[Path] = []
        labels = []
        for file in found:
            name = _class_of(file, folder)
            if name in classes:
                self.files.append(file)
                labels.append(classes.index(name))
            else:
                problem = Problem("file is in no folder of a class", str(file), name or "no sub-folder", "CLASS/CLIP.npy")
                self.rejected.append((str(file.relative_to(folder)), problem))
        self.names = [file.relative_to(folder).with_suffix("").as_posix() for file in self.files]
        self.labels = np.array(labels, dtype=np.int64)
        self.subjects = np.zeros(len(labels), dtype=np.int64)
        name, terms, fps = (
            (description.name, description.terms, description.fps)
            if description
            else (folder.resolve().name, UNKNOWN_TERMS, None)
        )
        self.info = SetInfo(name, str(folder.resolve()), terms, self._layout, classes, fps)

    def read(self, entries: Sequence[int], workers: int) -> Iterator[Recording | Problem]:
        files = [self.files[entry] for entry in entries]
        for file, result in zip(files, read_files(_read, files, workers), strict=True):
            joints = result.clip.joints.shape[1] if isinstance(result, Recording) else self._layout.num_joints
            if joints == self._layout.num_joints:
                yield result
            else:
                yield Problem("wrong joint count", str(file), f"{joints} joints", f"{self._layout.num_joints} joints")

    def splits(self, kept: np.ndarray) -> dict[str, splits.Split]:
        return splits.stratified_splits([self.names[entry] for entry in kept.tolist()], self.labels[kept])


def _class_of(file: Path, folder: Path) -> str:
    """The sub-folder of a clip; empty for a file that is not exactly one folder down."""
    parts = file.relative_to(folder).parts
    return parts[0] if len(parts) == 2 else ""


def _read(path: Path) -> Recording:
    clip = read_npy(path)
    if not np.isfinite(clip.joints).all():
        raise InputError("joints hold NaN or infinity", where=path, expected="finite coordinates")
    return Recording(clip, len(clip) + clip.dropped, 1)
