"""Calibrate a bundle: training clips to ranges, ranges to the INT8 model, both into the bundle in one step."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
import onnx
from onnx import ModelProto

from calibration import ptq
from calibration.histograms import AMAX_FLOOR, METHODS, PERCENTILE, Histograms, Method
from calibration.int8 import Int8Model, compare, make_int8_model, nodes_with
from calibration.methods import score_methods
from calibration.modelopt import import_modelopt
from calibration.ranges import collect_histograms, largest_magnitudes
from calibration.reader import ClipReader, Track
from calibration.report import AnyMethod, CalibrateReport, MethodScore, RangesReport, TensorRange
from calibration.selection import check_not_held_out, stratified, training_clips, val_clips
from calibration.trained import trained_ranges
from exporters.onnx.lowering import Lowering, lowering_of
from runtime.bundle import Bundle, BundleWriter, write_report
from runtime.calibration_table import CalibrationTable
from runtime.manifest import CALIBRATION, WEIGHTS, model_file
from star_edge.data.recorded import Recorded, open_recorded

if TYPE_CHECKING:
    from star_edge.data import Dataset

_COMPARED = 64  # clips on which fp32 and INT8 are set side by side
_SHOWN_BINS = 64  # of a histogram in the report


def calibrate_bundle(
    bundle: Bundle | str | Path,
    data: str | Path | None = None,
    *,
    samples: int = 512,
    method: AnyMethod | Literal["best"] | None = None,
    percentile: float = PERCENTILE,
    split: str | None = None,
    seed: int = 0,
    track: Track | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> CalibrateReport:
    """Add ``calibration.json`` and ``model.int8.onnx`` to a bundle; until the last step the old one is whole.

    Args:
        bundle: an opened bundle or its folder.
        data: a dataset; default: the training source recorded in the bundle.
        samples: training clips wanted; with fewer at hand all are used, which is said and recorded.
        method: how a range is taken; ``best`` tries all and takes the one that is best on val clips; None: the ranges that
            quantisation-aware training settled on, where the bundle has them, else ``mse``.
        percentile: share of the values kept by the method ``percentile``, per cent.
        split: scheme whose part ``train`` is used; default: the recorded one.
        seed: of the choice of clips.
        track: wraps each pass over the clips for a progress bar.
        say: takes what people should know while it runs.

    Raises InputError (no data, no training clips, clips that are held out, a value that is not finite), MismatchError
    (data of another skeleton or other classes, changed data, a surprise from ModelOpt), MissingDependencyError.
    """
    started = time.monotonic()
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    manifest = bundle.manifest
    methods = methods_of(bundle, method)
    import_modelopt("onnx")  # said before the work, not after it
    dataset = open_recorded(Recorded.in_bundle(manifest), data, "calibrate", track)
    scheme = split or manifest.source.split or dataset.meta.default_split
    clips = training_clips(dataset, scheme)
    checked = check_not_held_out(manifest, dataset, clips)
    if not checked:
        say("The recorded training data is not here: these clips could not be compared with its test clips.")
    chosen = clips[stratified(dataset.names[clips], dataset.labels[clips], dataset.lengths[clips], samples, seed)]
    judged = val_clips(dataset, scheme) if method == "best" else chosen[:0]
    classes = _say_what_is_used(dataset, chosen, samples, scheme, say)
    reader = ClipReader(dataset, chosen, manifest.features, track)
    fp32 = bundle.read(model_file("fp32"))
    histograms = collect(onnx.load_model_from_string(fp32), lowering_of(bundle), reader)
    tables = {name: make_table(bundle, histograms, name, percentile, reader.names, samples) for name in methods}
    models = {name: make_int8_model(bundle, table) for name, table in tables.items()}
    scores: tuple[MethodScore, ...] = ()
    if method == "best":
        scores = score_methods(fp32, models, ClipReader(dataset, judged, manifest.features, track), dataset.labels[judged])
    taken = scores[0].method if scores else methods[0]
    table, int8 = tables[taken], models[taken]
    compared = chosen[:: max(1, len(chosen) // _COMPARED)][:_COMPARED]
    agreement = compare(bundle, int8, ClipReader(dataset, compared, manifest.features, track))
    calibrated = commit(bundle, table, int8)
    write_report(calibrated, "ranges", msgspec.json.encode(describe_ranges(calibrated, histograms, table, percentile)))
    return CalibrateReport(
        bundle=str(calibrated.path),
        bundle_id=calibrated.manifest.bundle_id,
        data=str(data or manifest.source.data),
        split=scheme,
        method=table.method,
        percentile=table.percentile,
        scores=scores,
        val_fitted="val" in manifest.source.fitted,
        samples=table.samples,
        requested_samples=table.requested_samples,
        classes=classes,
        shortest=int(dataset.lengths[chosen].min()),
        longest=int(dataset.lengths[chosen].max()),
        held_out_checked=checked,
        weights_sha256=table.weights_sha256,
        ranges=len(table.ranges),
        base=int8.base,
        quantised=int8.modules,
        left_float=int8.left_float,
        qdq=int8.qdq,
        agreement=agreement,
        files={name: calibrated.manifest.files[name].bytes for name in (CALIBRATION, model_file("int8"))},
        seconds=round(time.monotonic() - started, 3),
    )


def _say_what_is_used(
    dataset: Dataset, chosen: np.ndarray, samples: int, scheme: str, say: Callable[[str], None]
) -> dict[str, int]:
    """Tell which clips calibrate and what is missing among them; class name -> clips of it."""
    labels, lengths = dataset.labels[chosen].tolist(), dataset.lengths[chosen]
    classes = {name: labels.count(label) for label, name in enumerate(dataset.meta.class_names)}
    if len(chosen) < samples:
        say(f"Fewer clips than asked for: {len(chosen)} of {samples}, all that split {scheme} has for training.")
    if not all(classes.values()):
        say(f"No clip of the classes {', '.join(name for name, count in classes.items() if not count)}.")
    say(
        f"Calibrating with {len(chosen)} training clips of {dataset.meta.name}, split {scheme}, "
        f"{lengths.min()} to {lengths.max()} rows"
    )
    return classes


def collect(model: ModelProto, lowering: Lowering, reader: ClipReader) -> Histograms:
    """Histograms of every tensor whose range is recorded: one pass for the largest magnitudes, one to count.

    Between them ModelOpt calibrates the same graph and has to agree about nodes and magnitudes.
    """
    tensors = lowering.recorded_tensors
    amax = largest_magnitudes(model, set(tensors.values()), reader)
    ptq.check_with_modelopt(model, {module: tensors[f"{module}.in"] for module in lowering.quantised_modules}, reader, amax)
    return collect_histograms(model, amax, reader)


def methods_of(bundle: Bundle, asked: AnyMethod | Literal["best"] | None) -> tuple[AnyMethod, ...]:
    """The methods to try; ``trained`` raises what :func:`trained_ranges` does."""
    trained: tuple[AnyMethod, ...] = ("trained",) if bundle.manifest.source.trained or asked == "trained" else ()
    if trained:
        trained_ranges(bundle)
    if asked == "best":
        return (*METHODS, *trained)
    return (asked,) if asked else trained or ("mse",)


def make_table(
    bundle: Bundle, histograms: Histograms, method: AnyMethod, percentile: float, clips: tuple[str, ...], requested: int
) -> CalibrationTable:
    """The ranges one method takes from histograms of the named clips; ``requested`` clips had been asked for.

    Where the method is ``trained``, tensors that training had no range for get that of ``mse``.
    """
    tensors = lowering_of(bundle).recorded_tensors
    trained = trained_ranges(bundle) if method == "trained" else {}
    taken: Method = "mse" if method == "trained" else method
    return CalibrationTable(
        method=method,
        percentile=percentile if method == "percentile" else None,
        samples=len(clips),
        requested_samples=requested,
        clips=clips,
        weights_sha256=bundle.manifest.files[WEIGHTS].sha256,
        ranges={
            key: trained.get(key) or max(histograms.range_by(taken, tensor, percentile), AMAX_FLOOR)
            for key, tensor in sorted(tensors.items())
        },
    ).check(where=CALIBRATION)


def describe_ranges(bundle: Bundle, histograms: Histograms, table: CalibrationTable, percentile: float) -> RangesReport:
    """What was seen of each tensor and where each method cuts it."""
    tensors = lowering_of(bundle).recorded_tensors
    return RangesReport(
        bundle_id=bundle.manifest.bundle_id,
        method=table.method,
        percentile=percentile,
        tensors={
            key: TensorRange(
                amax=histograms.amax[tensor],
                chosen=table.ranges[key],
                ranges={method: histograms.range_by(method, tensor, percentile) for method in METHODS},
                counts=tuple(histograms.counts[tensor].reshape(_SHOWN_BINS, -1).sum(1).tolist()),
            )
            for key, tensor in sorted(tensors.items())
        },
    )


def commit(bundle: Bundle, table: CalibrationTable, int8: Int8Model) -> Bundle:
    """Put table and model into the bundle in one step; until then, and on any failure, the old one is whole."""
    from modelopt import __version__ as modelopt_version

    manifest = bundle.manifest
    writer = BundleWriter(bundle.path, base=bundle)
    writer.add(CALIBRATION, table.to_bytes())
    writer.add(model_file("int8"), int8.data)
    created_by = manifest.created_by | {"nvidia-modelopt": modelopt_version}
    return writer.commit(msgspec.structs.replace(manifest, nodes=nodes_with(bundle, int8), created_by=created_by))
