"""Sensitivity of a calibrated bundle, layer by layer, and the mixed precision chosen by it on val clips."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from calibration.int8 import Int8Model, logits_of, make_int8_model, nodes_with
from calibration.layer_latency import measure_layers, time_in_turn
from calibration.mixed import choose_layers
from calibration.reader import ClipReader, Track
from calibration.report import Decision, Int8Score, LayerSensitivity, SensitivityReport
from calibration.score import score
from calibration.selection import val_clips
from exporters.onnx.lowering import lowering_of
from runtime.bundle import REPORTS, Bundle, BundleWriter, write_report
from runtime.errors import InputError
from runtime.manifest import CALIBRATION, WEIGHTS, model_file
from runtime.readers.decoding import JSON_ERRORS
from star_edge.bench.workloads import parse_workload
from star_edge.data.recorded import Recorded, open_recorded

REPORT = "sensitivity"
Say = Callable[[str], None]


def analyze_bundle(
    bundle: Bundle | str | Path,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    samples: int | None = None,
    seed: int = 0,
    workload: str = "1x300",
    threads: int = 1,
    rounds: int = 20,
    apply: bool = False,
    track: Track | None = None,
    say: Say = lambda text: None,
) -> SensitivityReport:
    """Measure every layer's INT8, choose which layers keep it, and write ``reports/sensitivity.json``.

    What an interrupted run had measured is kept there and not measured again.

    Args:
        bundle: an opened bundle or its folder, calibrated.
        data: a dataset; default: the training source recorded in the bundle. Its val clips judge.
        split: scheme; default: the recorded one.
        samples: at most so many val clips, drawn with ``seed``.
        workload, threads, rounds: what is timed, on how many threads, how often.
        apply: put the chosen model into the bundle.
        track, say: show progress, and what people should know.

    Raises InputError (no data, no val clips, a bundle without calibration), MismatchError (other data, a stale table).
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    bundle.precision("int8")
    timed = _Timed(workload, _inputs(bundle, workload), threads, rounds)
    dataset = open_recorded(Recorded.in_bundle(bundle.manifest), data, "analyze", track)
    scheme = split or bundle.manifest.source.split or dataset.meta.default_split
    clips = val_clips(dataset, scheme)
    if samples is not None and samples < len(clips):
        clips = np.sort(np.random.default_rng(seed).choice(clips, samples, replace=False))
    judge = _Judge(bundle, ClipReader(dataset, clips, bundle.manifest.features), dataset.labels[clips])
    report = _measured_before(bundle, judge) or judge.start(scheme, str(data or bundle.manifest.source.data))
    if report.layers:
        say(f"{len(report.layers)} of {len(judge.modules)} layers were measured before.")
    report = _measure_layers(bundle, judge, report, track)
    report = _measure_latency(bundle, judge, report, timed)
    report = _decide(judge, report, timed)
    assert report.decision is not None
    if apply and report.decision.keep in ("int8", "mixed"):
        bundle = _apply(bundle, judge.model(report.decision.quantised))
        report = msgspec.structs.replace(report, bundle_id=bundle.manifest.bundle_id, applied=True)
    _write(bundle, report)
    return report


class _Timed(NamedTuple):
    """What is timed: the inputs of one call, on how many threads, how often."""

    workload: str
    inputs: dict[str, np.ndarray]
    threads: int
    rounds: int


class _Judge:
    """The bundle's fp32 answers on the clips of the reader, and any choice of INT8 layers beside them."""

    def __init__(self, bundle: Bundle, reader: ClipReader, labels: np.ndarray) -> None:
        self.bundle, self.reader, self.labels = bundle, reader, labels
        self.table = bundle.calibration()
        self.modules = tuple(lowering_of(bundle).quantised_modules)
        self.reference = logits_of(bundle.read(model_file("fp32")), reader, "fp32 on val")

    def model(self, quantised: Collection[str]) -> Int8Model:
        return make_int8_model(self.bundle, self.table, quantised)

    def score(self, quantised: Collection[str]) -> Int8Score:
        return score(logits_of(self.model(quantised).data, self.reader, "int8 on val"), self.reference, self.labels)

    def start(self, scheme: str, data: str) -> SensitivityReport:
        """A report without any layer yet."""
        manifest = self.bundle.manifest
        return SensitivityReport(
            bundle=str(self.bundle.path),
            bundle_id=manifest.bundle_id,
            data=data,
            split=scheme,
            base=self.model(()).base,
            clips=len(self.reader),
            float_score=self.score(()),
            int8_score=self.score(self.modules),
            val_fitted="val" in manifest.source.fitted,
            **self.identity(),
        )

    def identity(self) -> dict[str, Any]:
        """What a measurement belongs to."""
        files = self.bundle.manifest.files
        names = "\n".join(self.reader.names)
        return {
            "weights_sha256": files[WEIGHTS].sha256,
            "calibration_sha256": files[CALIBRATION].sha256,
            "clips_sha256": hashlib.sha256(names.encode()).hexdigest(),
        }


