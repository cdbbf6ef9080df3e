"""TensorRT-RTX parses and builds every precision's graph, strongly typed, with dynamic shapes; it needs no GPU."""

from __future__ import annotations

import pytest

from exporters.onnx.graph import build_model, recorded_tensors
from runtime.errors import GateError
from star_edge.training.checkpoint import load_checkpoint

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'star-edge[tensorrt-rtx]'")

from exporters.tensorrt.rtx import build


@pytest.fixture(scope="module")
def parts(random_checkpoint):
    checkpoint = load_checkpoint(random_checkpoint)
    return checkpoint.model.config, {name: tensor.numpy() for name, tensor in checkpoint.state_dict.items()}


@pytest.mark.parametrize(("precision", "base"), [("fp32", "fp32"), ("fp16", "fp16"), ("int8", "fp32"), ("int8", "fp16")])
def test_graph_builds(parts, precision, base):
    ranges = dict.fromkeys(recorded_tensors(parts[0]), 4.0) if precision == "int8" else None
    built = build(build_model(*parts, precision, ranges, base))
    assert built.engine_bytes > 0
    assert built.layers > 0


def test_a_refused_graph_is_reported_with_the_reason(parts):
    model = build_model(*parts)
    model.graph.node[-1].op_type = "NoSuchOp"
    with pytest.raises(GateError, match=r"(?s)cannot parse.*NoSuchOp"):
        build(model)


def test_types_are_checked(parts):
    model = build_model(*parts, "fp16")
    cast = next(node for node in model.graph.node if node.op_type == "Cast" and node.output[0] == "input_norm.out")
    cast.attribute[0].i = 1  # float32 activations now meet fp16 weights
    with pytest.raises(GateError):
        build(model)
