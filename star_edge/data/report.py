"""What is in a dataset, as one typed document."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np

from runtime.errors import MismatchError
from star_edge.data.dataset import Dataset, Skipped, SplitInfo

SCHEMA = "star-edge/data-info/1"
_QUANTILES = {"min": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "max": 1.0}


class ClassCount(msgspec.Struct, frozen=True):
    """A class and its clips."""

    name: str
    clips: int


class DataReport(msgspec.Struct, frozen=True):
    """The document of ``star-edge data info --json``.

    Attributes:
        rows: rows of all persons together.
        subjects: those known; none in a set that does not tell them.
        persons: clips by their number of persons.
        frames_per_person: quantiles of the rows of the longest person of each clip.
        lost_joints, lost_share: joints that are exactly zero in rows that were kept, and their share.
        skipped_by_reason: recordings left out, counted by kind of reason.
    """

    schema: str
    name: str
    source: str
    terms: str
    skeleton: str
    joints: int
    fps: float | None
    clips: int
    rows: int
    persons: dict[int, int]
    frames_per_person: dict[str, int]
    classes: tuple[ClassCount, ...]
    subjects: tuple[int, ...]
    default_split: str
    splits: dict[str, SplitInfo]
    lost_joints: int
    lost_share: float
    dropped_rows: int
    dropped_persons: int
    skipped: tuple[Skipped, ...]
    skipped_by_reason: dict[str, int]
    sha256: str


def describe(dataset: Dataset) -> DataReport:
    """Read every joint once and describe the dataset.

    Raises MismatchError when joints or columns are not those that were converted, InputError when joints are not finite.
    """
    meta = dataset.meta
    lost = sum(int((~dataset.clip(i).joints.any(axis=2)).sum()) for i in range(len(dataset)))
    if (found := dataset.sha256()) != meta.sha256:
        raise MismatchError("dataset changed since its conversion", where=dataset.path, found=f"sha256 {found}",
                            expected=f"sha256 {meta.sha256}", hint="convert the source again")  # fmt: skip
    lengths = dataset.person_lengths.max(axis=1)
    counts = np.bincount(dataset.labels, minlength=len(meta.class_names))
    return DataReport(
        schema=SCHEMA,
        name=meta.name,
        source=meta.source,
        terms=meta.terms,
        skeleton=meta.skeleton.name,
        joints=meta.skeleton.num_joints,
        fps=meta.fps,
        clips=meta.clips,
        rows=meta.frames,
        persons={int(k): v for k, v in sorted(Counter((dataset.person_lengths > 0).sum(axis=1).tolist()).items())},
        frames_per_person={name: int(np.quantile(lengths, share, method="nearest")) for name, share in _QUANTILES.items()},
        classes=tuple(ClassCount(name, int(count)) for name, count in zip(meta.class_names, counts, strict=True)),
        subjects=tuple(int(subject) for subject in np.unique(dataset.subjects) if subject),
        default_split=meta.default_split,
        splits=meta.splits,
        lost_joints=lost,
        lost_share=lost / (meta.frames * meta.skeleton.num_joints),
        dropped_rows=meta.dropped_rows,
        dropped_persons=meta.dropped_persons,
        skipped=meta.skipped,
        skipped_by_reason=dict(Counter(entry.reason for entry in meta.skipped).most_common()),
        sha256=meta.sha256,
    )
