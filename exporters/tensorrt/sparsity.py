"""Which products of a graph sparse tensor cores can take: at most two of each four inputs of every output, over the whole weight."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

# operator -> axis of the inputs that are summed over, in its weight
_INPUT_AXIS = {"MatMul": 0, "Gemm": 0, "Conv": 1}


def sparse_products(model: ModelProto) -> list[str]:
    """Names of the products with a 2:4 weight, in floats or behind DequantizeLinear; one of zeros alone does not count."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    stored = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    found = []
    for node in model.graph.node:
        if node.op_type not in _INPUT_AXIS or len(node.input) < 2:
            continue
        tensor = constants.get(stored.get(node.input[1], node.input[1]))
        if tensor is not None and _is_two_of_four(np.moveaxis(numpy_helper.to_array(tensor), _input_axis(node), -1)):
            found.append(node.name)
    return found


def _is_two_of_four(weight: np.ndarray) -> bool:
    """Whether no four in a row of the last axis, whole fours alone, have more than two that are not zero."""
    if weight.ndim < 2 or weight.shape[-1] % 4 or not weight.any():
        return False
    return bool((np.count_nonzero(weight.reshape(*weight.shape[:-1], -1, 4), axis=-1) <= 2).all())


def _input_axis(node: NodeProto) -> int:
    turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 1 if turned else _INPUT_AXIS[node.op_type]
