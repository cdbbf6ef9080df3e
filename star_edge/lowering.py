"""What each node of an ONNX graph is computed in, and by what: a function's body, a plugin, Q/DQ, a float32 island."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto, NodeProto

_STANDARD = ("", "ai.onnx")


class NodeLowering(msgspec.Struct, frozen=True):
    """One node.

    Attributes:
        operator: with its domain where it is not the standard one.
        precision: of its first output; ``int8`` for a product of dequantised inputs; ``unknown`` where types cannot be inferred.
        lowering: empty for a standard operator in the graph's own precision.
    """

    operator: str
    precision: str
    lowering: str


def lowerings(model: ModelProto) -> dict[str, NodeLowering]:
    """Name of each node, or of its first output where it has none -> what it is. Q/DQ nodes themselves are left out."""
    functions = {(function.domain, function.name): function for function in model.functions}
    types = _types(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    half = any(types.get(name) in ("fp16", "bf16") for name in makers)
    found = {}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or not node.output:
            continue
        precision = types.get(node.output[0], "unknown")
        lowering = ""
        if node.domain not in _STANDARD:
            lowering = _function(functions.get((node.domain, node.op_type)), half)
        elif _is_quantised(node, makers):
            precision, lowering = "int8", "Q/DQ"
        elif half and precision == "fp32" and node.op_type != "Cast":
            lowering = "float32 island"
        found[node.name or node.output[0]] = NodeLowering(qualified(node.domain, node.op_type), precision, lowering)
    return found


def qualified(domain: str, name: str) -> str:
    """An operator's name, with its domain unless that is the standard one."""
    return name if domain in _STANDARD else f"{domain}::{name}"


def type_name(number: int) -> str:
    """An element type as ONNX names it, in small letters; a number that stands for none as it is."""
    from onnx import TensorProto

    return TensorProto.DataType.Name(number).lower() if number in TensorProto.DataType.values() else f"type {number}"


def _function(body: FunctionProto | None, half: bool) -> str:
    """How a custom operator is lowered: without a function it takes a plugin or a kernel of that name."""
    from onnx import TensorProto

    if body is None:
        return "plugin op"
    casts = (
        attribute.i for node in body.node if node.op_type == "Cast" for attribute in node.attribute if attribute.name == "to"
    )
    inside = ", float32 inside" if half and TensorProto.FLOAT in casts else ""
    return f"function body of {len(body.node)} nodes{inside}"


def _is_quantised(node: NodeProto, makers: dict[str, NodeProto]) -> bool:
    sources: Iterable[NodeProto | None] = [makers.get(name) for name in node.input]
    return node.op_type == "MatMul" and all(source is not None and source.op_type == "DequantizeLinear" for source in sources)


def _types(model: ModelProto) -> dict[str, str]:
    """Tensor -> precision, or another type's name; empty for a graph whose types contradict each other."""
    from google.protobuf.message import DecodeError
    from onnx import shape_inference

    names = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16"}
    try:
        graph = shape_inference.infer_shapes(model).graph
    except (shape_inference.InferenceError, DecodeError, ValueError, RuntimeError):
        return {}
    values = [*graph.value_info, *graph.input, *graph.output]
    kinds = {value.name: type_name(value.type.tensor_type.elem_type) for value in values}
    return {name: names.get(kind, kind) for name, kind in kinds.items()}
