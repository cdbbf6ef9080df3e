"""Counts from logits."""

from __future__ import annotations

import numpy as np
import pytest

from star_edge.verification.compare import compare, compare_by_length
from star_edge.verification.gates import GATES


def one_hot(classes: list[int], k: int = 4) -> np.ndarray:
    return np.eye(k, dtype=np.float32)[classes] * 10


def test_flips_both_ways():
    labels = np.array([0, 1, 2, 3, 0, 1])
    reference = one_hot([0, 1, 2, 0, 1, 1])  # clips 3 and 4 wrong
    logits = one_hot([0, 2, 2, 3, 2, 1])  # 1 lost, 3 gained, 4 wrong otherwise
    counts = compare(logits, reference, labels)
    assert (counts.correct, counts.reference_correct) == (4, 4)
    assert (counts.lost, counts.gained, counts.agreed) == (1, 1, 3)
    assert (counts.max_abs_err, counts.relative_err) == (10.0, 1.0)


def test_error_is_relative_to_the_largest_logit_of_the_reference():
    reference = one_hot([0, 1])
    counts = compare(reference + np.float32(0.5), reference, np.array([0, 1]))
    assert counts.agreed == 2
    assert counts.max_abs_err == pytest.approx(0.5)
    assert counts.relative_err == pytest.approx(0.05)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_is_a_wrong_answer(value):
    reference, labels = one_hot([0, 0, 1]), np.array([0, 0, 1])
    logits = reference.copy()
    logits[0, 3] = value  # argmax of the others would still be right for nan and -inf
    counts = compare(logits, reference, labels)
    assert (counts.not_finite, counts.lost, counts.agreed, counts.correct) == (1, 1, 2, 2)
    assert counts.max_abs_err is None
    assert counts.relative_err is None


def test_buckets_by_length():
    lengths = np.concatenate([np.full(100, 31), np.full(100, 32), np.full(99, 255), np.full(120, 4000)])
    labels = np.zeros(len(lengths), dtype=int)
    reference = one_hot([0] * len(lengths))
    logits = reference.copy()
    logits[100:110] = one_hot([1] * 10)  # ten of the hundred clips of 32 rows
    short, flipped, few, long = compare_by_length(logits, reference, labels, lengths, GATES["int8"])
    assert (short.frames, short.samples, short.verdict) == ("1-31", 100, "passed")
    assert (flipped.frames, flipped.agreement, flipped.verdict) == ("32-63", 0.9, "failed")
    assert (few.frames, few.samples, few.agreement, few.verdict) == ("128-255", 99, 1.0, "insufficient")
    assert (long.frames, long.samples, long.verdict) == ("256+", 120, "passed")
