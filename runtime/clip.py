"""One clip of one or more skeletons, as readers produce it and recognisers take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.errors import InputError
from runtime.packing import cu_seqlens_of


@dataclass(frozen=True)
class Clip:
    """One clip; its persons stand one after the other along the rows (STAR's packed format).

    Attributes:
        joints: float32 [n, V, 3]; x, y, z in metres, or x, y, score. A lost joint is all zero.
        person_lengths: rows of each person, in order; sums to n.
        name: where it came from, for messages.
        dropped: rows left out because all joints of the person were lost.
    """

    joints: np.ndarray
    person_lengths: tuple[int, ...]
    name: str = ""
    dropped: int = 0

    def __post_init__(self) -> None:
        if self.joints.ndim != 3 or sum(self.person_lengths) != len(self.joints):
            raise InputError(
                "person_lengths do not match the rows of the clip",
                where=self.name or None,
                found=f"joints {self.joints.shape}, person_lengths {self.person_lengths}",
                expected="joints [rows, joints, 3] with sum(person_lengths) rows",
            )

    def __len__(self) -> int:
        return len(self.joints)

    @classmethod
    def from_persons(cls, persons: Sequence[np.ndarray], name: str = "") -> Clip:
        """Concatenate persons [n_p, V, 3] and drop the rows in which all joints of the person are lost.

        Raises InputError when no row is left.
        """
        arrays = [np.asarray(person, dtype=np.float32) for person in persons]
        kept = [array[(array != 0).any(axis=(1, 2))] for array in arrays]
        dropped = sum(len(array) for array in arrays) - sum(len(array) for array in kept)
        present = [array for array in kept if len(array)]
        if not present:
            raise InputError("clip without any tracked body", where=name or None, found="no rows", expected="at least one row")
        return cls(np.concatenate(present), tuple(len(array) for array in present), name, dropped)


def pack_clips(clips: Sequence[Clip]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pack clips: joints float32 [F, V, 3], cu_seqlens int32 [B+1], person_lengths int32 [B, P], P the most persons of any clip."""
    persons = max(len(clip.person_lengths) for clip in clips)
    person_lengths = np.zeros((len(clips), persons), dtype=np.int32)
    for row, clip in zip(person_lengths, clips, strict=True):
        row[: len(clip.person_lengths)] = clip.person_lengths
    joints = np.ascontiguousarray(np.concatenate([clip.joints for clip in clips]), dtype=np.float32)
    return joints, cu_seqlens_of([len(clip) for clip in clips]), person_lengths
