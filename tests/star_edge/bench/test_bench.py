"""bench_bundle and the verb on a small exported bundle, with real engine processes."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from runtime.bundle import Bundle, BundleWriter
from runtime.errors import InputError, MismatchError
from star_edge.bench import BenchReport, bench, bench_bundle
from star_edge.bench.jetson import JetsonState
from star_edge.bench.measure import Plan
from star_edge.bench.process import EngineProcess, WorkerError
from star_edge.cli import main

QUICK = Plan(rounds=2, repeats=3)


@pytest.fixture
def bundle(exported_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_bundle, tmp_path / "own.star"))


def run_verb(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["star-edge", "bench", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_engines_on_the_same_clips(bundle):
    workloads = ["3x5", "1x7:2p"]
    report = bench_bundle(bundle, workloads=workloads, engines=["onnxruntime"], threads=1, plan=QUICK)
    rows = {(row.engine, row.mode, row.precision, row.workload): row for row in report.results}
    modes = {"3x5": {"per-clip", "packed"}, "1x7:2p": {"per-clip"}}
    assert rows.keys() == {
        (engine, mode, precision, workload)
        for workload in workloads
        for engine, precisions in (("torch", ["fp32"]), ("onnxruntime", ["fp32", "fp16"]))
        for precision in precisions
        for mode in modes[workload]
    }
    for row in rows.values():
        assert row.correct is True, row.reason
        assert row.calls == 4  # three calls, the same in each of two turns
        assert row.median_ms <= row.p90_ms <= row.p99_ms
        assert row.peak_rss_mb > 10
        clips = 3 if row.workload == "3x5" else 1
        assert row.clips_per_s == pytest.approx(clips / row.median_ms * 1e3)
    assert rows["torch", "packed", "fp32", "3x5"].faster_than_torch == 1
    assert rows["torch", "per-clip", "fp32", "1x7:2p"].faster_than_torch == 1
    assert rows["onnxruntime", "per-clip", "fp16", "3x5"].compute == "fp32"  # what ONNX Runtime does on a CPU
    assert (
        rows["onnxruntime", "per-clip", "fp16", "3x5"].relative_err
        > rows["onnxruntime", "per-clip", "fp32", "3x5"].relative_err
    )

    entries = {entry.name: (entry.clips, entry.frames, entry.persons) for entry in report.workloads}
    assert entries == {"3x5": (3, 15, 1), "1x7:2p": (1, 14, 2)}
    assert [entry.name for entry in report.workloads] == ["1x7:2p", "3x5"]  # smallest first, for the memory figures
    for entry, limit in zip(report.workloads, report.limit, strict=True):
        assert limit.floor_ms == pytest.approx(entry.macs / limit.macs_per_s * 1e3)
    written = (bundle / "reports" / "bench.json").read_bytes()
    assert msgspec.json.decode(written, type=BenchReport) == report


def test_the_native_engine_in_all_it_computes(bundle):
    workloads = ["3x5", "1x7:2p"]
    report = bench_bundle(bundle, workloads=workloads, engines=["native"], threads=1, plan=QUICK)
    rows = {(row.precision, row.workload): row for row in report.results if row.engine == "native"}
    assert rows.keys() == {(precision, workload) for precision in ("fp32", "fp16", "bf16") for workload in workloads}
    for row in rows.values():
        assert row.correct is True, row.reason
        assert (row.mode, row.calls) == ("packed", 4)
        assert row.provider.startswith("libstar_edge ")
    assert rows["fp32", "3x5"].relative_err < rows["bf16", "3x5"].relative_err
    few = bench_bundle(
        bundle, workloads=["1x4"], precisions=["bf16"], engines=["native", "onnxruntime"], plan=Plan(1, repeats=1)
    )
    assert [(row.engine, row.precision) for row in few.results] == [("torch", "fp32"), ("native", "bf16")]
    with pytest.raises(MismatchError, match="no bf16 model"):
        bench_bundle(bundle, precisions=["bf16"], engines=["onnxruntime"])


def test_a_changed_model_gets_no_speed_and_exit_code_3(bundle, monkeypatch, capsys):
    onnx = pytest.importorskip("onnx")
    opened = Bundle.open(bundle)
    model = onnx.load_from_string(opened.read("model.fp32.onnx"))
    largest = max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    values = onnx.numpy_helper.to_array(largest) * np.float32(1.01)
    largest.CopyFrom(onnx.numpy_helper.from_array(values, largest.name))
    writer = BundleWriter(bundle, opened)
    writer.add("model.fp32.onnx", model.SerializeToString())
    writer.commit(opened.manifest)

    options = (
        "--engine",
        "onnxruntime",
        "--precision",
        "fp32",
        "--workload",
        "1x9",
        "--threads",
        "1",
        "--repeats",
        "2",
        "--json",
    )
    assert run_verb(monkeypatch, bundle, *options) == 3
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["schema"] == "star-edge/bench/1"
    right, wrong = document["results"]
    assert (right["engine"], right["correct"], wrong["engine"], wrong["correct"]) == ("torch", True, "onnxruntime", False)
    assert right["median_ms"] > 0
    assert [wrong[key] for key in ("median_ms", "p90_ms", "p99_ms", "clips_per_s")] == [None] * 4
    assert "wrong answer" in wrong["reason"]
    assert "an engine gives wrong answers" in shown.err


def test_torch_variants_are_rows_even_when_they_cannot_finish(bundle, monkeypatch):
    monkeypatch.setattr(bench, "measure_fma_peak", lambda threads: None)  # no C compiler
    report = bench_bundle(
        bundle,
        workloads=["1x4"],
        engines=["torch-pyg", "torch-compile"],
        threads=1,
        plan=Plan(rounds=1, repeats=1, first_call_limit_s=2.0),
    )
    eager, paper, compiled = report.results
    assert (eager.engine, eager.correct) == ("torch", True)
    assert (paper.engine, paper.mode) == ("torch-pyg", "packed")
    assert paper.correct or "[pyg]" in paper.reason
    assert (compiled.engine, compiled.correct, compiled.median_ms) == ("torch-compile", None, None)
    assert compiled.reason == "stopped: no answer within 2 s"
    assert report.limit[0].how.startswith("largest float32 matrix product rate of torch on 1 thread")
    assert 1e8 < report.limit[0].macs_per_s < 1e13


def test_bad_arguments(bundle, monkeypatch):
    with pytest.raises(InputError, match="no engine 'tensorflow'"):
        bench_bundle(bundle, engines=["tensorflow"])
    with pytest.raises(MismatchError, match="no int8 model"):
        bench_bundle(bundle, precisions=["int8"])
    assert run_verb(monkeypatch, bundle, "--workload", "1x300,huge") == 2
    assert run_verb(monkeypatch, bundle, "--precision", "int8") == 4
    assert run_verb(monkeypatch, bundle.parent / "none.star") == 2


def test_a_worker_says_why_it_cannot_and_goes_on(bundle, tmp_path):
    with EngineProcess("onnxruntime", "fp32", "packed", 1) as process:
        with pytest.raises(WorkerError, match="not a bundle"):
            process.open(str(tmp_path / "nothing"))
        assert "CPUExecutionProvider" in process.open(str(bundle)).provider
        ran = process.run("1x3", untimed=1, timed=2)
        assert len(ran.times_s) == 2
        assert np.isfinite(ran.logits).all()
        begun = time.perf_counter()
        rested = process.run("1x3", untimed=0, timed=3, gap_s=0.05)
        assert time.perf_counter() - begun >= 0.15
        assert max(rested.times_s) < 0.05  # the gap itself is not timed
        process._process.kill()
        with pytest.raises(WorkerError, match="its process ended"):
            process.run("1x3", untimed=0, timed=1)
    assert process._process.poll() is not None


def test_calls_after_an_idle_gap(bundle, monkeypatch, capsys):
    options = ("--engine", "native", "--precision", "fp32", "--workload", "1x3", "--threads", "1", "--repeats", "2")
    monkeypatch.setenv("COLUMNS", "160")
    assert run_verb(monkeypatch, bundle, *options, "--rounds", "1", "--idle", "0, 15,15") == 0
    shown = capsys.readouterr().out
    report = msgspec.json.decode((bundle / "reports" / "bench.json").read_bytes(), type=BenchReport)
    rows = {(row.engine, row.gap_ms): row for row in report.idle}
    assert rows.keys() == {(engine, gap) for engine in ("torch", "native") for gap in (0, 15)}
    for row in rows.values():
        assert (row.workload, row.precision, row.calls) == ("1x3", "fp32", 20)
        assert 0 < row.median_ms <= row.p90_ms <= row.max_ms
    assert re.search(r"peak +idle +idle", shown)
    assert re.search(r" 0 ms +15 ms +ok", shown)
    assert bench_bundle(bundle, workloads=["1x3"], engines=["native"], plan=Plan(1, repeats=1)).idle == ()


@pytest.mark.parametrize("gaps", ["33,", "fast", "-1", "1e3", "0;33", "10000"])
def test_gaps_that_are_none(bundle, monkeypatch, capsys, gaps):
    assert run_verb(monkeypatch, bundle, "--idle", gaps) == 2
    assert "milliseconds such as 0,33,100" in capsys.readouterr().err


def test_a_jetson_before_and_after(bundle, monkeypatch, capsys):
    states = iter(
        [
            JetsonState(board="orin-nano-8gb", jetpack="6.2", power_mode="25W", power_mode_id=1, jetson_clocks=False),
            JetsonState(
                board="orin-nano-8gb", jetpack="6.2", power_mode="15W", power_mode_id=0, throttled=("gpu-throttle-alert",)
            ),
        ]
    )
    monkeypatch.setattr("star_edge.bench.host.read_jetson", lambda: next(states))
    monkeypatch.setattr(bench, "read_jetson", lambda: next(states))
    options = ("--engine", "native", "--precision", "fp32", "--workload", "1x3", "--repeats", "1", "--rounds", "1")
    assert run_verb(monkeypatch, bundle, *options) == 0
    report = msgspec.json.decode((bundle / "reports" / "bench.json").read_bytes(), type=BenchReport)
    assert report.host.jetson
    assert report.host.jetson_after
    assert (report.host.jetson.power_mode, report.host.jetson_after.power_mode) == ("25W", "15W")
    shown = capsys.readouterr().out
    assert "before: orin-nano-8gb, JetPack 6.2, power mode 25W" in shown
    assert "The power mode changed meanwhile, from 25W to 15W." in shown
    assert "throttled by gpu-throttle-alert" in shown
    assert "sudo jetson_clocks" in shown
