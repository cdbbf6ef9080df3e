"""The graphs for TensorRT: their structure, their scales, and that both forms of INT8 give the same bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from int8_bundle import config_of, make_int8_bundle
from onnx import ModelProto, NodeProto, TensorProto, checker, numpy_helper

from exporters.onnx.functions import CONTEXT, DOMAIN, LINEAR, OPS, POSITIONS, SPARSE, make_functions
from exporters.onnx.golden import Case, moving_body, odd_cases
from exporters.onnx.parity import onnx_forward
from exporters.onnx.qdq import LEVELS
from exporters.onnx.single_op import build_single_op
from exporters.tensorrt.graphs import (
    ATTENTIONS,
    graph_of,
    int8_ops_of,
    int8_plugins,
    int8_twin,
    plugin_free,
    plugin_graph,
    star_nodes,
)
from runtime.bundle import Bundle
from runtime.clip import Clip, pack_clips
from runtime.errors import InputError, MismatchError
from runtime.features import compute_features
from runtime.manifest import model_file
from runtime.tolerances import TOLERANCES, relative_error
from star_edge.verification.gates import GATES

CHOICES = [(), ATTENTIONS, (CONTEXT,), (POSITIONS,), OPS]


def model_of(bundle: Bundle, precision: str = "int8") -> ModelProto:
    return onnx.load_model_from_string(bundle.read(model_file(precision)))


def attributes(node: NodeProto) -> dict[str, object]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def scale_of(model: ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


def producers(model: ModelProto) -> dict[str, NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


def consumers(model: ModelProto, value: str) -> list[NodeProto]:
    return [node for node in model.graph.node if value in node.input]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_plugin_graph_has_no_functions_and_names_its_plugins(exported_bundle: Path, precision: str) -> None:
    model = model_of(Bundle.open(exported_bundle), precision)
    before = model.SerializeToString()
    found = dict.fromkeys(OPS, ("1", "elsewhere"))
    graph = plugin_graph(model, found)
    assert model.SerializeToString() == before
    assert not graph.functions
    assert Counter(node.op_type for node in star_nodes(graph)) == {POSITIONS: 1, SPARSE: 2, LINEAR: 2, CONTEXT: 1}
    for node in star_nodes(graph):
        named = [attribute.name for attribute in node.attribute]
        assert len(named) == len(set(named))
        assert (attributes(node)["plugin_version"], attributes(node)["plugin_namespace"]) == (b"1", b"elsewhere")
        assert node.domain == DOMAIN
    sparse = next(node for node in star_nodes(graph) if node.op_type == SPARSE)
    assert attributes(sparse).keys() == {"heads", "edges", "plugin_version", "plugin_namespace"}


def test_a_missing_plugin_is_named_with_those_that_are_there(exported_bundle: Path) -> None:
    model = model_of(Bundle.open(exported_bundle), "fp32")
    with pytest.raises(
        MismatchError, match=rf"no plugin '{LINEAR}'(?s:.*)layers.0.temporal.attention(?s:.*)found: .*{SPARSE}"
    ):
        plugin_graph(model, dict.fromkeys(set(OPS) - {LINEAR}, ("1", DOMAIN)))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_plugin_free_graph_has_standard_ops_alone_and_the_same_answers(
    exported_bundle: Path, cases: list[Case], precision: str
) -> None:
    bundle = Bundle.open(exported_bundle)
    model = model_of(bundle, precision)
    graph = plugin_free(model)
    assert not graph.functions
    assert {entry.domain for entry in graph.opset_import} == {""}
    assert {node.domain for node in graph.graph.node} == {""}
    checker.check_model(graph, full_check=True)
    case = cases[1]
    expected = onnx_forward(model.SerializeToString())(case.features, case.cu_seqlens)
    np.testing.assert_allclose(
        onnx_forward(graph.SerializeToString())(case.features, case.cu_seqlens), expected, atol=1e-3 * np.abs(expected).max()
    )


@pytest.mark.parametrize("ops", CHOICES, ids=len)
def test_int8_plugins_take_and_give_int8(int8_bundle: Bundle, ops: tuple[str, ...]) -> None:
    ranges, model = int8_bundle.calibration().ranges, model_of(int8_bundle)
    graph = int8_plugins(model, ranges, ops)
    types = {
        value.name: value.type.tensor_type.elem_type for value in onnx.shape_inference.infer_shapes(graph).graph.value_info
    }
    made = producers(graph)
    floats = TensorProto.FLOAT if scale_of(model, "context.weight").dtype == np.float32 else TensorProto.FLOAT16
    assert int8_ops_of(plugin_graph(graph)) == tuple(sorted(ops))
    for node in star_nodes(graph):
        chosen = node.op_type in ops
        assert types[node.input[0]] == (TensorProto.INT8 if chosen else floats)
        assert types[node.output[0]] == (TensorProto.INT8 if chosen else floats)
        assert ("input_scale" in attributes(node), "output_scale" in attributes(node)) == (chosen, chosen)
        if not chosen:
            continue
        quantize = made[node.input[0]]
        assert quantize.op_type == "QuantizeLinear"
        for end, scale in (("in", quantize.input[1]), ("out", f"{node.name}.out.scale")):
            stored = scale_of(graph, scale)
            assert stored.dtype == (np.float32 if floats == TensorProto.FLOAT else np.float16)
            np.testing.assert_allclose(stored, ranges[f"{node.name}.{end}"] / LEVELS, rtol=1e-3)
            name = {"in": "input_scale", "out": "output_scale"}[end]
            assert attributes(node)[name] == pytest.approx(float(stored), rel=1e-7)
        assert {consumer.op_type for consumer in consumers(graph, node.output[0])} == {"DequantizeLinear"}
        if node.op_type == CONTEXT:
            assert types.get(node.input[1], floats) == floats  # the weight stays as it is


@pytest.mark.parametrize("ops", CHOICES, ids=len)
def test_no_pair_is_left_around_a_plugin(int8_bundle: Bundle, ops: tuple[str, ...]) -> None:
    """Neither DQ before it, nor Q behind it, nor levels that are taken to floats and straight back."""
    graph = int8_plugins(model_of(int8_bundle), int8_bundle.calibration().ranges, ops)
    made = producers(graph)
    for node in star_nodes(graph):
        if node.op_type in ops:
            assert made[node.input[0]].op_type != "DequantizeLinear"
            for dequantize in consumers(graph, node.output[0]):
                behind = consumers(graph, dequantize.output[0])
                assert not [other.name for other in behind if other.op_type == "QuantizeLinear"]


def test_equal_levels_are_shared_with_the_next_module(int8_bundle: Bundle) -> None:
    """Positions' output is what both encoders of the first layer quantise: two DQ, no Q, and one more DQ for the residuals."""
    graph = int8_plugins(model_of(int8_bundle), int8_bundle.calibration().ranges, (POSITIONS,))
    readers = consumers(graph, "positions.out.int8")
    assert sorted(node.name for node in readers) == [
        "layers.0.spatial.qkv.in.dequantize",
        "layers.0.temporal.qkv.in.dequantize",
        "positions.out.dequantize",
    ]
    unequal = dict(int8_bundle.calibration().ranges) | {"positions.out": 99.0}
    readers = consumers(int8_plugins(model_of(int8_bundle), unequal, (POSITIONS,)), "positions.out.int8")
    assert [node.name for node in readers] == ["positions.out.dequantize"]


