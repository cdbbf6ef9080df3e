"""The dataset a model was trained on: found again, unchanged, and of the same meaning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import InputError, MismatchError
from runtime.manifest import Manifest
from runtime.skeleton import Skeleton
from star_edge.data.convert import Track, open_dataset
from star_edge.data.dataset import Dataset

if TYPE_CHECKING:
    from star_edge.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Recorded:
    """What a bundle or a checkpoint keeps about the clips its model was trained on.

    Attributes:
        source, name, sha256: path, name and hash of the dataset; empty when unknown.
        skeleton, class_names: what joints and labels mean to the model.
    """

    source: str
    name: str
    sha256: str
    skeleton: Skeleton
    class_names: tuple[str, ...]

    @classmethod
    def in_bundle(cls, manifest: Manifest) -> Recorded:
        source = manifest.source
        return cls(source.data, source.data_name, source.data_sha256, manifest.skeleton, manifest.class_names)

    @classmethod
    def in_checkpoint(cls, checkpoint: Checkpoint) -> Recorded:
        data = checkpoint.data
        return cls(data.source, data.name, data.sha256, checkpoint.skeleton, checkpoint.class_names)


def open_recorded(recorded: Recorded, given: Dataset | str | Path | None, command: str, track: Track | None = None) -> Dataset:
    """The dataset given, or the recorded one if it is here and unchanged; checked for the meaning of clips and labels.

    Args:
        recorded: by a bundle or a checkpoint.
        given: a dataset or its path; None for the recorded one.
        command: named in the hint of an error, e.g. ``verify``.
        track: shows progress when recordings have to be converted.

    Raises:
        InputError: the recorded dataset is not here.
        MismatchError: it changed since the model was trained, or its clips or classes mean something else.
    """
    dataset = given if isinstance(given, Dataset) else open_dataset(given or _path(recorded, command), track=track)
    if given is None and recorded.sha256 and dataset.meta.sha256 != recorded.sha256:
        raise MismatchError(
            "the data changed since the model was trained on it: its split may hold other clips",
            where=recorded.source,
            found=f"SHA-256 {dataset.meta.sha256[:12]}",
            expected=recorded.sha256[:12],
            hint=f"star-edge {command} --data {recorded.source}, if that is meant",
        )
    _check_meaning(dataset, recorded)
    return dataset


def split_to_fit(recorded: str, given: str | None, where: object) -> str | None:
    """The split whose clips a model is trained on further: its own, or where none is recorded the one given; None for the default.

    Raises MismatchError for another one: its training clips may be what the model is judged by.
    """
    if recorded and given not in (None, recorded):
        raise MismatchError("the model was trained on another split", where=where, found=given, expected=recorded)
    return given or recorded or None


def _path(recorded: Recorded, command: str) -> str:
    if not recorded.source or not Path(recorded.source).exists():
        raise InputError(
            "the data the model was trained on is not here",
            where=recorded.source or None,
            found="no such file or folder" if recorded.source else "nothing recorded with the model",
            expected=f"the dataset {recorded.name}" if recorded.name else "a dataset",
            hint=f"star-edge {command} --data DATASET",
        )
    return recorded.source


def _check_meaning(data: Dataset, recorded: Recorded) -> None:
    """Raise MismatchError unless clips and labels of the dataset mean what the model was trained on."""
    found, expected = data.meta.skeleton, recorded.skeleton
    if _layout(found) != _layout(expected):
        raise MismatchError(
            "the clips have another skeleton than the model",
            where=data.path or data.meta.source,
            found=f"{found.name}, {found.num_joints} joints",
            expected=f"{expected.name}, {expected.num_joints} joints",
            hint="give clips of the model's layout with --data",
        )
    names, known = data.meta.class_names, recorded.class_names
    if names != known:
        differing = [f"{i}: {a!r}, not {b!r}" for i, (a, b) in enumerate(zip(names, known, strict=False)) if a != b]
        raise MismatchError(
            "the clips have other classes than the model",
            where=data.path or data.meta.source,
            found=f"{len(names)} classes" + (f", class {differing[0]}" if differing else ""),
            expected=f"{len(known)} classes: {', '.join(known[:3])}, ...",
            hint="give the data the model was trained on with --data",
        )


def _layout(skeleton: Skeleton) -> tuple[object, ...]:
    """What decides the features of a clip, whatever the layout is called."""
    return skeleton.num_joints, skeleton.bones, skeleton.root, skeleton.dims
