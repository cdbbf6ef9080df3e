"""``bench --device cuda`` as far as it can be tried without a GPU: what it plans, how it refuses, what a call does."""

from __future__ import annotations

import shutil
import types

import msgspec
import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.errors import InputError, MismatchError
from runtime.tolerances import TOLERANCES, relative_error
from star_edge.bench import BenchReport, bench, bench_bundle, cuda
from star_edge.bench.bench import CUDA_ENGINES, _keys
from star_edge.bench.measure import Contender, Plan, Trial
from star_edge.bench.protocol import Opened, Ran
from star_edge.bench.workloads import parse_workload
from star_edge.cli.bench import show
from star_edge.cli.common import Output

torch = pytest.importorskip("torch")


class FakeEvent:
    """Two of them are 3 ms apart."""

    def __init__(self, enable_timing):
        assert enable_timing
        self.recorded = 0

    def record(self):
        self.recorded += 1

    def elapsed_time(self, end):
        assert self.recorded == end.recorded
        return 3.0


@pytest.fixture
def host_as_gpu(monkeypatch):
    """The processor stands in for a GPU."""
    monkeypatch.setattr(cuda, "_DEVICE", "cpu")
    monkeypatch.setattr(cuda, "require_gpu", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)


def test_every_form_is_planned_in_its_precisions(exported_bundle):
    bundle = Bundle.open(exported_bundle)
    keys = _keys(bundle, None, None, batches=True, device="cuda")
    assert keys[0] == ("torch", "fp32", "per-clip")
    assert [key for key in keys if key[0] in cuda.FORMS] == [
        ("torch", "fp32", "per-clip"),
        ("torch", "fp32", "packed"),
        ("torch", "fp16", "per-clip"),
        ("torch", "fp16", "packed"),
        ("torch-pyg", "fp32", "packed"),
        ("torch-compile", "fp32", "per-clip"),
        ("torch-compile", "fp16", "per-clip"),
    ]
    assert {key[0] for key in keys} == set(CUDA_ENGINES)
    alone = _keys(bundle, ["torch-compile"], ["fp16"], batches=False, device="cuda")
    assert alone == [("torch", "fp32", "per-clip"), ("torch", "fp16", "per-clip"), ("torch-compile", "fp16", "per-clip")]
    with pytest.raises(InputError, match="no engine 'onnxruntime' to measure on cuda"):
        _keys(bundle, ["onnxruntime"], None, batches=False, device="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this torch has a GPU")
def test_it_is_refused_where_torch_has_no_gpu(exported_bundle, tmp_path):
    own = shutil.copytree(exported_bundle, tmp_path / "own.star")
    with pytest.raises(MismatchError) as failure:
        bench_bundle(own, workloads=["1x3"], engines=["torch"], device="cuda", plan=Plan(1, repeats=1))
    assert failure.value.where == "--device cuda"
    assert (failure.value.found or "").startswith(f"torch {torch.__version__} is built")
    assert "--device cpu" in (failure.value.hint or "")
    assert not (own / "reports" / "bench.json").exists()


@pytest.mark.parametrize(
    ("built", "available", "reason"),
    [
        (None, False, "is built without CUDA"),
        ("12.6", False, "is built for CUDA 12.6 and sees no GPU"),
        ("12.6", True, "cannot compute on this GPU"),
    ],
)
def test_why_torch_cannot(monkeypatch, built, available, reason):
    def no_kernel(*arguments, **options):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch, "zeros", no_kernel)
    with pytest.raises(MismatchError, match=reason) as failure:
        cuda.require_gpu()
    assert "\n" not in failure.value.what


