"""What stands in a graph, node by node."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("torch", reason="torch is not installed")

from onnx import TensorProto, helper  # noqa: E402

from star_edge.lowering import NodeLowering, lowerings  # noqa: E402


@pytest.fixture(scope="module")
def graphs(random_checkpoint: Path) -> dict[str, onnx.ModelProto]:
    """The two-layer model in fp32, fp16, and INT8 over fp16."""
    from exporters.onnx.graph import build_model, recorded_tensors
    from star_edge.training.checkpoint import load_checkpoint

    saved = load_checkpoint(random_checkpoint)
    parts = saved.model.config, {name: tensor.numpy() for name, tensor in saved.state_dict.items()}
    ranges = dict.fromkeys(recorded_tensors(saved.model.config), 4.0)
    return {
        "fp32": build_model(*parts),
        "fp16": build_model(*parts, "fp16"),
        "int8": build_model(*parts, "int8", ranges, "fp16", ["layers.1.spatial.qkv", "head.output"]),
    }


def test_precisions(graphs: dict[str, onnx.ModelProto]) -> None:
    for precision, graph in graphs.items():
        found = lowerings(graph)
        base = "fp32" if precision == "fp32" else "fp16"
        quantised = {name for name, node in found.items() if node.lowering == "Q/DQ"}
        assert quantised == ({"layers.1.spatial.qkv", "head.output"} if precision == "int8" else set())
        assert all(found[name] == NodeLowering("MatMul", "int8", "Q/DQ") for name in quantised)
        assert found["embedding"] == NodeLowering("MatMul", base, "")
        island = "" if precision == "fp32" else "float32 island"
        assert found["layers.0.temporal.norm1"] == NodeLowering("LayerNormalization", "fp32", island)
        assert found["input_norm"] == NodeLowering("Mul", "fp32", island)
        assert "DequantizeLinear" not in {node.operator for node in found.values()}


def test_a_custom_op_has_a_function_body_or_needs_a_plugin(graphs: dict[str, onnx.ModelProto]) -> None:
    name = "layers.0.spatial.attention"
    bodies = {function.name: len(function.node) for function in graphs["fp16"].functions}
    expected = f"function body of {bodies['StarSparseAttention']} nodes, float32 inside"
    assert lowerings(graphs["fp16"])[name] == NodeLowering("star_edge::StarSparseAttention", "fp16", expected)
    assert "float32" not in lowerings(graphs["fp32"])[name].lowering
    bare = onnx.ModelProto()
    bare.CopyFrom(graphs["fp32"])
    del bare.functions[:]
    assert Counter(node.lowering for node in lowerings(bare).values())["plugin op"] == 6
    assert lowerings(bare)[name].precision == "unknown"


def test_a_foreign_graph() -> None:
    """Nodes without a name or an output, operators that nobody knows, types that contradict each other."""
    port = helper.make_tensor_value_info("x", TensorProto.DOUBLE, [1])

    def found(*nodes: onnx.NodeProto) -> dict[str, NodeLowering]:
        graph = helper.make_graph(nodes, "g", [port], [])
        return lowerings(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))

    negated, unknown = helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Nonsense", ["y"], ["z"])
    assert found(negated, unknown) == {"y": NodeLowering("Neg", "double", ""), "z": NodeLowering("Nonsense", "unknown", "")}
    assert found(helper.make_node("Abs", ["x"], [])) == {}
    assert found(negated, helper.make_node("MatMul", ["y", "nothing"], ["y"]))["y"].operator == "MatMul"
