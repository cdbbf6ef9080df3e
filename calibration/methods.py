"""Which method takes the ranges: each one's INT8 model beside fp32 on val clips, never on test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from calibration.histograms import Method
from calibration.int8 import Int8Model, logits_of
from calibration.reader import ClipReader
from calibration.report import MethodScore
from runtime.errors import InputError
from star_edge.verification.compare import compare
from star_edge.verification.gates import GATES

if TYPE_CHECKING:
    from star_edge.data import Dataset


def val_clips(dataset: Dataset, scheme: str) -> np.ndarray:
    """int64: clips of the part ``val`` of a split; InputError when there are none."""
    clips = dataset.indices(scheme, "val")
    if len(clips) == 0:
        raise InputError(
            "no val clips to choose a method on",
            where=dataset.path or dataset.meta.source,
            found=f"nothing in part val of split '{scheme}'",
            expected="clips that are not calibrated with; test clips judge the result and choose nothing",
            hint="star-edge calibrate --method mse",
        )
    return clips


def score_methods(
    fp32: bytes, models: Mapping[Method, Int8Model], reader: ClipReader, labels: np.ndarray
) -> tuple[MethodScore, ...]:
    """Score each method's model on the clips of the reader, labels int [N]; the best one first.

    The best one agrees with fp32 on the most clips; of equal ones, its logits have the least noise. The labels have no
    say: a class that rounding happens to mend is no merit of a range.
    """
    reference = logits_of(fp32, reader, "fp32 on val")
    scores = []
    for method, model in models.items():
        logits = logits_of(model.data, reader, f"{method} on val")
        counts = compare(logits, reference, labels)
        scores.append(
            MethodScore(
                method=method,
                samples=counts.samples,
                top1=counts.correct / counts.samples,
                reference_top1=counts.reference_correct / counts.samples,
                agreement=counts.agreed / counts.samples,
                lost=counts.lost,
                gained=counts.gained,
                sqnr_db=signal_to_noise(reference, logits),
                passed=GATES["int8"].holds(counts.samples, counts.lost, counts.gained, counts.agreed),
            )
        )
    return rank(scores)


def rank(scores: Sequence[MethodScore]) -> tuple[MethodScore, ...]:
    """Best first: agreement, then signal to noise, then name."""

    def key(score: MethodScore) -> tuple[float, float, str]:
        return -score.agreement, -(math.inf if score.sqnr_db is None else score.sqnr_db), score.method

    return tuple(sorted(scores, key=key))


def signal_to_noise(reference: np.ndarray, found: np.ndarray) -> float | None:
    """Signal to quantisation noise of ``found`` beside ``reference``, decibel; None without noise.

    10 log10(sum reference^2 / sum (found - reference)^2), in float64.
    """
    reference = np.asarray(reference, dtype=np.float64)
    noise = float(((found - reference) ** 2).sum())
    return None if noise == 0 else float(10 * np.log10((reference**2).sum() / noise))
