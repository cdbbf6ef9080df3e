"""From clips to ranges to the INT8 model of a bundle. ``calibration.json`` is the only source of its ranges."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
import onnx
from onnx import ModelProto

from calibration import ptq
from calibration.ranges import AMAX_FLOOR, Method, entropy_ranges, largest_magnitudes, open_session
from exporters.onnx.graph import build_model, node_precisions, quantised_modules, recorded_tensors
from runtime.bundle import Bundle, BundleWriter
from runtime.calibration_table import CalibrationTable
from runtime.errors import InputError, MismatchError
from runtime.manifest import CALIBRATION, WEIGHTS, model_file
from runtime.tolerances import relative_error

if TYPE_CHECKING:
    from calibration.reader import ClipReader
    from star_edge.models.star import StarConfig

Base = Literal["fp32", "fp16"]

# why a module outside the quantised ones keeps its float type, by the last part of its path
FLOAT_REASONS = {
    "input_norm": "float32 normalisation of raw joints",
    "embedding": "a few channels wide: nothing to gain, and every later layer sees its error",
    "positions": "an addition",
    "attention": "softmax, or sums over frames: float32 inside",
    "norm1": "float32 island",
    "norm2": "float32 island",
    "context": "means over frames and a gate: float32 inside",
}


class Agreement(msgspec.Struct, frozen=True):
    """INT8 beside fp32 on calibration clips: information, not a gate, because these clips chose the ranges.

    Attributes:
        clips: compared.
        agreement: share of them with the same class.
        max_abs_err: largest difference of a logit.
        relative_err: the same relative to the largest logit.
    """

    clips: int
    agreement: float
    max_abs_err: float
    relative_err: float


@dataclass(frozen=True)
class Int8Model:
    """A quantised model before it is put into the bundle.

    Attributes:
        data: the ONNX file.
        base: float type around the Q/DQ pairs.
        modules: quantised modules.
        qdq: number of QuantizeLinear and of DequantizeLinear nodes.
        left_float: module -> why it stays float.
    """

    data: bytes
    base: Base
    modules: tuple[str, ...]
    qdq: dict[str, int]
    left_float: dict[str, str]


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


def make_int8_model(bundle: Bundle, table: CalibrationTable) -> Int8Model:
    """Build the INT8 model from the table over the float type of the bundle's default precision.

    Raises MismatchError when the table belongs to other weights, or Q/DQ is not exactly on the modules to quantise.
    """
    from safetensors.numpy import load

    table.check_weights(bundle.manifest.files[WEIGHTS].sha256, where=CALIBRATION)
    config = model_config(bundle)
    base: Base = "fp16" if bundle.manifest.default_precision == "fp16" else "fp32"
    model = build_model(config, load(bundle.read(WEIGHTS)), "int8", table.ranges, base)
    modules = quantised_modules(config)
    ptq.check_quantised(ptq.quantised_products(model), modules, "The exporter")
    operators = Counter(node.op_type for node in model.graph.node)
    qdq = {name: operators[name] for name in ("QuantizeLinear", "DequantizeLinear")}
    expected = {"QuantizeLinear": len(modules), "DequantizeLinear": 2 * len(modules)}
    if qdq != expected:
        raise MismatchError("the INT8 graph has other Q/DQ nodes than its modules need", found=qdq, expected=expected)
    precisions = node_precisions(config, "int8", base)
    left_float = {
        module: f"{precision}: {FLOAT_REASONS[module.rpartition('.')[2]]}"
        for module, precision in precisions.items()
        if precision != "int8"
    }
    return Int8Model(model.SerializeToString(), base, tuple(modules), qdq, left_float)


def compare(bundle: Bundle, int8: Int8Model, reader: ClipReader) -> Agreement:
    """Run fp32 and INT8 on every clip of the reader; InputError when INT8 answers NaN or infinity."""
    sessions = [
        open_session(onnx.load_model_from_string(data), optimise=True) for data in (bundle.read(model_file("fp32")), int8.data)
    ]
    reference, found = [], []
    for inputs in reader.start("fp32 beside int8"):
        expected, logits = (session.run(["logits"], inputs)[0] for session in sessions)
        if not np.isfinite(logits).all():
            raise InputError(
                "the INT8 model answers NaN or infinity",
                where=f"clip {reader.clip_name}",
                expected="finite logits",
                hint="export without --fp16, then calibrate again"
                if int8.base == "fp16"
                else "star-edge verify --precision fp32",
            )
        reference.append(expected[0])
        found.append(logits[0])
    expected, logits = np.stack(reference), np.stack(found)
    return Agreement(
        clips=len(logits),
        agreement=float((expected.argmax(1) == logits.argmax(1)).mean()),
        max_abs_err=float(np.abs(expected - logits).max()),
        relative_err=relative_error(logits, expected),
    )


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


def model_config(bundle: Bundle) -> StarConfig:
    """The model's configuration as the manifest records it; MismatchError when it is not one of a STAR model."""
    from star_edge.models.star import StarConfig

    try:
        return msgspec.convert(bundle.manifest.model.config, StarConfig)
    except msgspec.ValidationError as error:
        raise MismatchError(
            f"cannot calibrate the model '{bundle.manifest.model.name}'",
            where=bundle.path,
            found=str(error),
            expected="the configuration of a STAR model",
            hint="export the bundle again",
        ) from None
