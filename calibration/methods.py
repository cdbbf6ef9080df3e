"""Which method takes the ranges: each one's INT8 model beside fp32 on val clips, never on test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from calibration.int8 import Int8Model, logits_of
from calibration.reader import ClipReader
from calibration.report import AnyMethod, MethodScore
from calibration.score import score


def score_methods(
    fp32: bytes, models: Mapping[AnyMethod, Int8Model], reader: ClipReader, labels: np.ndarray
) -> tuple[MethodScore, ...]:
    """Score each method's model on the clips of the reader, labels int [N]; the best one first.

    The best one agrees with fp32 on the most clips; of equal ones, its logits have the least noise. The labels have no
    say: a class that rounding happens to mend is no merit of a range.
    """
    reference = logits_of(fp32, reader, "fp32 on val")
    scores = []
    for method, model in models.items():
        found = score(logits_of(model.data, reader, f"{method} on val"), reference, labels)
        scores.append(MethodScore(method=method, **msgspec.structs.asdict(found)))
    return rank(scores)


def rank(scores: Sequence[MethodScore]) -> tuple[MethodScore, ...]:
    """Best first: agreement, then signal to noise, then name."""

    def key(found: MethodScore) -> tuple[float, float, str]:
        return -found.agreement, -(math.inf if found.sqnr_db is None else found.sqnr_db), found.method

    return tuple(sorted(scores, key=key))
