"""Folders of NTU RGB+D ``.skeleton`` files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from runtime.readers.ntu import NtuName, Recording, read_ntu
from runtime.skeleton import Skeleton
from star_edge.data import splits
from star_edge.data.ntu_actions import NTU_ACTIONS
from star_edge.data.sources.base import AcceptsAll, FolderDescription, Problem, SetInfo, check_layout, read_description
from star_edge.data.sources.workers import read_files
from star_edge.skeletons import NTU25, get_skeleton

NTU_TERMS = "NTU RGB+D, ROSE Lab, NTU Singapore: non-commercial academic research on request; redistribution restricted"


class NtuSource(AcceptsAll):
    """A folder (searched recursively) of files named ``SsssCcccPpppRrrrAaaa.skeleton``; the performer is the subject."""

    def __init__(self, folder: Path, skeleton: str | None = None) -> None:
        layout = get_skeleton(skeleton) if skeleton else NTU25
        check_layout(layout, NTU25.num_joints, folder)
        self.rejected: list[tuple[str, Problem]] = []
        self.files: list[Path] = []
        parsed: list[NtuName] = []
        found = sorted(folder.rglob("*.skeleton"), key=lambda file: (file.name, str(file)))
        if not found:
            raise InputError(
                "no recordings here",
                where=folder,
                found="no .skeleton file",
                expected="files named SsssCcccPpppRrrrAaaa.skeleton",
            )
        description = read_description(folder)
        actions = len(description.class_names) if description else len(NTU_ACTIONS)
        for file in found:
            try:
                name = NtuName.parse(file.stem)
                if name.action > actions:
                    raise InputError(
                        "action number without a class name", where=file, found=name.action, expected=f"1 to {actions}"
                    )
                if self.files and self.files[-1].name == file.name:
                    raise InputError("two files of one name", where=file, found=self.files[-1], expected="one file a clip")
            except InputError as error:
                self.rejected.append((str(file.relative_to(folder)), Problem.of(error)))
            else:
                self.files.append(file)
                parsed.append(name)
        self.names = [file.stem for file in self.files]
        columns = [(n.setup, n.camera, n.performer, n.action) for n in parsed]
        self._setups, self._cameras, self.subjects, self._actions = np.array(columns, dtype=np.int64).reshape(-1, 4).T
        self.labels = self._actions - 1
        self._sixty = splits.is_ntu60(self._actions, self._setups)
        self.info = self._describe(folder, layout, description)

    def _describe(self, folder: Path, layout: Skeleton, description: FolderDescription | None) -> SetInfo:
        source = str(folder.resolve())
        if description:
            return SetInfo(description.name, source, description.terms, layout, description.class_names, description.fps)
        classes = NTU_ACTIONS[: splits.NTU60_ACTIONS] if self._sixty else NTU_ACTIONS
        return SetInfo("ntu60" if self._sixty else "ntu120", source, NTU_TERMS, layout, classes, 30.0)

    def read(self, entries: Sequence[int], workers: int) -> Iterator[Recording | Problem]:
        return read_files(read_ntu, [self.files[entry] for entry in entries], workers)

    def splits(self, kept: np.ndarray) -> dict[str, splits.Split]:
        return splits.ntu_splits(self._setups[kept], self._cameras[kept], self.subjects[kept], sixty=self._sixty)
