"""Graphs of padded models: names, equality with torch in each precision, and Q/DQ where it was asked for."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

from onnx import ModelProto, numpy_helper  # noqa: E402

from calibration.ptq import quantised_products  # noqa: E402
from calibration.ranges import open_session  # noqa: E402
from exporters.onnx.golden import odd_cases  # noqa: E402
from exporters.onnx.graph import Base  # noqa: E402
from exporters.onnx.parity import onnx_forward  # noqa: E402
from exporters.onnx.traced import TracedLowering, trace  # noqa: E402
from runtime.errors import InputError, MismatchError  # noqa: E402
from runtime.features import FeatureRecipe  # noqa: E402
from runtime.tolerances import TOLERANCES, relative_error  # noqa: E402
from star_edge.export import torch_forward  # noqa: E402
from star_edge.skeletons import NTU25  # noqa: E402
from tests.fakes.small_padded import small_padded  # noqa: E402

NARROW = "spatial.0"  # three coordinates in
PRODUCTS = ["temporal.0", "mixed", "output"]


@pytest.fixture(scope="module")
def graphs() -> dict[Base, ModelProto]:
    return {"fp32": trace(small_padded()), "fp16": trace(small_padded(), "fp16")}


@pytest.fixture(scope="module")
def ranges(graphs: dict[Base, ModelProto]) -> dict[str, float]:
    return dict.fromkeys(TracedLowering(graphs).recorded_tensors, 8.0)


def test_the_same_weights_give_the_same_bytes(graphs: dict[Base, ModelProto]) -> None:
    assert trace(small_padded()).SerializeToString(deterministic=True) == graphs["fp32"].SerializeToString(deterministic=True)
    other = trace(small_padded(seed=1)).SerializeToString(deterministic=True)
    assert other != graphs["fp32"].SerializeToString(deterministic=True)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_nodes_are_named_after_modules(graphs: dict[Base, ModelProto], precision: Base) -> None:
    graph = graphs[precision].graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert {NARROW, *PRODUCTS} <= set(names)
    assert {"spatial.0.weight", "temporal.0.weight", "mixed.weight", "output.weight"} <= {t.name for t in graph.initializer}
    assert not {node.op_type for node in graph.node} & {"Einsum", "ScatterND", "ScatterElements", "NonZero", "Loop", "OneHot"}
    # BatchNorm is left only in front, in float32
    assert [node.name for node in graph.node if node.op_type == "BatchNormalization"] == ["input_norm.batchnormalization"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_equals_torch_on_odd_inputs(graphs: dict[Base, ModelProto], precision: Base) -> None:
    reference, traced = torch_forward(small_padded()), onnx_forward(graphs[precision].SerializeToString())
    for case in odd_cases(NTU25, FeatureRecipe(channels=4)):
        exact = reference(case.features, case.cu_seqlens)
        error = relative_error(traced(case.features, case.cu_seqlens), exact)
        assert error < TOLERANCES[precision], case.name


def test_an_fp16_graph_computes_softmax_and_layernorm_in_float32(graphs: dict[Base, ModelProto]) -> None:
    graph = graphs["fp16"].graph
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in ("Softmax", "LayerNormalization"):
            cast = makers[node.input[0]]
            assert (cast.op_type, cast.attribute[0].i) == ("Cast", 1), node.name
    halves = {tensor.name for tensor in graph.initializer if numpy_helper.to_array(tensor).dtype == np.float16}
    assert {"spatial.0.weight", "temporal.0.weight", "mixed.weight", "output.weight"} <= halves
    assert not {name for name in halves if name.startswith("input_norm")}


class TestInt8:
    @pytest.mark.parametrize("base", ["fp32", "fp16"])
    def test_quantised_where_it_was_asked_for(
        self, graphs: dict[Base, ModelProto], ranges: dict[str, float], base: Base
    ) -> None:
        lowering = TracedLowering(graphs)
        assert lowering.quantised_modules == PRODUCTS
        for asked in (PRODUCTS, PRODUCTS[:1], []):
            found = quantised_products(lowering.int8_model(ranges, base, asked))
            assert list(found) == asked
            np.testing.assert_allclose([product.amax for product in found.values()], 8.0, rtol=1e-3)

    @pytest.mark.parametrize("base", ["fp32", "fp16"])
    def test_near_the_float_model(self, graphs: dict[Base, ModelProto], base: Base) -> None:
        lowering = TracedLowering(graphs)
        case = next(case for case in odd_cases(NTU25, FeatureRecipe(channels=4)) if case.name == "2 persons")
        tensors = lowering.recorded_tensors
        values = open_session(graphs["fp32"], tensors.values()).run(
            list(tensors.values()), {"features": case.features, "cu_seqlens": case.cu_seqlens}
        )
        ranges = {key: float(np.abs(value).max()) for key, value in zip(tensors, values, strict=True)}
        exact = torch_forward(small_padded())(case.features, case.cu_seqlens)
        int8 = onnx_forward(lowering.int8_model(ranges, base, PRODUCTS).SerializeToString())
        assert 0 < relative_error(int8(case.features, case.cu_seqlens), exact) < TOLERANCES["int8"]

    def test_weights_have_a_scale_for_each_output_channel(
        self, graphs: dict[Base, ModelProto], ranges: dict[str, float]
    ) -> None:
        model = TracedLowering(graphs).int8_model(ranges, "fp32", PRODUCTS)
        tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        weights = small_padded().state_dict()
        for module, axis in (("mixed", 1), ("output", 0)):  # x W as MatMul takes it, and W as Gemm does
            weight = weights[f"{module}.weight"].numpy()
            scales = np.abs(weight).max(1) / 127
            np.testing.assert_allclose(tensors[f"{module}.weight.scale"], scales, rtol=1e-6)
            levels = tensors[f"{module}.weight"]
            np.testing.assert_array_equal(levels if axis == 0 else levels.T, np.rint(weight / scales[:, None]))

    def test_manifest_names_each_modules_precision(self, graphs: dict[Base, ModelProto]) -> None:
        lowering = TracedLowering(graphs)
        assert lowering.node_precisions("fp16") == {**dict.fromkeys([NARROW, *PRODUCTS], "fp16"), "input_norm": "fp32"}
        mixed = lowering.node_precisions("int8", "fp16", ["mixed"])
        assert mixed == {**lowering.node_precisions("fp16"), "mixed": "int8"}

    def test_what_cannot_be_is_refused(self, graphs: dict[Base, ModelProto], ranges: dict[str, float]) -> None:
        lowering = TracedLowering(graphs)
        for module in ("padding", NARROW):
            with pytest.raises(InputError, match="no such module"):
                lowering.int8_model(ranges, "fp32", [module])
        with pytest.raises(MismatchError, match="lacks a range"):
            lowering.int8_model({}, "fp32", ["mixed"])
        with pytest.raises(MismatchError, match="no graph of this precision"):
            TracedLowering({"fp32": graphs["fp32"]}).int8_model(ranges, "fp16", ["mixed"])
