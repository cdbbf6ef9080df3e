"""Packed clips: the one wire format for variable-length clips. Nothing is padded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from runtime.errors import InputError


def cu_seqlens_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """int32 [B+1] offsets of clips with the given row counts [B]."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int32)


def pack(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate clips [n_b, V, C] along the rows: (float32 [F, V, C], int32 cu_seqlens [B+1])."""
    rows = np.ascontiguousarray(np.concatenate(list(clips)), dtype=np.float32)
    return rows, cu_seqlens_of([len(clip) for clip in clips])


def unpack(rows: np.ndarray, cu_seqlens: np.ndarray) -> list[np.ndarray]:
    """Views of each clip's rows."""
    return [rows[start:stop] for start, stop in pairwise(cu_seqlens)]


def check_packed(
    rows: np.ndarray,
    cu_seqlens: np.ndarray,
    *,
    joints: int | None = None,
    channels: int | None = None,
    allow_empty: bool = False,
) -> None:
    """Raise InputError unless (rows, cu_seqlens) is a valid packed batch.

    Args:
        rows: float32 [F, V, C], finite.
        cu_seqlens: int32 [B+1], starting at 0, non-decreasing, ending at F.
        joints: expected V.
        channels: expected C.
        allow_empty: accept clips of zero rows (engines do, recognisers do not).
    """

    def require(holds: bool, what: str, found: object, expected: object) -> None:
        if not holds:
            raise InputError(what, found=found, expected=expected)

    require(rows.ndim == 3, "packed clips must have three axes", f"shape {rows.shape}", "[rows, joints, channels]")
    require(rows.dtype == np.float32, "packed clips must be float32", rows.dtype, "float32")
    if joints is not None:
        require(rows.shape[1] == joints, "wrong joint count", f"{rows.shape[1]} joints", f"{joints} joints")
    if channels is not None:
        require(rows.shape[2] == channels, "wrong channel count", f"{rows.shape[2]} channels", f"{channels} channels")
    require(cu_seqlens.ndim == 1 and cu_seqlens.dtype == np.int32, "cu_seqlens must be int32 [clips + 1]",
            f"{cu_seqlens.dtype} {cu_seqlens.shape}", "int32 [clips + 1]")  # fmt: skip
    require(len(cu_seqlens) >= 2, "no clips", f"cu_seqlens of length {len(cu_seqlens)}", "at least one clip")
    require(int(cu_seqlens[0]) == 0, "cu_seqlens must start at 0", int(cu_seqlens[0]), 0)
    lengths = np.diff(cu_seqlens.astype(np.int64))
    if (lengths < 0).any():
        at = int(np.argmax(lengths < 0))
        require(
            False, "cu_seqlens descends", f"{cu_seqlens[at]} then {cu_seqlens[at + 1]} at clip {at}", "non-decreasing offsets"
        )
    require(int(cu_seqlens[-1]) == len(rows), "cu_seqlens does not end at the row count", int(cu_seqlens[-1]), len(rows))
    if not allow_empty:
        require(
            bool((lengths > 0).all()), "empty clip", f"clip {int(np.argmin(lengths))} has no rows", "at least one row a clip"
        )
    if not np.isfinite(rows).all():
        row, joint, _ = (int(i) for i in np.argwhere(~np.isfinite(rows))[0])
        require(
            False,
            "joints hold NaN or infinity",
            f"row {row}, joint {joint}",
            "finite coordinates (zeros where a joint is lost)",
        )
