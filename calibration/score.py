"""How well INT8 answers: its logits beside those of fp32 on clips that neither trained nor calibrated it."""

from __future__ import annotations

import numpy as np

from calibration.report import Int8Score
from star_edge.verification.compare import compare
from star_edge.verification.gates import GATES


def score(logits: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> Int8Score:
    """Judge logits [N, K] beside the reference's [N, K] under labels int [N]."""
    counts = compare(logits, reference, labels)
    return Int8Score(
        samples=counts.samples,
        top1=counts.correct / counts.samples,
        reference_top1=counts.reference_correct / counts.samples,
        agreement=counts.agreed / counts.samples,
        lost=counts.lost,
        gained=counts.gained,
        sqnr_db=signal_to_noise(reference, logits),
        passed=GATES["int8"].holds(counts.samples, counts.lost, counts.gained, counts.agreed),
    )


def signal_to_noise(reference: np.ndarray, found: np.ndarray) -> float | None:
    """Signal to quantisation noise of ``found`` beside ``reference``, decibel; None without noise.

    10 log10(sum reference^2 / sum (found - reference)^2), in float64.
    """
    reference = np.asarray(reference, dtype=np.float64)
    noise = float(((found - reference) ** 2).sum())
    return None if noise == 0 else float(10 * np.log10((reference**2).sum() / noise))


def noise_share(sqnr_db: float | None) -> float:
    """Noise power over signal power of a ratio in decibel: what layers add up to, roughly; 0 without noise."""
    return 0.0 if sqnr_db is None else float(10 ** (-sqnr_db / 10))
