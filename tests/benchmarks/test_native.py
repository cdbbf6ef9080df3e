"""The promises of the native runtime, judged from planted rows; nothing is timed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from star_edge.bench.host import read_host
from star_edge.bench.report import BenchReport, BenchResult, Limit

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import native_report

    yield native_report
    sys.modules.pop("native_report")


def bench(*rows: tuple[str, str, str, float | None]) -> BenchReport:
    """Rows (engine, precision, workload, median); None is a wrong answer. The floor of 1x300 is 2 ms."""
    results = tuple(
        BenchResult(engine=e, mode="packed", precision=p, workload=w, correct=ms is not None, tolerance=1.0, median_ms=ms)
        for e, p, w, ms in rows
    )
    return BenchReport(
        star_edge_version="0", bundle="b", bundle_id="0", host=read_host(), device="cpu", threads=1, rounds=1, workloads=(),
        results=results, limit=(Limit("1x300", 2.0, 1e9, "planted"),), latency=(),
    )  # fmt: skip


SMALL = (
    ("torch", "fp32", "1x300", 40.0),
    ("torch-pyg", "fp32", "1x300", 60.0),
    ("onnxruntime", "fp32", "1x300", 30.0),
    ("onnxruntime", "int8", "1x300", 1.0),  # no fp32 peer
    ("onnxruntime-clip", "fp32", "1x300", 20.0),
    ("openvino", "fp32", "1x300", None),  # wrong
    ("openvino-static", "fp32", "1x300", 16.0),
    ("native", "fp32", "1x300", 4.0),
    ("native", "bf16", "1x300", 2.5),
    ("native", "int8", "1x300", 2.0),
    ("native-avx2", "fp32", "1x300", 8.0),
    ("native-avx2", "int8", "1x300", 0.5),  # not the engine as it runs here
    ("torch", "fp32", "1x32", 3.0),
    ("native", "fp32", "1x32", 1.0),
)
LARGE = (("torch", "fp32", "1x300", 30.0), ("native", "fp32", "1x300", None))


def test_every_promise_is_judged(report: ModuleType) -> None:
    frames = [
        report.FrameTime("fp32", 32, 9, 0.01),
        report.FrameTime("fp32", 300, 9, 0.012),
        report.FrameTime("int8", 32, 9, 1),
    ]
    memory = [report.Memory("fp32", 300, 50.0), report.Memory("int8", 300, 65.0), report.Memory("fp32", 3000, 90.0)]
    load = [report.Load("star-64", "fp32", 1.0, 29.0, 9.0), report.Load("star-64", "int8", 1.0, 31.0, 9.0)]
    lines = report.summarise({"star-64": bench(*SMALL), "star-128": bench(*LARGE)}, frames, memory, load, 4_000_000)
    found = {line.what: (line.asked, line.found and round(line.found, 3), line.met) for line in lines}
    assert found == {
        "1x32: fp32 beside the fastest fp32 peer": (">= 4", 3.0, False),
        "1x32: fp32 beside torch-pyg": (">= 15", None, None),
        "1x300: fp32 beside the fastest fp32 peer": (">= 4", 4.0, True),
        "1x300: fp32 beside torch-pyg": (">= 15", 15.0, True),
        "mix8: fp32 beside the fastest fp32 peer": (">= 4", None, None),
        "mix8: fp32 beside torch-pyg": (">= 15", None, None),
        "1x300: fp32 over the FMA floor": ("<= 1.8", 2.0, False),
        "STAR-128, 1x300: fp32 beside the fastest fp32 peer": (">= 2", None, None),
        "1x300: the faster of bf16 and int8 beside the fastest fp32 peer": (">= 7", 8.0, True),
        "1x300: fp32 held to AVX2 beside ONNX Runtime, which is not": (">= 1", 2.5, True),
        "fp32: time a frame, largest over smallest": ("<= 1.25", 1.2, True),
        "int8: time a frame, largest over smallest": ("<= 1.25", 1.0, True),
        "star-run on 300 frames: peak memory, MB": ("<= 64", 65.0, False),
        "star-64: opening the engine, ms": ("<= 30", 31.0, False),
        "wheel, MB": ("<= 5", 4.0, True),
    }
    of = {line.what: line.of for line in lines}
    assert (
        of["1x300: fp32 beside the fastest fp32 peer"]
        == "openvino-static fp32 packed 16.00 ms over native fp32 packed 4.00 ms"
    )
    assert "a row without a speed" in of["1x32: fp32 beside torch-pyg"]


def test_what_was_not_measured_is_neither_met_nor_missed(report: ModuleType) -> None:
    lines = report.summarise({"star-64": bench(), "star-128": bench()}, [], [], [], None)
    assert {line.met for line in lines} == {line.found for line in lines} == {None}
    assert lines[-1].of == "not built: --wheel"
    assert msgspec.json.decode(msgspec.json.encode(lines), type=tuple[report.Asked, ...]) == lines
