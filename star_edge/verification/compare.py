"""Counts that the gates judge, from two sets of logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.tolerances import relative_error
from star_edge.verification.gates import MIN_BUCKET, Gate
from star_edge.verification.report import BucketResult, Verdict

BUCKETS = ((1, 31), (32, 63), (64, 127), (128, 255), (256, None))
NOT_A_CLASS = -1  # the answer where a logit is not finite


@dataclass(frozen=True)
class Counts:
    """An engine's answers beside the reference's on the same clips; see VerifyResult for the terms."""

    samples: int
    correct: int
    reference_correct: int
    agreed: int
    lost: int
    gained: int
    not_finite: int
    max_abs_err: float | None
    relative_err: float | None


def compare(logits: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> Counts:
    """Compare logits [N, K] with the reference's [N, K] under labels [N]; of equal logits the first class wins."""
    finite = np.isfinite(logits).all(1)
    predicted = np.where(finite, np.nan_to_num(logits).argmax(1), NOT_A_CLASS)
    expected = reference.argmax(1)
    right, reference_right = predicted == labels, expected == labels
    all_finite = bool(finite.all())
    return Counts(
        samples=len(labels),
        correct=int(right.sum()),
        reference_correct=int(reference_right.sum()),
        agreed=int((predicted == expected).sum()),
        lost=int((reference_right & ~right).sum()),
        gained=int((right & ~reference_right).sum()),
        not_finite=int((~finite).sum()),
        max_abs_err=float(np.abs(logits - reference).max(initial=0)) if all_finite else None,
        relative_err=relative_error(logits, reference) if all_finite else None,
    )


def compare_by_length(
    logits: np.ndarray, reference: np.ndarray, labels: np.ndarray, lengths: np.ndarray, gate: Gate
) -> tuple[BucketResult, ...]:
    """The same in buckets of rows per clip [N]; empty buckets are left out."""
    buckets = []
    for low, high in BUCKETS:
        chosen = (lengths >= low) & (lengths <= (high or lengths.max()))
        if chosen.any():
            counts = compare(logits[chosen], reference[chosen], labels[chosen])
            buckets.append(
                BucketResult(
                    frames=f"{low}-{high}" if high else f"{low}+",
                    samples=counts.samples,
                    agreement=counts.agreed / counts.samples,
                    max_abs_err=counts.max_abs_err,
                    verdict=_verdict(counts, gate),
                )
            )
    return tuple(buckets)


def _verdict(counts: Counts, gate: Gate) -> Verdict:
    if counts.samples < MIN_BUCKET:
        return "insufficient"
    return "passed" if gate.holds(counts.samples, counts.lost, counts.gained, counts.agreed) else "failed"
