"""``clips.npz`` of a bundle: recorded clips with their labels, so that a board can recognise what it was judged on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.archive import CLIPS
from runtime.bundle import Bundle
from runtime.clip import Clip
from runtime.errors import InputError
from runtime.files import scratch_folder
from runtime.readers.npz import load_npz


@dataclass(frozen=True, eq=False)
class PackedClips:
    """Clips of a bundle and what they show: labels int64 [N], each an index of the bundle's classes."""

    clips: list[Clip]
    labels: np.ndarray


def clips_to_bytes(clips: Sequence[Clip], labels: np.ndarray, class_names: Sequence[str]) -> bytes:
    """An ``.npz`` as :mod:`runtime.readers.npz` reads it, N clips; the same clips give the same bytes.

    That format gives each person of a clip as many rows, so the shorter one is filled with rows of zeros, a lost person's,
    which every reader drops.
    """
    buffer = io.BytesIO()
    arrays = [_rows(clip) for clip in clips]
    np.savez(
        buffer,
        xyz=np.concatenate(arrays),
        lengths=np.array([len(rows) for rows in arrays], dtype=np.int32),
        persons=np.array([len(clip.person_lengths) for clip in clips], dtype=np.int32),
        labels=np.asarray(labels, dtype=np.int32),
        names=np.array([clip.name for clip in clips], dtype=np.str_),
        class_names=np.array(class_names, dtype=np.str_),
    )
    return buffer.getvalue()


def read_packed_clips(bundle: Bundle) -> PackedClips:
    """The clips in a bundle, packed or not.

    Raises InputError when it has none, when they cannot be read, or when a label is not one of the bundle's classes.
    """
    data, where = bundle.sidecar(CLIPS), bundle.path / CLIPS
    if data is None:
        raise InputError("the bundle has no clips", where=bundle.path, expected=CLIPS, hint="star-edge pack --clips DATASET")
    with scratch_folder() as folder:  # the reader of .npz files takes a path
        path = folder / CLIPS
        path.write_bytes(data)
        try:
            held = load_npz(path)
            labels = held.column("labels")
            clips = [Clip.from_persons(held.person_rows(i), name) for i, name in enumerate(held.names)]
        except InputError as error:
            at = where if error.where == str(path) else error.where
            raise InputError(error.what, where=at, found=error.found, expected=error.expected, hint=error.hint) from None
    classes = len(bundle.class_names)
    if not ((labels >= 0) & (labels < classes)).all():
        raise InputError("clips of other classes than the bundle's", where=where, found=f"labels {labels.min()} to {labels.max()}",
                         expected=f"0 to {classes - 1}", hint="star-edge pack --clips DATASET")  # fmt: skip
    return PackedClips(clips, labels)


def _rows(clip: Clip) -> np.ndarray:
    """Joints float32 [P*m, V, 3] of P persons, each filled up to the m rows of the longest."""
    longest = max(clip.person_lengths)
    persons = np.split(clip.joints, np.cumsum(clip.person_lengths)[:-1])
    filled = [np.pad(person, ((0, longest - len(person)), (0, 0), (0, 0))) for person in persons]
    return np.concatenate(filled).astype(np.float32)