@pytest.mark.parametrize(("engine", "precision"), [("torch", "fp32"), ("torch", "fp16"), ("torch-compile", "fp16")])
def test_a_call_answers_as_the_reference_and_is_timed_twice(exported_bundle, host_as_gpu, monkeypatch, engine, precision):
    compiled = []

    def compile_nothing(model, **options):
        compiled.append(options)
        return model

    monkeypatch.setattr(torch, "compile", compile_nothing)
    bundle = Bundle.open(exported_bundle)
    features, cu_seqlens = parse_workload("3x40").make(bundle.manifest.skeleton, bundle.manifest.features)
    expected = cuda.open_peer(bundle, "torch", "fp32", "packed").run(features, cu_seqlens)
    peer = cuda.open_peer(bundle, engine, precision, "per-clip")
    for _ in range(2):  # the clips of one call add up, calls do not
        logits = peer.run(features, cu_seqlens)
        assert logits.dtype == np.float32
        assert relative_error(logits, expected) <= TOLERANCES[precision]
        assert peer.device_seconds() == pytest.approx(3 * 0.003)
    assert (relative_error(logits, expected) > 1e-5) == (precision == "fp16")
    assert (peer.compute, "a GPU" in peer.provider) == (precision, True)
    assert compiled == ([{"mode": "max-autotune", "dynamic": False}] if engine == "torch-compile" else [])


def test_an_engine_of_ours_is_no_form_of_pytorch(exported_bundle):
    assert cuda.open_peer(Bundle.open(exported_bundle), "tensorrt", "fp16", "packed") is None


def trial_with(device_times_s):
    def run(workload, *, untimed, timed, seconds=np.inf, gap_s=0.0, limit_s=None):
        return Ran(0.5, [0.010] * timed, [[1.0, -2.0]], 100.0, 0, device_times_s * timed)

    process = types.SimpleNamespace(engine="torch", precision="fp32", mode="per-clip", device="cuda", run=run)
    trial = Trial(Contender(process, Opened("fp32", "planted")), "1x300", Plan(rounds=1, repeats=4))
    reference = trial.warm_up()
    trial.take_turn(reference)
    return trial.result()


def test_both_times_stand_in_the_report():
    row = trial_with([0.004])
    assert (row.median_ms, row.device_median_ms, row.device_p90_ms) == pytest.approx((10, 4, 4))
    assert trial_with([]).device_median_ms is None


def test_the_table_shows_both(exported_bundle, tmp_path, capsys):
    own = shutil.copytree(exported_bundle, tmp_path / "own.star")
    report = bench_bundle(own, workloads=["1x3"], engines=["torch"], threads=1, plan=Plan(1, repeats=1))
    row = msgspec.structs.replace(report.results[0], device_median_ms=0.123)
    output = Output(json=False, seed=0, verbosity=0)
    show(report, output)
    assert "GPU" not in capsys.readouterr().out
    show(msgspec.structs.replace(report, device="cuda", results=(row,)), output)
    shown = capsys.readouterr().out
    assert "GPU" in shown
    assert "0.12" in shown


def test_the_limit_is_the_gpus(exported_bundle):
    process = types.SimpleNamespace(device="cuda", matmul_rate=lambda: 5e12)
    peak = bench._matmul_peak(Contender(process, Opened("fp32", "torch 2, a GPU")), 4)
    assert peak.macs_per_s == 5e12
    assert peak.how == "largest float32 matrix product rate of torch 2, a GPU; tensor cores are faster"


def test_a_report_of_before_is_still_read(exported_bundle, tmp_path):
    """``star-edge/bench/1`` as it was written before GPUs, idle gaps and Jetsons were in it."""
    own = shutil.copytree(exported_bundle, tmp_path / "own.star")
    report = bench_bundle(own, workloads=["1x3"], engines=["torch"], threads=1, plan=Plan(1, repeats=1))
    document = msgspec.to_builtins(report)
    del document["idle"]
    for name in ("jetson", "jetson_after"):
        del document["host"][name]
    for row in document["results"]:
        del row["device_median_ms"], row["device_p90_ms"]
    assert msgspec.convert(document, BenchReport) == report
