"""The answers clip by clip, from which a page shows accuracy per class, confusions and clips worth a look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from runtime.engine import Engine
from runtime.recognizer import softmax
from star_edge.verification.compare import NOT_A_CLASS
from star_edge.verification.report import Answers, PredictionsReport, VerifyReport

if TYPE_CHECKING:
    from star_edge.data.dataset import Dataset


def make_predictions(
    report: VerifyReport, data: Dataset, chosen: np.ndarray, engines: Sequence[Engine], logits: Sequence[np.ndarray]
) -> PredictionsReport:
    """What each engine answered with its logits [N, K] on the N ``chosen`` clips of ``report``."""
    return PredictionsReport(
        star_edge_version=report.star_edge_version,
        bundle=report.bundle,
        bundle_id=report.bundle_id,
        data=report.data,
        data_sha256=report.data_sha256,
        split=report.split,
        part=report.part,
        samples=report.samples,
        seed=report.seed,
        clips=tuple(str(name) for name in data.names[chosen]),
        labels=tuple(data.labels[chosen].tolist()),
        rows=tuple(data.lengths[chosen].tolist()),
        persons=tuple((data.person_lengths[chosen] > 0).sum(1).tolist()),
        answers=tuple(_answers(engine, values) for engine, values in zip(engines, logits, strict=True)),
    )


def _answers(engine: Engine, logits: np.ndarray) -> Answers:
    finite = np.isfinite(logits).all(1)
    known = np.where(finite[:, None], logits, 0)
    confidences = np.where(finite, softmax(known).max(1), 0)
    return Answers(
        engine=engine.name,
        precision=engine.precision,
        classes=tuple(np.where(finite, known.argmax(1), NOT_A_CLASS).tolist()),
        confidences=tuple(np.round(confidences, 4).tolist()),
    )
