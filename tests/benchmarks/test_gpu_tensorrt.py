"""Engines that benchmarks/gpu_tensorrt.py builds: by TensorRT-RTX, which needs no GPU, and by a stand-in that can run them, too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import gpu_cases
import pytest
import torch
from cuda_models import TOLERANCES
from fake_board import FakeBoard
from gpu_tensorrt import build_plan, call_of, take_plugins
from gpu_time import measure

from exporters.onnx.graph import build_model
from runtime.tensorrt.cuda import Cuda
from star_edge.models.config import StarConfig

PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> gpu_cases.Case:
    monkeypatch.setitem(gpu_cases.WORKLOADS, "mix8", [5, 9])
    return gpu_cases.Case("cpu", "star-64", "mix8")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_runs_the_workload_in_our_plugins(
    case: gpu_cases.Case, precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    board = FakeBoard(monkeypatch, tmp_path)
    stream = Cuda(board.runtime, board.driver).stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=stream))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 7))
    monkeypatch.setattr("gpu_time.time_ms", lambda call: {"median_ms": 1.0})
    ranges = case.ranges if precision == "int8" else None
    model = build_model(StarConfig(**vars(case.config)), case.state, precision, ranges, base="fp16")
    board.trt.functions = list(model.functions)
    take_plugins(board.trt, None)
    plan = build_plan(board.trt, case, precision)
    row = measure(lambda: call_of(board.trt, plan, case), case.expected, TOLERANCES[precision])
    assert row.get("median_ms") == 1.0, row
    features, offsets = board.trt.ran[-1]
    assert features.shape == (14, 25, 9)
    assert offsets.tolist() == [0, 5, 14]
    board.trt.error = 1.0
    assert measure(lambda: call_of(board.trt, plan, case), case.expected, TOLERANCES[precision])["reason"] == "wrong answer"


def test_what_tensorrt_refuses_is_a_reason(case: gpu_cases.Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    board = FakeBoard(monkeypatch, tmp_path)
    row = measure(lambda: call_of(board.trt, b"no engine", case), case.expected, 1.0)
    assert row == {"reason": "RuntimeError: Magic tag does not match"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_rtx_builds_it_without_plugins(case: gpu_cases.Case, precision: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'star-edge[tensorrt-rtx]'")
    assert len(build_plan(trt, case, precision)) > 10_000
