"""INT8 in and out of the ops: the plugins' kernels beside the Q/DQ graph that ONNX Runtime runs, on the same levels."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from cuda_devices import Device, Guarded, open_device

from exporters.onnx.functions import CONTEXT, LINEAR, OPS, POSITIONS, SPARSE
from exporters.onnx.single_op import build_single_op
from runtime.native.cuda import library as cuda
from runtime.packing import cu_seqlens_of
from star_edge.models.config import StarConfig
from star_edge.ops.segmented_linear_attention import EPS

JOINTS, DIM, HEADS = 5, 24, 3
EDGES = tuple((i, j) for i in range(JOINTS) for j in range(JOINTS) if abs(i - j) <= 1)
CONFIG = StarConfig(joints=JOINTS, channels=3, classes=2, edges=EDGES, dim=DIM, heads=HEADS)
LENGTHS = [40, 1, 0, 70]
INPUT_SCALE, OUTPUT_SCALE = np.float32(0.03), np.float32(0.02)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    return open_device("emulated", cuda.OPS, tmp_path_factory.mktemp("emulated"))


def graph_levels(op: str, levels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """DequantizeLinear, the function body, QuantizeLinear."""
    import onnxruntime

    inputs: dict[str, np.ndarray] = {
        "x" if op in (POSITIONS, CONTEXT) else "qkv": levels.astype(np.float32) * INPUT_SCALE,
        "weight": weight,
        "cu_seqlens": cu_seqlens_of(LENGTHS),
    }
    model = build_single_op(op, CONFIG)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {value.name: inputs[value.name] for value in model.graph.input})
    return np.clip(np.rint(out / OUTPUT_SCALE), -127, 127).astype(np.int8)


def kernel_levels(device: Device, op: str, levels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    shape = cuda.Shape(len(levels), len(LENGTHS), JOINTS, DIM, HEADS)
    form = cuda.Format(cuda.TYPES.index("int8"), INPUT_SCALE, OUTPUT_SCALE)
    rows = len(LENGTHS) if op == CONTEXT else len(levels)
    x, offsets, weights = (Guarded.of(array, "cpu") for array in (levels, cu_seqlens_of(LENGTHS), weight))
    out = Guarded(rows * JOINTS * DIM, torch.int8, "cpu")
    workspace = Guarded(device.library.star_cuda_segmented_linear_attention_workspace(shape), torch.uint8, "cpu")
    if op == POSITIONS:
        device.call("segmented_positions", shape, form, x.address, offsets.address, out.address, None)
    elif op == SPARSE:
        words = [sum(1 << j for i, j in EDGES if i == joint) for joint in range(JOINTS)]
        device.call("sparse_attention", shape, form, (ctypes.c_uint64 * JOINTS)(*words), x.address, out.address, None)
    elif op == LINEAR:
        device.call(
            "segmented_linear_attention", shape, form, EPS, x.address, offsets.address, workspace.address, out.address, None
        )
    else:
        device.call("context_attention", shape, form, 0, x.address, weights.address, offsets.address, out.address, None)
    return out.values.numpy().reshape(rows, JOINTS, DIM)


@pytest.mark.parametrize("op", OPS)
def test_levels_are_those_of_the_graph(device: Device, op: str) -> None:
    """What lies at the edge between two levels may fall to either: of a thousand values less than two, and never further."""
    rng = np.random.default_rng(OPS.index(op))
    width = DIM if op in (POSITIONS, CONTEXT) else 3 * DIM
    levels = np.clip(np.rint(rng.normal(size=(sum(LENGTHS), JOINTS, width)) / INPUT_SCALE), -127, 127).astype(np.int8)
    weight = rng.normal(scale=DIM**-0.5, size=(DIM, DIM)).astype(np.float32)
    expected, found = graph_levels(op, levels, weight), kernel_levels(device, op, levels, weight)
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference != 0).mean() < 2e-3
    assert len(np.unique(expected)) > 20
