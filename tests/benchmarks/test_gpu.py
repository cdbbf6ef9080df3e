"""What benchmarks/gpu.py measures, in the emulator: every engine of ours is right, and floors and lines say what they should."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from cuda_devices import open_device

from runtime.native.cuda import library as cuda

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import gpu

    monkeypatch.setitem(gpu.WORKLOADS, "1x32", [4])
    yield gpu
    for name in ("gpu", "gpu_peers"):
        sys.modules.pop(name)


def test_engines_of_ours_are_right_and_wrong_ones_have_no_time(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = open_device("emulated", (*cuda.MODEL, *cuda.LAYERED), tmp_path)
    monkeypatch.setattr(gpu, "time_ms", lambda call: {"median_ms": 2.0})
    case = gpu.Case(device, "star-64", "1x32")
    engines = {name: make for name, make in case.engines(only_ours=True).items() if "graph" not in name[0]}
    assert set(engines) == {("ours", "fp16"), *(("ours, layered", precision) for precision in ("fp32", "fp16", "int8"))}
    for (name, precision), make in engines.items():
        row = gpu.measure(make, case.expected, gpu.TOLERANCES[precision])
        assert row.get("median_ms") == 2.0, (name, precision, row)
    wrong = gpu.measure(engines["ours", "fp16"], case.expected + 1, gpu.TOLERANCES["fp16"])
    assert "median_ms" not in wrong
    assert wrong["reason"] == "wrong answer"


def test_a_floor_is_the_larger_of_arithmetic_and_bytes(gpu: ModuleType) -> None:
    config = gpu.config_of(64, 8, 25, layers=5)
    slow = {"fp16_ops_per_s": 1e9, "fp32_ops_per_s": 1e9, "bytes_per_s": 1e15}
    from star_edge.bench.macs import macs

    assert gpu.floor_ms(config, [300], "fp16", slow) == pytest.approx(2e3 * macs(config, [300]) / 1e9)
    narrow = {"fp16_ops_per_s": 1e18, "fp32_ops_per_s": 1e18, "bytes_per_s": 1e9}
    moved = 300 * 25 * (9 * 4 + 5 * 64 * 2 * 2)
    assert gpu.floor_ms(config, [300], "fp16", narrow) == pytest.approx(1e3 * moved / 1e9)
    assert gpu.floor_ms(config, [300], "fp32", narrow) > gpu.floor_ms(config, [300], "fp16", narrow)


def test_lines_say_how_far_from_the_floor_or_why_there_is_no_time(gpu: ModuleType) -> None:
    row = {"model": "star-64", "workload": "1x300", "engine": "ours", "precision": "fp16", "floor_ms": 0.5}
    assert "2.0 times the limit" in gpu.line_of({**row, "median_ms": 1.0, "relative_error": 1e-4})
    assert gpu.line_of({**row, "reason": "wrong answer"}).endswith("wrong answer")
