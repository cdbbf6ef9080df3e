"""The clips that travel in a bundle, as a dataset: what a board without the data set is judged on."""

from __future__ import annotations

import numpy as np

from runtime.archive import CLIPS
from runtime.bundle import Bundle
from runtime.files import scratch_folder
from runtime.packed_clips import read_packed_clips
from runtime.readers.ntu import Recording
from star_edge.data.dataset import Dataset
from star_edge.data.sources.base import SetInfo
from star_edge.data.splits import TEST, Split
from star_edge.data.writer import DatasetWriter

SPLIT = "packed"


def packed_dataset(bundle: Bundle) -> Dataset:
    """The clips of ``star-edge pack --clips``, all of them test clips of the one split ``packed``.

    Raises as :func:`runtime.packed_clips.read_packed_clips`.
    """
    packed, manifest = read_packed_clips(bundle), bundle.manifest
    info = SetInfo(
        "packed clips", str(bundle.path / CLIPS), manifest.source.terms, manifest.skeleton, manifest.class_names, None
    )
    split = Split(np.full(len(packed.clips), TEST, dtype=np.int8), "the clips that came with the bundle")
    with scratch_folder() as folder:
        with DatasetWriter(folder / "dataset", manifest.skeleton.num_joints, SPLIT) as writer:
            list(writer.replay([]))  # there is no earlier conversion to go on with
            for clip, label in zip(packed.clips, packed.labels.tolist(), strict=True):
                recording = Recording(clip, len(clip), len(clip.person_lengths))
                writer.keep(recording, clip.name, label, 0, (0, 0), stored=False)
            writer.commit(info, {SPLIT: split}, SPLIT, [], 0, 0)
        return Dataset.open(folder / "dataset", temporary=True)  # its memory map keeps the deleted file readable
