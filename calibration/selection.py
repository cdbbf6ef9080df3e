"""Which clips calibrate: training clips only, an equal share of every class, from its shortest to its longest."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import InputError, MismatchError
from runtime.manifest import Manifest

if TYPE_CHECKING:
    from star_edge.data import Dataset

log = logging.getLogger("star_edge.calibration")


def stratified(names: np.ndarray, labels: np.ndarray, lengths: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Choose clips so that every class has an equal share and every share covers the lengths of its class.

    The clips of a class, sorted by length, are cut into as many runs as it has places, and one clip is drawn from each run.
    A class with fewer clips than its share gives all it has; the others take up the places left.

    Args:
        names: text [N], unique.
        labels: int [N].
        lengths: int [N], rows of each clip.
        count: clips wanted; all of them are returned when there are fewer.
        seed: of the draw within a run.

    Returns:
        int64 [min(count, N)]: positions of the chosen clips, sorted by name. The clips chosen do not depend on the order
        in which they are given.
    """
    rng = np.random.default_rng(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    chosen: list[int] = []
    for label, places in zip(classes, _shares(sizes, count), strict=True):
        members = np.flatnonzero(labels == label)
        members = members[np.lexsort((names[members], lengths[members]))]
        runs = np.array_split(members, places) if places else []
        chosen += [int(run[rng.integers(len(run))]) for run in runs]
    return np.array(sorted(chosen, key=lambda clip: str(names[clip])), dtype=np.int64)


def training_clips(dataset: Dataset, scheme: str) -> np.ndarray:
    """int64: clips of the part ``train`` of a split; InputError when there is no such split or none are in it."""
    where = dataset.path or dataset.meta.source
    if scheme not in dataset.meta.splits:
        raise InputError(
            f"the dataset has no split '{scheme}' to take training clips from",
            where=where,
            found=", ".join(dataset.meta.splits),
            expected=scheme,
            hint=f"--split {next(iter(dataset.meta.splits))}",
        )
    clips = dataset.indices(scheme, "train")
    if len(clips) == 0:
        raise InputError(
            "no training clips to calibrate with",
            where=where,
            found=f"nothing in part train of split '{scheme}'",
            expected="clips the model was, or could have been, trained on",
            hint="--data DATASET, or another --split",
        )
    return clips


def val_clips(dataset: Dataset, scheme: str) -> np.ndarray:
    """int64: clips of the part ``val`` of a split, which choose; InputError when there are none."""
    clips = dataset.indices(scheme, "val")
    if len(clips) == 0:
        raise InputError(
            "no val clips to choose on",
            where=dataset.path or dataset.meta.source,
            found=f"nothing in part val of split '{scheme}'",
            expected="clips that are not calibrated with; test clips judge the result and choose nothing",
            hint="another --split, or a method by name: star-edge calibrate --method mse",
        )
    return clips


def check_not_held_out(manifest: Manifest, dataset: Dataset, clips: np.ndarray) -> bool:
    """Raise InputError when clips to calibrate with are held out by the split the model was trained on.

    Held out are val and test of the recorded split, less the parts the weights have seen. Clips are compared by name, in
    the dataset itself if it is the recorded one, else in the recorded source.

    Returns:
        False when neither is at hand, so that nothing could be compared.
    """
    source = manifest.source
    reference = dataset if _is_recorded(manifest, dataset) else _open_recorded(manifest)
    if reference is None or source.split not in reference.meta.splits:
        return False
    parts = [part for part in ("val", "test") if part not in source.fitted]
    held_out = {str(name) for part in parts for name in reference.names[reference.indices(source.split, part)]}
    found = sorted(held_out.intersection(str(name) for name in dataset.names[clips]))
    if found:
        raise InputError(
            "calibration would see clips the model is judged by",
            where=dataset.path or dataset.meta.source,
            found=f"{len(found)} clips of {' or '.join(parts)} in split '{source.split}', e.g. {found[0]}",
            expected=f"clips of its part train, as in {source.data or 'the training data'}",
            hint="leave out --data and --split",
        )
    return True


def _shares(sizes: np.ndarray, count: int) -> list[int]:
    """Places per class: as equal as its sizes allow, the first classes taking what cannot be divided."""
    shares = np.zeros(len(sizes), dtype=np.int64)
    left = min(count, int(sizes.sum()))
    while left:
        unfilled = np.flatnonzero(shares < sizes)
        added = np.minimum(sizes - shares, max(1, left // len(unfilled)))[unfilled[:left]]
        shares[unfilled[:left]] += added
        left -= int(added.sum())
    return [int(share) for share in shares]


def _is_recorded(manifest: Manifest, dataset: Dataset) -> bool:
    return bool(manifest.source.data_sha256) and dataset.meta.sha256 == manifest.source.data_sha256


def _open_recorded(manifest: Manifest) -> Dataset | None:
    """The dataset the model was trained on, None when it is not here or cannot be read any more."""
    from star_edge.data import open_dataset

    source = manifest.source.data
    if not source or not Path(source).exists():
        return None
    try:
        return open_dataset(source)
    except (InputError, MismatchError) as error:
        log.warning("the recorded training data cannot be read: %s", error.what)
        return None
