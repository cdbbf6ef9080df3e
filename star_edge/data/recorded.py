"""The dataset a bundle's model was trained on: found again, unchanged, and of the same meaning."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import InputError, MismatchError
from runtime.manifest import Manifest
from runtime.skeleton import Skeleton
from star_edge.data.convert import Track, open_dataset
from star_edge.data.dataset import Dataset


def open_for_bundle(manifest: Manifest, given: Dataset | str | Path | None, verb: str, track: Track | None = None) -> Dataset:
    """The dataset given, or the one recorded in the bundle if it is here and unchanged; checked against the bundle.

    Args:
        manifest: of the bundle.
        given: a dataset or its path; None for the recorded one.
        verb: named in the hint of an error.
        track: shows progress when recordings have to be converted.

    Raises:
        InputError: the recorded dataset is not here.
        MismatchError: it changed since the model was trained, or its clips or classes mean something else.
    """
    dataset = given if isinstance(given, Dataset) else open_dataset(given or _recorded(manifest, verb), track=track)
    expected = manifest.source.data_sha256
    if given is None and expected and dataset.meta.sha256 != expected:
        raise MismatchError(
            "the data changed since the model was trained on it: its split may hold other clips",
            where=manifest.source.data,
            found=f"SHA-256 {dataset.meta.sha256[:12]}",
            expected=expected[:12],
            hint=f"star-edge {verb} --data {manifest.source.data}, if that is meant",
        )
    _check_meaning(dataset, manifest)
    return dataset


def _recorded(manifest: Manifest, verb: str) -> str:
    source = manifest.source
    if not source.data or not Path(source.data).exists():
        raise InputError(
            "the data the model was trained on is not here",
            where=source.data or None,
            found="no such file or folder" if source.data else "nothing recorded in the bundle",
            expected=f"the dataset {source.data_name}" if source.data_name else "a dataset",
            hint=f"star-edge {verb} --data DATASET",
        )
    return source.data


def _check_meaning(data: Dataset, manifest: Manifest) -> None:
    """Raise MismatchError unless clips and labels of the dataset mean what the bundle's model was trained on."""
    found, expected = data.meta.skeleton, manifest.skeleton
    if _layout(found) != _layout(expected):
        raise MismatchError(
            "the clips have another skeleton than the bundle",
            where=data.path or data.meta.source,
            found=f"{found.name}, {found.num_joints} joints",
            expected=f"{expected.name}, {expected.num_joints} joints",
            hint="give clips of the bundle's layout with --data",
        )
    names, known = data.meta.class_names, manifest.class_names
    if names != known:
        differing = [f"{i}: {a!r}, not {b!r}" for i, (a, b) in enumerate(zip(names, known, strict=False)) if a != b]
        raise MismatchError(
            "the clips have other classes than the bundle",
            where=data.path or data.meta.source,
            found=f"{len(names)} classes" + (f", class {differing[0]}" if differing else ""),
            expected=f"{len(known)} classes: {', '.join(known[:3])}, ...",
            hint="give the data the model was trained on with --data",
        )


def _layout(skeleton: Skeleton) -> tuple[object, ...]:
    """What decides the features of a clip, whatever the layout is called."""
    return skeleton.num_joints, skeleton.bones, skeleton.root, skeleton.dims