@pytest.mark.parametrize("ops", CHOICES, ids=len)
def test_the_twin_has_a_whole_pair_on_either_side(int8_bundle: Bundle, ops: tuple[str, ...]) -> None:
    model = model_of(int8_bundle)
    graph = int8_twin(model, int8_bundle.calibration().ranges, ops)
    made, count = producers(graph), 0
    for node in star_nodes(graph):
        assert "input_scale" not in attributes(node)
        if node.op_type in ops:
            before, behind = made[node.input[0]], consumers(graph, node.output[0])
            assert before.op_type == "DequantizeLinear"
            assert made[before.input[0]].op_type == "QuantizeLinear"
            assert [other.op_type for other in behind] == ["QuantizeLinear"]
            assert [other.op_type for other in consumers(graph, behind[0].output[0])] == ["DequantizeLinear"]
            count += 1
    pairs = Counter(node.op_type for node in graph.graph.node) - Counter(node.op_type for node in model.graph.node)
    assert pairs == Counter({"QuantizeLinear": 2 * count, "DequantizeLinear": 2 * count})
    assert [function.SerializeToString() for function in graph.functions] == [
        function.SerializeToString() for function in model.functions
    ]


@pytest.fixture(scope="module")
def cases(exported_bundle: Path) -> list[Case]:
    """One frame, a batch with empty clips, two persons."""
    manifest = Bundle.open(exported_bundle).manifest
    wanted = ("1 frame", "empty segment", "2 persons")
    return [case for case in odd_cases(manifest.skeleton, manifest.features) if case.name in wanted]


