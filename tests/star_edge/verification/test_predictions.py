"""The answers clip by clip: classes, confidences, and those of an engine that overflows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from star_edge.verification.predictions import make_predictions
from star_edge.verification.report import VerifyReport

LOGITS = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 5.0], [1.0, 1.0, 0.0]], dtype=np.float32)


def predictions(*logits: np.ndarray):
    data = SimpleNamespace(
        names=np.array(["a", "b", "c", "d"]),
        labels=np.array([0, 1, 2, 2], dtype=np.int32),
        lengths=np.array([5, 6, 7, 8], dtype=np.int32),
        person_lengths=np.array([[5, 0], [6, 0], [3, 4], [8, 0]], dtype=np.int32),
    )
    report = VerifyReport(star_edge_version="0", bundle="x.star", bundle_id="id", data="d", data_sha256="s", split="own", part="test",
                          samples=3, available=4, seed=2, reference="torch fp32", results=(), passed=True)  # fmt: skip
    engines = [SimpleNamespace(name="torch", precision="fp32"), SimpleNamespace(name="onnxruntime", precision="int8")]
    return make_predictions(report, data, np.array([1, 2, 3]), engines[: len(logits)], logits)


def test_each_engine_answers_every_chosen_clip():
    made = predictions(LOGITS, LOGITS[:, ::-1])
    assert (made.clips, made.labels, made.rows, made.persons) == (("b", "c", "d"), (1, 2, 2), (6, 7, 8), (1, 2, 1))
    assert [(row.engine, row.precision, row.classes) for row in made.answers] == [
        ("torch", "fp32", (0, 2, 0)),  # of equal logits the first class wins
        ("onnxruntime", "int8", (2, 0, 1)),
    ]
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    assert made.answers[0].confidences == pytest.approx(shares.max(1), abs=5e-5)
    assert (made.bundle_id, made.seed, made.part) == ("id", 2, "test")


def test_a_logit_that_is_not_finite_is_no_answer():
    bad = LOGITS.copy()
    bad[1, 0], bad[2, 2] = np.nan, np.inf
    answers = predictions(bad).answers[0]
    assert answers.classes == (0, -1, -1)
    assert answers.confidences[1:] == (0, 0)
