"""A model of one ``Star*`` node and its function body, to test and time a body by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import FunctionProto, ModelProto, TensorProto, helper

from exporters.onnx.functions import CONTEXT, DOMAIN, LINEAR, OPSET, POSITIONS, SPARSE, VERSION, attributes, make_functions
from exporters.onnx.nodes import FLOAT_TYPES

if TYPE_CHECKING:
    from star_edge.models.star import StarConfig

IR_VERSION = 10


def build_single_op(op: str, config: StarConfig, precision: str = "fp32", body: FunctionProto | None = None) -> ModelProto:
    """A model with the op's inputs (see functions.py) and the output ``out``, float tensors of ``precision``.

    ``body`` replaces the op's function body.
    """
    if body is None:
        body = next(function for function in make_functions(config, precision) if function.name == op)
    element, dim, joints = FLOAT_TYPES[precision], config.dim, config.joints
    x = helper.make_tensor_value_info("x", element, ["frames", joints, dim])
    qkv = helper.make_tensor_value_info("qkv", element, ["frames", joints, 3 * dim])
    weight = helper.make_tensor_value_info("weight", element, [dim, dim])
    cu_seqlens = helper.make_tensor_value_info("cu_seqlens", TensorProto.INT32, ["clips_plus_1"])
    inputs = {POSITIONS: [x, cu_seqlens], SPARSE: [qkv], LINEAR: [qkv, cu_seqlens], CONTEXT: [x, weight, cu_seqlens]}[op]
    node = helper.make_node(op, [value.name for value in inputs], ["out"], name=op, domain=DOMAIN, **attributes(op, config))
    rows = "clips" if op == CONTEXT else "frames"
    return helper.make_model(
        helper.make_graph(
            [node],
            op,
            inputs,
            [helper.make_tensor_value_info("out", element, [rows, joints, dim])],
        ),
        functions=[body],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=IR_VERSION,
    )