@pytest.mark.parametrize("ops", CHOICES, ids=len)
def test_plugins_and_twin_give_the_same_bits(int8_bundle: Bundle, cases: list[Case], ops: tuple[str, ...]) -> None:
    ranges, model = int8_bundle.calibration().ranges, model_of(int8_bundle)
    forwards = [onnx_forward(make(model, ranges, ops).SerializeToString()) for make in (int8_plugins, int8_twin)]
    plain = onnx_forward(model.SerializeToString())
    assert len(cases) == 3
    for case in cases:
        plugins, twin = (forward(case.features, case.cu_seqlens) for forward in forwards)
        np.testing.assert_array_equal(plugins, twin, err_msg=case.name)
        assert (twin == plain(case.features, case.cu_seqlens)).all() == (not ops)


def generated(bundle: Bundle, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(7)
    manifest = bundle.manifest
    for _ in range(count):
        body = moving_body(manifest.skeleton, int(rng.integers(8, 120)), rng)
        joints, cu_seqlens, persons = pack_clips([Clip.from_persons([body])])
        yield compute_features(joints, persons, manifest.skeleton, manifest.features), cu_seqlens


def run_all(forward: object, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.concatenate([forward(*batch) for batch in batches])  # type: ignore[operator]


@pytest.mark.parametrize("ops", [ATTENTIONS, OPS], ids=["attentions", "all"])
def test_int8_ops_stay_within_the_tolerance_and_the_gate(int8_bundle: Bundle, ops: tuple[str, ...]) -> None:
    batches = list(generated(int8_bundle, 60))
    reference = run_all(onnx_forward(int8_bundle.read(model_file("fp32"))), batches)
    twin = int8_twin(model_of(int8_bundle), int8_bundle.calibration().ranges, ops)
    logits = run_all(onnx_forward(twin.SerializeToString()), batches)
    assert 0 < relative_error(logits, reference) <= TOLERANCES["int8"]
    agreed = int((logits.argmax(1) == reference.argmax(1)).sum())
    assert GATES["int8"].holds(len(batches), 0, 0, agreed)


def test_wrong_scales_would_be_noticed(int8_bundle: Bundle) -> None:
    batches = list(generated(int8_bundle, 4))
    ranges = {key: amax / (8 if "attention" in key else 1) for key, amax in int8_bundle.calibration().ranges.items()}
    reference = run_all(onnx_forward(int8_bundle.read(model_file("fp32"))), batches)
    logits = run_all(onnx_forward(int8_twin(model_of(int8_bundle), ranges).SerializeToString()), batches)
    assert relative_error(logits, reference) > TOLERANCES["int8"]


def test_what_each_target_is_given(int8_bundle: Bundle) -> None:
    plugins, inlined, bodies = (
        graph_of(int8_bundle, "int8", target) for target in ("tensorrt", "tensorrt-rtx", "onnxruntime")
    )
    assert (len(plugins.functions), len(star_nodes(plugins)), int8_ops_of(plugins)) == (0, 6, tuple(sorted(ATTENTIONS)))
    assert (len(inlined.functions), len(star_nodes(inlined))) == (0, 0)
    assert (len(bodies.functions), len(star_nodes(bodies)), int8_ops_of(bodies)) == (4, 6, ())
    assert int8_ops_of(graph_of(int8_bundle, "int8", int8_ops=())) == ()
    assert graph_of(int8_bundle, "fp16", "onnxruntime").SerializeToString() == int8_bundle.read(model_file("fp16"))
    assert int8_ops_of(graph_of(int8_bundle, "fp16")) == ()


def test_bad_choices(int8_bundle: Bundle) -> None:
    model, ranges = model_of(int8_bundle), int8_bundle.calibration().ranges
    with pytest.raises(InputError, match=r"no such op(?s:.*)StarDust"):
        int8_plugins(model, ranges, ("StarDust",))
    lacking = {key: amax for key, amax in ranges.items() if key != "layers.1.temporal.attention.out"}
    for make in (int8_plugins, int8_twin):
        with pytest.raises(MismatchError, match=r"lacks a range(?s:.*)layers.1.temporal.attention.out"):
            make(model, lacking)


def test_mixed_precision_is_surrounded_too(exported_bundle: Path, cases: list[Case], tmp_path: Path) -> None:
    """A bundle that keeps modules in float has the same recorded ranges, so its ops can be int8 all the same."""
    from safetensors.numpy import load

    from exporters.onnx.graph import build_model

    bundle = make_int8_bundle(exported_bundle, tmp_path / "mixed.star", "fp16")
    ranges = bundle.calibration().ranges
    weights = load(bundle.read("weights.safetensors"))
    model = build_model(config_of(bundle), weights, "int8", ranges, "fp16", ["layers.0.spatial.qkv"])
    case = cases[1]
    plugins, twin = (
        onnx_forward(make(model, ranges, OPS).SerializeToString())(case.features, case.cu_seqlens)
        for make in (int8_plugins, int8_twin)
    )
    np.testing.assert_array_equal(plugins, twin)


@pytest.fixture
def registry() -> Iterator[object]:
    """TensorRT-RTX's registry with creators under our names, which note the fields that the parser hands them."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'star-edge[tensorrt-rtx]'")
    integer, real = trt.PluginFieldType.INT32, trt.PluginFieldType.FLOAT32
    fields = {
        POSITIONS: [],
        SPARSE: [("heads", integer), ("edges", integer)],
        LINEAR: [("heads", integer), ("eps", real)],
        CONTEXT: [],
    }

    class Creator(trt.IPluginCreatorV3One):
        def __init__(self, op: str) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = op, "1", DOMAIN
            named = [*fields[op], ("input_scale", real), ("output_scale", real)]
            self.field_names = trt.PluginFieldCollection([trt.PluginField(name, np.array([]), kind) for name, kind in named])
            self.seen: list[dict[str, tuple[object, list[float]]]] = []

        def create_plugin(self, name: str, given: object, phase: object) -> None:
            self.seen.append({field.name: (field.type, np.array(field.data).tolist()) for field in given})  # type: ignore[attr-defined]

    creators = {op: Creator(op) for op in OPS}
    for creator in creators.values():
        assert trt.get_plugin_registry().register_creator(creator, DOMAIN)
    yield creators
    for creator in creators.values():
        trt.get_plugin_registry().deregister_creator(creator)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("is_int8", [False, True], ids=["float", "int8"])
@pytest.mark.parametrize("keeps_functions", [False, True], ids=["without functions", "with functions"])
def test_a_real_parser_finds_the_plugin_and_hands_it_the_attributes(
    registry: dict, int8_bundle: Bundle, op: str, is_int8: bool, keeps_functions: bool
) -> None:
    """TensorRT-RTX's parser is that of TensorRT 10.15 and later; it has no plugin layers, so that parsing ends at the creator."""
    import tensorrt_rtx as trt

    from exporters.tensorrt.builder import creators
    from runtime.tensorrt.installation import logger

    assert creators(trt) == dict.fromkeys(OPS, ("1", DOMAIN))
    config = config_of(int8_bundle)
    whole = int8_plugins(model_of(int8_bundle), int8_bundle.calibration().ranges, OPS) if is_int8 else model_of(int8_bundle)
    node = next(node for node in star_nodes(whole) if node.op_type == op)
    single = build_single_op(op, config)
    del single.graph.node[:]
    single.graph.node.add().CopyFrom(node)
    single.graph.node[0].input[:] = [value.name for value in single.graph.input]
    single.graph.node[0].output[:] = ["out"]
    graph = plugin_graph(single, creators(trt))
    if is_int8:
        graph.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8
    if keeps_functions:
        graph.functions.extend(make_functions(config, "fp32"))
    builder = trt.Builder(logger(trt))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger(trt))
    assert not parser.parse(graph.SerializeToString())
    assert "Could not create the plugin" in str(parser.get_error(0))
    assert registry[op].seen
    expected: dict[str, tuple[object, list[float]]] = {}
    for name, value in attributes(node).items():
        if name in ("heads", "edges", "eps", "input_scale", "output_scale"):
            kind = trt.PluginFieldType.INT32 if name in ("heads", "edges") else trt.PluginFieldType.FLOAT32
            expected[name] = (
                kind,
                np.atleast_1d(np.float32(value) if kind == trt.PluginFieldType.FLOAT32 else value).tolist(),
            )
    assert registry[op].seen[-1] == expected
    assert ("input_scale" in expected) == is_int8
