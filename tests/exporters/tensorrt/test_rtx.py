"""TensorRT-RTX parses and builds every precision's graph, strongly typed, in every bucket; it needs no GPU."""

from __future__ import annotations

import onnx
import pytest
from onnx import numpy_helper

from exporters.tensorrt.builder import build_engine
from exporters.tensorrt.graphs import ATTENTIONS, graph_of, plugin_free, plugin_graph
from exporters.tensorrt.rtx import build_rtx
from runtime.bundle import Bundle
from runtime.errors import GateError
from runtime.manifest import model_file
from runtime.tensorrt.buckets import BUCKETS, Bucket

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'star-edge[tensorrt-rtx]'")

ONE = (Bucket(128, 8),)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_graph_builds(int8_bundle: Bundle, precision: str) -> None:
    built = build_rtx(int8_bundle, precision, ONE)
    assert (built.precision, built.profiles, built.version) == (precision, ONE, trt.__version__)
    assert built.engine_bytes > 0
    assert built.layers > 0


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_graph_of_two_of_four_builds(int8_bundle: Bundle, precision: str) -> None:
    """Weights are cut where they are stored: in int8, levels."""
    model = graph_of(int8_bundle, precision, "tensorrt-rtx")
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".linear1.weight"):
            weight = numpy_helper.to_array(tensor).copy()
            weight[::4] = weight[1::4] = 0
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    built = build_engine(trt, model, ONE)
    assert built.sparse_products == sum(node.name.endswith(".linear1") for node in model.graph.node) > 0


@pytest.mark.parametrize("int8_ops", [(), ATTENTIONS], ids=["modules alone", "attentions too"])
def test_int8_reaches_the_network(int8_bundle: Bundle, int8_ops: tuple[str, ...]) -> None:
    """As many quantise layers as the graph has QuantizeLinear nodes."""
    model = graph_of(int8_bundle, "int8", "tensorrt-rtx", int8_ops)
    network, _builder = parse(model)
    kinds = [network.get_layer(index).type for index in range(network.num_layers)]
    expected = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert kinds.count(trt.LayerType.QUANTIZE) == expected
    assert expected == 14 + (8 if int8_ops else 0)


def parse(model: onnx.ModelProto) -> tuple[object, object]:
    from runtime.tensorrt.installation import logger

    builder = trt.Builder(logger(trt))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger(trt)).parse(model.SerializeToString())
    return network, builder


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_bucket_builds(int8_bundle: Bundle, precision: str) -> None:
    assert build_rtx(int8_bundle, precision).profiles == BUCKETS


def model_of(bundle: Bundle, precision: str) -> onnx.ModelProto:
    return onnx.load_model_from_string(bundle.read(model_file(precision)))


def test_a_refused_graph_is_reported_with_the_reason(int8_bundle: Bundle) -> None:
    model = model_of(int8_bundle, "fp32")
    model.graph.node[-1].op_type = "NoSuchOp"
    with pytest.raises(GateError, match=r"(?s)TensorRT-RTX.*cannot parse.*NoSuchOp"):
        build_engine(trt, model, ONE)


def test_plugins_are_refused_since_it_has_none(int8_bundle: Bundle) -> None:
    with pytest.raises(GateError, match=r"(?s)cannot parse.*StarSegmentedPositions.*Plugin not found"):
        build_engine(trt, plugin_graph(model_of(int8_bundle, "fp32")), ONE)


def test_functions_instead_of_plugins_are_noticed(int8_bundle: Bundle) -> None:
    """What TensorRT before 10.7 does with a model that has both: it takes the bodies and says nothing."""
    with pytest.raises(GateError, match=r"(?s)not every op of ours became a plugin.*found: +0 plugin layers.*expected: 6"):
        build_engine(trt, model_of(int8_bundle, "fp32"), ONE)


def test_types_are_checked(int8_bundle: Bundle) -> None:
    model = model_of(int8_bundle, "fp16")
    cast = next(node for node in model.graph.node if node.op_type == "Cast" and node.output[0] == "input_norm.out")
    cast.attribute[0].i = 1  # float32 activations now meet fp16 weights
    with pytest.raises(GateError):
        build_engine(trt, plugin_free(model), ONE)
