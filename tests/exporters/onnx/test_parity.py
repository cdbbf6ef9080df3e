"""The parity check catches what it is there for."""

from __future__ import annotations

import numpy as np
import pytest

from exporters.onnx.golden import Case
from exporters.onnx.parity import compare, onnx_forward, require_parity
from runtime.errors import GateError, MismatchError

CASES = [
    Case("big", np.zeros((2, 1, 1), dtype=np.float32), np.array([0, 2], dtype=np.int32)),
    Case("small", np.ones((1, 1, 1), dtype=np.float32), np.array([0, 1], dtype=np.int32)),
]
REFERENCES = [np.array([[100.0, -50.0]]), np.array([[1.0, 2.0]])]


def answers(*offsets: float):
    """A forward that is wrong by an offset in each case."""
    queue = iter(zip(REFERENCES, offsets, strict=True))

    def forward(features, cu_seqlens):
        reference, offset = next(queue)
        return (reference + offset).astype(np.float32)

    return forward


def test_errors_are_relative_to_the_largest_logit_of_all_cases():
    results = compare(CASES, REFERENCES, "engine", "fp16", answers(0.0, 0.4))
    assert [result.error for result in results] == [0.0, pytest.approx(4e-3, rel=1e-4)]
    assert all(result.passed for result in results)
    require_parity(results)


def test_the_worst_case_is_named_with_the_explanation():
    results = compare(CASES, REFERENCES, "engine", "fp16", answers(0.6, 0.9))
    with pytest.raises(GateError, match=r"(?s)because.*9\.00e-03 on 'small', 2 of 2") as error:
        require_parity(results, lambda result: f"because {result.case}")
    assert error.value.exit_code == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_answers_that_are_not_finite_fail(bad):
    results = compare(CASES, REFERENCES, "engine", "bf16", answers(0.0, bad))
    assert [result.passed for result in results] == [True, False]
    assert results[1].error == float("inf")


def test_a_model_onnxruntime_cannot_open_is_a_mismatch():
    with pytest.raises(MismatchError, match="cannot open the exported model"):
        onnx_forward(b"not a model")
