"""Post-training quantisation by nvidia-modelopt, as a second opinion: which products it quantises, and the largest input of each.

ModelOpt gets the canonical fp32 graph with function bodies inlined (custom ops make it insist on TensorRT where that is
installed), our data reader, and an explicit list of nodes; its filter that leaves out products with one row, as both head
layers have for a single clip, is turned off. Its graph is read, compared and dropped: ours is built from ``calibration.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import onnx
from onnx import ModelProto, NodeProto, inliner, numpy_helper

from calibration.histograms import AMAX_FLOOR
from calibration.modelopt import import_modelopt, quiet
from runtime.errors import MismatchError
from runtime.files import scratch_folder

if TYPE_CHECKING:
    from calibration.reader import ClipReader

# ModelOpt computes a scale in float32 and on all cores; its range is the largest magnitude to this precision
_RANGE_TOLERANCE = 1e-4

# operators that multiply by a weight
_PRODUCTS = ("MatMul", "Conv", "Gemm")


class Quantised(NamedTuple):
    """The activation input of a quantised product: its tensor, and the range amax its scale stands for."""

    tensor: str
    amax: float


def check_with_modelopt(model: ModelProto, inputs: Mapping[str, str], reader: ClipReader, amax: Mapping[str, float]) -> None:
    """Let ModelOpt calibrate the graph with the same clips; raise MismatchError unless it comes to the same.

    Args:
        model: the canonical fp32 graph.
        inputs: node to quantise -> the tensor that enters it.
        reader: the clips.
        amax: largest magnitude of each of these tensors over the clips.

    It has to quantise exactly these nodes, each input with the range that was found for it.
    """
    found = quantised_products(_quantise(model, list(inputs), reader))
    check_quantised(found, list(inputs), "ModelOpt")
    for module, (tensor, value) in found.items():
        largest = amax[inputs[module]]
        # a tensor that is zero everywhere gets scale 1 from ModelOpt, which says nothing about it
        if largest > AMAX_FLOOR and not abs(value - largest) <= _RANGE_TOLERANCE * largest:
            raise MismatchError(
                "ModelOpt's range does not fit the activations",
                where=f"{module}, tensor {tensor}",
                found=f"amax {value:g}",
                expected=f"{largest:g}",
                hint="pip install 'star-edge[calibrate]' for the tested version",
            )


def check_quantised(found: Mapping[str, Quantised], modules: Sequence[str], maker: str) -> None:
    """Raise MismatchError unless exactly these products are quantised."""
    missing, surplus = sorted(set(modules) - found.keys()), sorted(found.keys() - set(modules))
    if missing or surplus:
        raise MismatchError(
            f"{maker} quantised other nodes than asked for",
            found=f"{len(found)} quantised; without Q/DQ: {', '.join(missing) or 'none'}; surplus: {', '.join(surplus) or 'none'}",
            expected=f"Q/DQ on {len(modules)} products",
            hint="pip install 'star-edge[calibrate]' for the tested version",
        )


def quantised_products(model: ModelProto) -> dict[str, Quantised]:
    """Name of each product whose input and weight are dequantised -> its activation input."""
    makers = {output: node for node in model.graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, Quantised] = {}
    for node in model.graph.node:
        sources = [makers.get(name) for name in node.input]
        if node.op_type in _PRODUCTS and all(source and source.op_type == "DequantizeLinear" for source in sources[:2]):
            quantize = _quantize_of(sources[0], makers)
            scale = float(numpy_helper.to_array(constants[quantize.input[1]]).item())
            found[node.name] = Quantised(quantize.input[0], scale * 127)
    return found


def _quantize_of(dequantize: NodeProto | None, makers: Mapping[str, NodeProto]) -> NodeProto:
    """The QuantizeLinear that feeds a DequantizeLinear."""
    node = makers.get(dequantize.input[0]) if dequantize is not None else None
    if node is None or node.op_type != "QuantizeLinear":
        raise MismatchError("an activation is dequantised without having been quantised",
                            where=dequantize.name if dequantize is not None else None)  # fmt: skip
    return node


def _quantise(model: ModelProto, modules: Sequence[str], reader: ClipReader) -> ModelProto:
    """ModelOpt's Q/DQ graph. Everything it writes stays in a folder that is removed."""
    modelopt = import_modelopt("onnx")
    with scratch_folder() as folder:
        source, result = folder / "model.onnx", folder / "model.int8.onnx"
        onnx.save(inliner.inline_local_functions(model), source)
        with quiet():
            modelopt.quantize(
                str(source),
                quantize_mode="int8",
                calibration_method="max",
                calibration_data_reader=reader.start("ModelOpt"),
                calibration_eps=["cpu"],
                op_types_to_quantize=sorted(_PRODUCTS),
                nodes_to_quantize=[f"^{re.escape(module)}$" for module in modules],  # it takes regular expressions
                disable_mha_qdq=True,
                high_precision_dtype="fp32",
                output_path=str(result),
                log_level="CRITICAL",
                enable_gemv_detection_for_trt=False,
            )
        return onnx.load(result)
