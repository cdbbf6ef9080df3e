"""The choice of a method: the order of scores, and the noise they are ordered by."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calibration.histograms import Method
from calibration.methods import rank
from calibration.report import MethodScore
from calibration.score import noise_share, signal_to_noise


def score(method: Method, agreement: float, sqnr_db: float | None) -> MethodScore:
    return MethodScore(
        method=method,
        samples=100,
        top1=0.9,
        reference_top1=0.9,
        agreement=agreement,
        lost=0,
        gained=0,
        sqnr_db=sqnr_db,
        passed=True,
    )


def test_agreement_decides_then_noise_then_the_name():
    scores = [
        score("max", 0.98, 50.0),
        score("mse", 0.99, 20.0),
        score("percentile", 0.99, 20.0),
        score("entropy", 0.99, None),
    ]
    assert [found.method for found in rank(scores)] == ["entropy", "mse", "percentile", "max"]
    assert rank(scores[::-1]) == rank(scores)


def test_signal_to_noise():
    reference = np.array([[3.0, 4.0]], dtype=np.float32)
    assert signal_to_noise(reference, reference + np.float32(0.5)) == pytest.approx(10 * math.log10(25 / 0.5))
    assert signal_to_noise(reference, reference) is None
    assert noise_share(20.0) == pytest.approx(0.01)
    assert noise_share(None) == 0
