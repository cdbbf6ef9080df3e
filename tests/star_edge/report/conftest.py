"""A bundle whose reports are written by hand, so that every figure on its page is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from calibration.report import (
    Decision,
    Int8Score,
    LayerLatency,
    LayerSensitivity,
    RangesReport,
    SensitivityReport,
    TensorRange,
)
from runtime.bundle import Bundle, BundleWriter, write_report
from runtime.calibration_table import CalibrationTable
from runtime.clip import Clip
from runtime.readers.ntu import Recording
from star_edge.bench.report import BenchReport, BenchResult, Host, Latency, Limit, WorkloadEntry
from star_edge.data.splits import TEST, Split
from star_edge.data.writer import DatasetWriter, SetInfo
from star_edge.verification.report import (
    Answers,
    LayerDifference,
    LayersReport,
    PredictionsReport,
    VerifyReport,
    VerifyResult,
)

LABELS = (0, 0, 0, 1, 1, 2, 2, 3)
# the reference has 6 of 8 right; int8 loses clip 4 and gains clip 7
REFERENCE = (0, 0, 1, 1, 1, 2, 2, 0)
INT8 = (0, 0, 1, 1, 0, 2, 2, 3)


def write(bundle: Bundle, name: str, report: msgspec.Struct) -> None:
    write_report(bundle, name, msgspec.json.encode(report))


def add_int8(path: Path, **changes: object) -> Bundle:
    """The bundle at a path with an INT8 model (the fp32 one again) and a calibration."""
    base = Bundle.open(path)
    writer = BundleWriter(path, base=base)
    writer.add("model.int8.onnx", base.read("model.fp32.onnx"))
    table = CalibrationTable(
        method="mse",
        samples=1,
        requested_samples=1,
        clips=("train clip",),
        weights_sha256=base.manifest.files["weights.safetensors"].sha256,
        ranges={"head.in": 2.0},
    )
    writer.add("calibration.json", table.to_bytes())
    nodes = {"fp32": {"head": "fp32"}, "int8": {"head": "int8"}}
    return writer.commit(msgspec.structs.replace(base.manifest, nodes=nodes, **changes))


def verify_of(bundle: Bundle, **changes: object) -> VerifyReport:
    def result(precision: str, answers: tuple[int, ...]) -> VerifyResult:
        right = [answer == label for answer, label in zip(answers, LABELS, strict=True)]
        reference = [answer == label for answer, label in zip(REFERENCE, LABELS, strict=True)]
        n = len(LABELS)
        return VerifyResult(
            engine="onnxruntime",
            precision=precision,
            storage=precision,
            compute=precision,
            provider="onnxruntime 1.0 CPUExecutionProvider",
            mode="per-clip",
            threads=1,
            split="own/test",
            samples=n,
            top1=sum(right) / n,
            reference_top1=sum(reference) / n,
            relative_accuracy=1.0,
            agreement=sum(a == b for a, b in zip(answers, REFERENCE, strict=True)) / n,
            agreement_interval=(0.5, 1.0),
            lost=sum(b and not a for a, b in zip(right, reference, strict=True)),
            gained=sum(a and not b for a, b in zip(right, reference, strict=True)),
            allowed_losses=1,
            allowed_disagreements=1,
            not_finite=0,
            max_abs_err=0.1,
            relative_err=0.01,
            buckets=(),
            decides=True,
            passed=precision == "fp32",
        )

    report = VerifyReport(
        star_edge_version="0.1.0",
        bundle=bundle.path.name,
        bundle_id=bundle.manifest.bundle_id,
        data="hand",
        data_sha256="ab" * 32,
        split="own",
        part="test",
        samples=len(LABELS),
        available=len(LABELS),
        seed=0,
        reference="torch fp32, torch 2.0",
        results=(result("fp32", REFERENCE), result("int8", INT8)),
        passed=False,
    )
    return msgspec.structs.replace(report, **changes)


def predictions_of(bundle: Bundle, **changes: object) -> PredictionsReport:
    rows = [("torch", "fp32", REFERENCE), ("onnxruntime", "fp32", REFERENCE), ("onnxruntime", "int8", INT8)]
    report = PredictionsReport(
        star_edge_version="0.1.0",
        bundle=bundle.path.name,
        bundle_id=bundle.manifest.bundle_id,
        data="hand",
        data_sha256="ab" * 32,
        split="own",
        part="test",
        samples=len(LABELS),
        seed=0,
        clips=tuple(f"clip {i}" for i in range(len(LABELS))),
        labels=LABELS,
        rows=(20, 21, 22, 40, 41, 70, 130, 300),
        persons=(1, 1, 1, 1, 1, 1, 2, 1),
        answers=tuple(
            Answers(engine=engine, precision=precision, classes=classes, confidences=(0.9, 0.5, 0.7, 0.6, 0.8, 0.4, 0.3, 0.2))
            for engine, precision, classes in rows
        ),
    )
    return msgspec.structs.replace(report, **changes)


def bench_of(bundle: Bundle, **changes: object) -> BenchReport:
    def row(engine: str, precision: str, median: float) -> BenchResult:
        return BenchResult(
            engine=engine,
            mode="per-clip",
            precision=precision,
            workload="1x300",
            correct=True,
            tolerance=1e-5,
            calls=21,
            median_ms=median,
            p90_ms=1.8 * median,
            p99_ms=2 * median,
            quantiles_ms=tuple((np.linspace(0.5, 1.5, 21) * median).tolist()),
            clips_per_s=1e3 / median,
            faster_than_torch=40 / median,
            peak_rss_mb=100.0,
            preemptions_per_s=1.0,
        )

    host = Host(cpu="A processor", cores=2, isa=("avx2",), governor="", clock_mhz=None, clocks_locked=None, memory_mb=None,
                load_average=None, system="a system", versions={"python": "3.11"}, date="2026-01-02T03:04:05+00:00")  # fmt: skip
    report = BenchReport(
        star_edge_version="0.1.0",
        bundle=bundle.path.name,
        bundle_id=bundle.manifest.bundle_id,
        host=host,
        device="cpu",
        threads=1,
        rounds=3,
        workloads=(WorkloadEntry("1x300", 1, 300, 1, 1_230_000_000),),
        results=(row("torch", "fp32", 40.0), row("onnxruntime", "fp32", 20.0), row("onnxruntime", "int8", 10.0)),
        limit=(Limit("1x300", 5.0, 2e11, "FMA loop"),),
        latency=(
            Latency("onnxruntime", "per-clip", "1x300", {"fp32": 20.0, "int8": 10.0}, "int8", "keep int8: 2.00 times faster"),
        ),
    )
    return msgspec.structs.replace(report, **changes)


def sensitivity_of(bundle: Bundle) -> SensitivityReport:
    score = Int8Score(samples=5, top1=0.8, reference_top1=0.8, agreement=1.0, lost=0, gained=0, sqnr_db=40.0, passed=True)
    decision = Decision(keep="int8", quantised=("head.hidden",), returned=(), score=score, float_ms=2.0, chosen_ms=1.0,
                        statement="keep int8: it is faster")  # fmt: skip
    layers = (
        LayerSensitivity(module="head.hidden", nodes=(), alone=score, without=score),
        LayerSensitivity(module="head.output", nodes=(), alone=msgspec.structs.replace(score, sqnr_db=None), without=score),
    )
    return SensitivityReport(
        bundle=str(bundle.path),
        bundle_id=bundle.manifest.bundle_id,
        data="/folder/hand.npz",
        split="own",
        weights_sha256="",
        calibration_sha256="",
        clips_sha256="",
        base="fp32",
        clips=5,
        float_score=score,
        int8_score=score,
        layers=layers,
        latency=LayerLatency(workload="1x300", threads=1, rounds=3, float_ms=2.0, int8_ms=1.0,
                             saved_us={"head.hidden": 7.5, "head.output": -1.5}),
        decision=decision,
    )  # fmt: skip


def ranges_of(bundle: Bundle) -> RangesReport:
    seen = TensorRange(amax=4.0, chosen=2.0, ranges={"mse": 2.0, "max": 4.0}, counts=(50, 20, 3, 0))
    return RangesReport(bundle_id=bundle.manifest.bundle_id, method="mse", percentile=99.99, tensors={"head.in": seen})


def layers_of(bundle: Bundle) -> LayersReport:
    layer = LayerDifference(
        module="head", shape=(1, 4), max_abs_err=0.1, relative_err=0.01, cosine=0.999, sqnr_db=45.0, bad=False
    )
    return LayersReport(bundle=str(bundle.path), bundle_id=bundle.manifest.bundle_id, reference="torch fp32",
                        contender="onnxruntime int8", clip="clip 7", rows=300, tolerance=0.1, bisected=False, layers=(layer,),
                        first_bad=None, case="case.npz")  # fmt: skip


def clip_of(index: int, rows: int, persons: int) -> Clip:
    """A clip of noise for ``nite15``; the second of two persons has the later half of the rows."""
    values = np.random.default_rng(index).normal(size=(rows, 15, 3)).astype(np.float32)
    first = rows // persons
    return Clip(values, (first, rows - first) if persons == 2 else (rows,), f"clip {index}")


@pytest.fixture(autouse=True)
def run_by_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of ``tiny_bundle`` is made by hand; the native engine knows STAR alone."""
    monkeypatch.setattr("star_edge.engines.DEFAULT_ENGINE", "onnxruntime")


