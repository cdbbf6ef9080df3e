"""The INT8 model of a bundle: built from ``calibration.json``, the only source of its ranges, and compared with fp32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx

from calibration import ptq
from calibration.ranges import open_session
from calibration.report import Agreement
from exporters.onnx.lowering import lowering_of
from runtime.bundle import Bundle
from runtime.calibration_table import CalibrationTable
from runtime.errors import InputError, MismatchError
from runtime.manifest import CALIBRATION, WEIGHTS, model_file
from runtime.tolerances import relative_error

if TYPE_CHECKING:
    from calibration.reader import ClipReader

Base = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class Int8Model:
    """A quantised model before it is put into the bundle.

    Attributes:
        data: the ONNX file.
        base: float type around the Q/DQ pairs.
        modules: quantised modules.
        qdq: number of QuantizeLinear and of DequantizeLinear nodes.
        left_float: module that is never quantised -> its type and why.
    """

    data: bytes
    base: Base
    modules: tuple[str, ...]
    qdq: dict[str, int]
    left_float: dict[str, str]


def make_int8_model(bundle: Bundle, table: CalibrationTable, quantised: Collection[str] | None = None) -> Int8Model:
    """Build the INT8 model from the table over the float type of the bundle's default precision.

    ``quantised`` names the modules to quantise; None: all that can be.

    Raises MismatchError when the table belongs to other weights, or Q/DQ is not exactly on the modules to quantise.
    """
    table.check_weights(bundle.manifest.files[WEIGHTS].sha256, where=CALIBRATION)
    lowering = lowering_of(bundle)
    base: Base = "fp16" if bundle.manifest.default_precision == "fp16" else "fp32"
    modules = [module for module in lowering.quantised_modules if quantised is None or module in quantised]
    model = lowering.int8_model(table.ranges, base, modules if quantised is None else quantised)
    ptq.check_quantised(ptq.quantised_products(model), modules, "The exporter")
    operators = Counter(node.op_type for node in model.graph.node)
    qdq = {name: operators[name] for name in ("QuantizeLinear", "DequantizeLinear")}
    expected = {"QuantizeLinear": len(modules), "DequantizeLinear": 2 * len(modules)}
    if qdq != expected:
        raise MismatchError("the INT8 graph has other Q/DQ nodes than its modules need", found=qdq, expected=expected)
    never = lowering.node_precisions("int8", base)
    left_float = {
        module: f"{precision}: {lowering.float_reason(module)}" for module, precision in never.items() if precision != "int8"
    }
    return Int8Model(model.SerializeToString(), base, tuple(modules), qdq, left_float)


def nodes_with(bundle: Bundle, int8: Int8Model) -> dict[str, dict[str, str]]:
    """The manifest's precision of each module with those of this INT8 model."""
    return bundle.manifest.nodes | {"int8": lowering_of(bundle).node_precisions("int8", int8.base, int8.modules)}


def compare(bundle: Bundle, int8: Int8Model, reader: ClipReader) -> Agreement:
    """Run fp32 and INT8 on every clip of the reader; InputError when INT8 answers NaN or infinity."""
    reference = logits_of(bundle.read(model_file("fp32")), reader, "fp32")
    logits = logits_of(int8.data, reader, "int8")
    return Agreement(
        clips=len(logits),
        agreement=float((reference.argmax(1) == logits.argmax(1)).mean()),
        max_abs_err=float(np.abs(reference - logits).max()),
        relative_err=relative_error(logits, reference),
    )


def logits_of(model: bytes, reader: ClipReader, label: str) -> np.ndarray:
    """Logits [N, K] of an ONNX model on every clip of the reader; InputError when one is NaN or infinite."""
    session = open_session(onnx.load_model_from_string(model), optimise=True)
    rows = []
    for inputs in reader.start(label):
        logits = session.run(["logits"], inputs)[0]
        if not np.isfinite(logits).all():
            raise InputError(
                "the model answers NaN or infinity",
                where=f"{label}, clip {reader.clip_name}",
                expected="finite logits",
                hint="star-edge verify --precision fp32; if that passes, export without --fp16 and calibrate again",
            )
        rows.append(logits[0])
    return np.stack(rows)
