"""Which weights count as 2:4, in every form a graph has them in, beside the masks that make them so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_board import FakeBoard
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tensorrt_fake import BuilderFlag

from exporters.onnx.nodes import NodeList
from exporters.onnx.qdq import quantised_weight
from exporters.tensorrt.builder import build_engine
from exporters.tensorrt.graphs import graph_of
from exporters.tensorrt.sparsity import sparse_products
from runtime.bundle import Bundle
from runtime.tensorrt.buckets import Bucket

torch = pytest.importorskip("torch")

FORMS = ("matmul", "gemm", "turned gemm", "conv", "int8 matmul", "int8 conv")


def pruned(weight: np.ndarray) -> np.ndarray:
    """[out, in, *kernel] with two of each four inputs."""
    from star_edge.compression.masks import two_of_four

    return np.where(two_of_four(torch.tensor(weight)).numpy(), weight, 0)


def model_of(weight: np.ndarray, form: str) -> onnx.ModelProto:
    """One product named ``product``; weight [out, in] or, of a convolution, [out, in, 3, 1]."""
    operator = form.removeprefix("int8 ").removeprefix("turned ")
    kind = {"matmul": "MatMul", "gemm": "Gemm", "conv": "Conv"}[operator]
    stored = weight if form in ("turned gemm", "conv", "int8 conv") else weight.T
    nodes, constants = NodeList(), {"product.weight": np.ascontiguousarray(stored)}
    name = "product.weight"
    if form.startswith("int8"):
        name = quantised_weight(nodes, constants, stored, "product", 0 if kind == "Conv" else 1, stored.dtype)
    attributes = {"transB": 1} if form == "turned gemm" else {}
    nodes.nodes.append(helper.make_node(kind, ["x", name], ["y"], name="product", **attributes))
    shape = [None, weight.shape[1], None, None] if kind == "Conv" else [None, weight.shape[1]]
    values = [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape) for value in ("x", "y")]
    initializers = [numpy_helper.from_array(array, key) for key, array in constants.items()]
    return helper.make_model(helper.make_graph(nodes.nodes, "g", values[:1], values[1:], initializers))


def weight_of(form: str, inputs: int = 8, outputs: int = 6) -> np.ndarray:
    shape = (outputs, inputs, 3, 1) if form.endswith("conv") else (outputs, inputs)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_a_pruned_weight_is_found_and_a_dense_one_is_not(form: str) -> None:
    weight = weight_of(form)
    assert sparse_products(model_of(pruned(weight), form)) == ["product"]
    assert sparse_products(model_of(weight, form)) == []


@given(st.sampled_from(FORMS), st.integers(0, 5), st.integers(0, 1))
def test_one_output_with_three_of_four_is_enough_to_refuse(form: str, output: int, group: int) -> None:
    weight = pruned(weight_of(form))
    weight[output, 4 * group : 4 * group + 3] = 1.0
    assert sparse_products(model_of(weight, form)) == []


def test_zeros_and_broken_groups_do_not_count() -> None:
    assert sparse_products(model_of(np.zeros((6, 8), np.float32), "matmul")) == []
    assert sparse_products(model_of(pruned(weight_of("matmul", inputs=9)), "matmul")) == []


def test_the_pattern_lies_along_the_inputs() -> None:
    """Two of each four outputs is another pattern, which no sparse tensor core takes."""
    assert sparse_products(model_of(np.ascontiguousarray(pruned(weight_of("matmul", 8, 8)).T), "matmul")) == []


@pytest.mark.parametrize("sparse", [True, False])
def test_tensorrt_may_use_sparse_tensor_cores_where_there_are_such_weights(
    exported_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sparse: bool
) -> None:
    bundle = Bundle.open(exported_bundle)
    board = FakeBoard(monkeypatch, tmp_path)
    board.expect(bundle, "fp32")
    model = graph_of(bundle, "fp32", "tensorrt-rtx")  # the stand-in has no plugins yet
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.name.endswith(".linear1")]
    assert products
    for tensor in model.graph.initializer:
        if sparse and tensor.name in {node.input[1] for node in products}:
            tensor.CopyFrom(numpy_helper.from_array(pruned(numpy_helper.to_array(tensor).T).T, tensor.name))
    built = build_engine(board.trt, model, (Bucket(64, 4),))
    ((_, config),) = board.trt.built
    assert built.sparse_products == (len(products) if sparse else 0)
    assert (BuilderFlag.SPARSE_WEIGHTS in config._flags) == sparse
