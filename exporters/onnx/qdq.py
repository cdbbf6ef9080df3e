"""QuantizeLinear and DequantizeLinear around a product: symmetric, an input by one range, a weight by output channel."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import numpy as np

from exporters.onnx.nodes import NodeList
from runtime.errors import MismatchError

LEVELS = 127  # symmetric int8: -127 to 127


def scales_of(amax: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """amax / 127 in a graph's float type; 1 for an all-zero channel, and never rounded down to zero."""
    scales = np.where(amax > 0, amax / LEVELS, 1.0).astype(dtype)
    return np.maximum(scales, np.finfo(dtype).smallest_subnormal)


def quantised_input(
    nodes: NodeList,
    constants: MutableMapping[str, np.ndarray],
    x: str,
    path: str,
    ranges: Mapping[str, float],
    dtype: np.dtype,
) -> str:
    """Q/DQ in front of a module: per tensor, scale amax / 127. MismatchError where the range is missing."""
    key = f"{path}.in"
    if key not in ranges:
        raise MismatchError("the calibration table lacks a range", where=key, hint="star-edge calibrate")
    scale, zero = f"{key}.scale", f"{key}.zero_point"
    constants[scale] = scales_of(np.asarray(ranges[key]), dtype)
    constants[zero] = np.zeros((), dtype=np.int8)
    quantised = nodes.add("QuantizeLinear", [x, scale, zero], f"{key}.int8", name=f"{key}.quantize")
    return nodes.add("DequantizeLinear", [quantised, scale, zero], f"{key}.dequantized", name=f"{key}.dequantize")


def quantised_weight(
    nodes: NodeList, constants: MutableMapping[str, np.ndarray], weight: np.ndarray, path: str, axis: int, dtype: np.dtype
) -> str:
    """An int8 initializer with one scale for each output channel, along ``axis``, dequantised."""
    name = f"{path}.weight"
    others = tuple(other for other in range(weight.ndim) if other != axis)
    scales = scales_of(np.abs(weight).max(axis=others), dtype)
    steps = np.expand_dims(scales.astype(np.float64), others)
    constants[name] = np.clip(np.rint(weight / steps), -LEVELS, LEVELS).astype(np.int8)
    constants[f"{name}.scale"] = scales
    constants[f"{name}.zero_point"] = np.zeros(len(scales), dtype=np.int8)
    inputs = [name, f"{name}.scale", f"{name}.zero_point"]
    return nodes.add("DequantizeLinear", inputs, f"{name}.dequantized", name=f"{name}.dequantize", axis=axis)