@pytest.fixture
def by_hand() -> SimpleNamespace:
    """The functions above, for tests that change a bundle or a report."""
    return SimpleNamespace(
        write=write, add_int8=add_int8, verify=verify_of, predictions=predictions_of, bench=bench_of, clip=clip_of
    )


@pytest.fixture
def reported(tiny_bundle: Path) -> Path:
    """The tiny bundle with INT8 and every report there is."""
    bundle = add_int8(tiny_bundle)
    for name, make in (
        ("verify", verify_of),
        ("predictions", predictions_of),
        ("bench", bench_of),
        ("sensitivity", sensitivity_of),
        ("ranges", ranges_of),
        ("layers", layers_of),
    ):
        write(bundle, name, make(bundle))
    return tiny_bundle


@pytest.fixture
def recorded(reported, by_hand, tmp_path) -> Path:
    """A dataset with the clips that ``reported`` was verified on."""
    bundle = Bundle.open(reported)
    predictions = by_hand.predictions(bundle)
    manifest = bundle.manifest
    info = SetInfo("hand", "made by a test", "ask the owner", manifest.skeleton, manifest.class_names, 15.0)
    with DatasetWriter(tmp_path / "data", manifest.skeleton.num_joints, "by hand") as writer:
        assert not list(writer.replay([]))
        for i, (label, rows, persons) in enumerate(
            zip(predictions.labels, predictions.rows, predictions.persons, strict=True)
        ):
            recording = Recording(by_hand.clip(i, rows, persons), rows // persons, persons)
            writer.keep(recording, f"clip {i}", label, 1, (0, 0), stored=False)
        everything = Split(np.full(len(predictions.labels), TEST, dtype=np.int8), "by hand")
        writer.commit(info, {"own": everything}, "own", [], 0, 0)
    return tmp_path / "data"