def _measured_before(bundle: Bundle, judge: _Judge) -> SensitivityReport | None:
    """The report of an earlier run over the same weights, ranges and clips, for this bundle as it is now."""
    path = bundle.path / REPORTS / f"{REPORT}.json"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=SensitivityReport)
    except OSError:
        return None
    except JSON_ERRORS:
        return None
    if any(getattr(found, name) != value for name, value in judge.identity().items()) or found.base != judge.model(()).base:
        return None
    return msgspec.structs.replace(
        found, bundle=str(bundle.path), bundle_id=bundle.manifest.bundle_id, decision=None, applied=False
    )


def _measure_layers(bundle: Bundle, judge: _Judge, report: SensitivityReport, track: Track | None) -> SensitivityReport:
    """Score each layer alone and without; every finished one is kept at once."""
    known = {layer.module for layer in report.layers}
    missing = [module for module in judge.modules if module not in known]
    for module in track(missing, "layers", len(missing)) if track else missing:
        layer = LayerSensitivity(
            module=module,
            nodes=(f"{module}.in.quantize", f"{module}.in.dequantize", f"{module}.weight.dequantize", module),
            alone=judge.score((module,)),
            without=judge.score([other for other in judge.modules if other != module]),
        )
        report = msgspec.structs.replace(report, layers=(*report.layers, layer))
        _write(bundle, report)
    return report


def _measure_latency(bundle: Bundle, judge: _Judge, report: SensitivityReport, timed: _Timed) -> SensitivityReport:
    """Time the kinds of layers, unless that was done with the same settings."""
    known = report.latency
    if known and (known.workload, known.threads, known.rounds) == (timed.workload, timed.threads, timed.rounds):
        return report
    latency = measure_layers(
        lambda modules: judge.model(modules).data,
        judge.modules,
        timed.inputs,
        workload=timed.workload,
        threads=timed.threads,
        rounds=timed.rounds,
    )
    report = msgspec.structs.replace(report, latency=latency)
    _write(bundle, report)
    return report


def _decide(judge: _Judge, report: SensitivityReport, timed: _Timed) -> SensitivityReport:
    assert report.latency is not None
    stays, returned, found = choose_layers(report.layers, report.latency.saved_us, judge.score)
    graphs = {"float": judge.model(()).data, "chosen": judge.model(stays).data}
    times = time_in_turn(graphs, timed.inputs, timed.threads, timed.rounds)
    float_ms, chosen_ms = (float(np.median(times[name])) * 1e3 for name in ("float", "chosen"))
    saved = float(np.median(times["float"] - times["chosen"]))  # paired by round
    keep, statement = _verdict(report.base, len(stays), len(judge.modules), saved * 1e3, float_ms, timed.workload)
    decision = Decision(
        keep=keep,
        quantised=stays,
        returned=returned,
        score=found,
        float_ms=float_ms,
        chosen_ms=chosen_ms,
        statement=statement,
    )
    return msgspec.structs.replace(report, decision=decision)


def _verdict(base: str, stays: int, layers: int, saved_ms: float, float_ms: float, workload: str) -> tuple[str, str]:
    """What to keep, and the sentence that says so."""
    if stays == 0:
        return base, f"keep {base} here: no layer is both faster and right enough in INT8"
    speed = f"{abs(saved_ms):.2f} of {float_ms:.2f} ms on {workload}"
    if saved_ms <= 0:
        return base, f"keep {base} here: {stays} of {layers} layers in INT8 cost {speed}"
    return ("int8" if stays == layers else "mixed"), f"{stays} of {layers} layers in INT8 save {speed}"


def _apply(bundle: Bundle, int8: Int8Model) -> Bundle:
    """Put the model into the bundle in one step."""
    writer = BundleWriter(bundle.path, base=bundle)
    writer.add(model_file("int8"), int8.data)
    return writer.commit(msgspec.structs.replace(bundle.manifest, nodes=nodes_with(bundle, int8)))


def _inputs(bundle: Bundle, workload: str) -> dict[str, np.ndarray]:
    """Of one call; InputError for a workload of several clips, which this engine calls one by one."""
    parsed = parse_workload(workload)
    if parsed.clips != 1:
        raise InputError("layers are timed on one clip", found=workload, expected="a workload such as 1x300")
    features, cu_seqlens = parsed.make(bundle.manifest.skeleton, bundle.manifest.features)
    return {"features": features, "cu_seqlens": cu_seqlens}


def _write(bundle: Bundle, report: SensitivityReport) -> None:
    write_report(bundle, REPORT, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
