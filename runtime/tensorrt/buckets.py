"""The sizes an engine is built for. A batch runs in the smallest bucket that holds it, padded to that: a CUDA graph and the
fastest kernels need fixed sizes. Rows behind the last clip are zeros, clips behind it are empty, and neither changes an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from runtime.errors import InputError


class Bucket(msgspec.Struct, frozen=True, order=True):
    """Most rows and most clips of a batch."""

    rows: int
    clips: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.clips}"

    def holds(self, rows: int, clips: int) -> bool:
        return rows <= self.rows and clips <= self.clips


class Part(NamedTuple):
    """Clips ``first`` to ``last`` (not included) of a batch, and the index of the bucket they run in."""

    first: int
    last: int
    bucket: int


# Each twice as long as the last: at most half of what is computed is padding, and a clip of 300 frames of two persons still has
# two thirds of its bucket. Clips by what a camera's or a batch's clips of that length come to.
BUCKETS = tuple(
    Bucket(*size) for size in ((64, 4), (128, 8), (256, 8), (512, 16), (1024, 32), (2048, 64), (4096, 64))
)  # fmt: skip


def parse_buckets(text: str) -> tuple[Bucket, ...]:
    """``64x4,300x1`` -> buckets, smallest first; InputError for anything else."""
    words = [word.strip() for word in text.split(",")]
    found = [re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,3})", word) for word in words]
    if not all(found):
        raise InputError("not a list of buckets", found=text, expected="ROWSxCLIPS,..., e.g. 64x4,300x1")
    return tuple(sorted({Bucket(int(match[1]), int(match[2])) for match in found if match}))


def split(buckets: Sequence[Bucket], cu_seqlens: np.ndarray) -> Iterator[Part]:
    """Cut a batch into as few runs of neighbouring clips as buckets (ascending) hold; InputError where a clip fits none.

    cu_seqlens int32 [B+1]; parts come in the order of the clips and cover them all.
    """
    first, clips = 0, len(cu_seqlens) - 1
    while first < clips:
        last = first
        chosen = None
        while last < clips:
            bucket = smallest(buckets, int(cu_seqlens[last + 1] - cu_seqlens[first]), last + 1 - first)
            if bucket is None:
                break
            chosen, last = bucket, last + 1
        if chosen is None:
            raise InputError(
                "a clip is longer than the engine's largest bucket",
                where=f"clip {first}",
                found=f"{cu_seqlens[first + 1] - cu_seqlens[first]} rows",
                expected=f"at most {max(bucket.rows for bucket in buckets)}",
                hint="star-edge build --buckets, with one that is long enough",
            )
        yield Part(first, last, chosen)
        first = last


def smallest(buckets: Sequence[Bucket], rows: int, clips: int) -> int | None:
    """Index of the first of ascending buckets that holds a batch; None where none does."""
    return next((index for index, bucket in enumerate(buckets) if bucket.holds(rows, clips)), None)
