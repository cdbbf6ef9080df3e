"""Calibrate a bundle: training clips to ranges, ranges to the INT8 model, both into the bundle in one step."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import onnx
from onnx import ModelProto

from calibration import ptq
from calibration.int8 import Int8Model, compare, make_int8_model, model_config
from calibration.ranges import AMAX_FLOOR, Method, entropy_ranges, largest_magnitudes
from calibration.reader import ClipReader, Track
from calibration.report import CalibrateReport
from calibration.selection import check_not_held_out, stratified, training_clips
from exporters.onnx.graph import node_precisions, quantised_modules, recorded_tensors
from runtime.bundle import Bundle, BundleWriter
from runtime.calibration_table import CalibrationTable
from runtime.manifest import CALIBRATION, WEIGHTS, model_file
from star_edge.data.recorded import Recorded, open_recorded

if TYPE_CHECKING:
    from star_edge.models.star import StarConfig

_COMPARED = 64  # clips on which fp32 and INT8 are set side by side


def calibrate_bundle(
    bundle: Bundle | str | Path,
    data: str | Path | None = None,
    *,
    samples: int = 512,
    method: Method = "entropy",
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
        method: how a range is taken.
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
    ptq.import_modelopt()  # said before the work, not after it
    dataset = open_recorded(Recorded.in_bundle(manifest), data, "calibrate", track)
    scheme = split or manifest.source.split or dataset.meta.default_split
    clips = training_clips(dataset, scheme)
    checked = check_not_held_out(manifest, dataset, clips)
    if not checked:
        say("The recorded training data is not here: these clips could not be compared with its test clips.")
    chosen = clips[stratified(dataset.names[clips], dataset.labels[clips], dataset.lengths[clips], samples, seed)]
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
    table = make_table(bundle, ClipReader(dataset, chosen, manifest.features, track), method, samples)
    int8 = make_int8_model(bundle, table)
    compared = chosen[:: max(1, len(chosen) // _COMPARED)][:_COMPARED]
    agreement = compare(bundle, int8, ClipReader(dataset, compared, manifest.features, track))
    calibrated = commit(bundle, table, int8)
    return CalibrateReport(
        bundle=str(calibrated.path),
        bundle_id=calibrated.manifest.bundle_id,
        data=str(data or manifest.source.data),
        split=scheme,
        method=method,
        samples=table.samples,
        requested_samples=table.requested_samples,
        classes=classes,
        shortest=int(lengths.min()),
        longest=int(lengths.max()),
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


def collect_ranges(model: ModelProto, config: StarConfig, reader: ClipReader, method: Method) -> dict[str, float]:
    """Calibration key -> amax > 0, for every recorded tensor.

    A first pass finds the largest magnitudes. ModelOpt then calibrates the inputs of the quantised products; the other
    tensors, which only plugins with INT8 inputs and outputs need, are collected here by the same method.
    """
    tensors = recorded_tensors(config)
    inputs = {module: tensors[f"{module}.in"] for module in quantised_modules(config)}
    amax = largest_magnitudes(model, set(tensors.values()), reader)
    weighted = {tensor: amax[tensor] for tensor in sorted(set(inputs.values()))}
    found = {tensor: value for tensor, value in amax.items() if tensor not in weighted}
    if method == "entropy":
        found = entropy_ranges(model, found, reader)
    found |= ptq.weighted_input_ranges(model, inputs, reader, method, weighted)
    return {key: max(found[tensor], AMAX_FLOOR) for key, tensor in sorted(tensors.items())}


def make_table(bundle: Bundle, reader: ClipReader, method: Method, requested: int) -> CalibrationTable:
    """Calibrate the bundle's fp32 graph with the clips of the reader; the same clips give the same table."""
    model = onnx.load_model_from_string(bundle.read(model_file("fp32")))
    return CalibrationTable(
        method=method,
        samples=len(reader),
        requested_samples=requested,
        clips=reader.names,
        weights_sha256=bundle.manifest.files[WEIGHTS].sha256,
        ranges=collect_ranges(model, model_config(bundle), reader, method),
    ).check(where=CALIBRATION)


def commit(bundle: Bundle, table: CalibrationTable, int8: Int8Model) -> Bundle:
    """Put table and model into the bundle in one step; until then, and on any failure, the old one is whole."""
    from modelopt import __version__ as modelopt_version

    manifest = bundle.manifest
    nodes = manifest.nodes | {"int8": node_precisions(model_config(bundle), "int8", int8.base)}
    created_by = manifest.created_by | {"nvidia-modelopt": modelopt_version}
    writer = BundleWriter(bundle.path, base=bundle)
    writer.add(CALIBRATION, table.to_bytes())
    writer.add(model_file("int8"), int8.data)
    return writer.commit(msgspec.structs.replace(manifest, nodes=nodes, created_by=created_by))
