"""The canonical graph: names, types, allowed operators, determinism, Q/DQ, and the answers of every precision."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, inliner, numpy_helper

from exporters.onnx.functions import DOMAIN, OPS
from exporters.onnx.golden import golden_clips, odd_cases
from exporters.onnx.graph import build_model, node_precisions, quantised_modules, recorded_tensors
from exporters.onnx.parity import onnx_forward
from runtime.clip import pack_clips
from runtime.errors import InputError, MismatchError
from runtime.features import FeatureRecipe, compute_features
from runtime.tolerances import TOLERANCES, relative_error
from star_edge.compression.channels import shrink, strongest
from star_edge.compression.masks import apply_masks
from star_edge.export import torch_forward
from star_edge.models import naive
from star_edge.models.registry import star_config
from star_edge.models.rounded import RoundedStar
from star_edge.models.star import Star, StarConfig
from star_edge.skeletons import NITE15, NTU25
from star_edge.training.checkpoint import build_from_checkpoint, load_checkpoint

VARIANTS = [("fp32", "fp32"), ("fp16", "fp16"), ("int8", "fp32"), ("int8", "fp16")]
IDS = ["fp32", "fp16", "int8 over fp32", "int8 over fp16"]
FORBIDDEN = {"ScatterElements", "ScatterND", "Scatter", "OneHot", "NonZero", "Loop", "Scan", "If", "Einsum"}


@pytest.fixture(scope="module")
def parts(random_checkpoint: Path) -> tuple[StarConfig, dict[str, np.ndarray]]:
    checkpoint = load_checkpoint(random_checkpoint)
    return checkpoint.model.config, {name: tensor.numpy() for name, tensor in checkpoint.state_dict.items()}


@pytest.fixture(scope="module")
def golden() -> tuple[np.ndarray, np.ndarray]:
    """Features and cu_seqlens of the golden clips."""
    joints, cu_seqlens, person_lengths = pack_clips(golden_clips(NITE15))
    return compute_features(joints, person_lengths, NITE15, FeatureRecipe()), cu_seqlens


@pytest.fixture(scope="module")
def reference(parts, golden) -> np.ndarray:
    """Logits of the naive float64 model on the golden clips."""
    return naive.star(*parts, *golden)


@pytest.fixture(scope="module")
def ranges(parts, golden) -> dict[str, float]:
    return largest_magnitudes(*parts, golden)


def largest_magnitudes(config, weights, golden) -> dict[str, float]:
    """Of every recorded tensor on the golden clips."""
    model = build_model(config, weights)
    table = recorded_tensors(config)
    for name in sorted(set(table.values())):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = dict(zip(names, session.run(names, dict(zip(("features", "cu_seqlens"), golden, strict=True))), strict=True))
    return {key: float(np.abs(values[name]).max()) for key, name in table.items()}


def build(parts, ranges, variant) -> ModelProto:
    return build_model(*parts, variant[0], ranges if variant[0] == "int8" else None, variant[1])


def test_the_graph_of_fewer_channels_answers_as_the_masked_model(parts, golden):
    config, weights = parts
    model = Star(config).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    masks = strongest(model, 0.5)
    apply_masks(model, masks)
    masked = torch_forward(model)(*golden)
    narrow = msgspec.structs.replace(config, widths=shrink(model, masks))
    graph = build_model(narrow, {name: tensor.numpy() for name, tensor in model.state_dict().items()})
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    assert shapes["head.hidden.weight"] == (config.joints * config.dim, narrow.widths["head.hidden"])
    assert shapes["head.output.weight"] == (narrow.widths["head.hidden"], config.classes)
    answers = onnx_forward(graph.SerializeToString())(*golden)
    assert relative_error(answers, masked) < TOLERANCES["fp32"]


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_signature_names_and_operators(parts, ranges, variant):
    config, _ = parts
    model = build(parts, ranges, variant)
    assert model.ir_version == 10
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20, DOMAIN: 1}
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.output]}
    assert types == {"features": TensorProto.FLOAT, "cu_seqlens": TensorProto.INT32, "logits": TensorProto.FLOAT}
    nodes = {node.name: node for node in graph.node}
    assert len(nodes) == len(graph.node), "node names are unique"
    for module in node_precisions(config, *variant):
        assert module in nodes, f"module {module} has no node"
    for module in quantised_modules(config):
        assert nodes[module].op_type == "MatMul"
    produced = {name for node in graph.node for name in node.output}
    assert set(recorded_tensors(config).values()) <= produced
    flat = inliner.inline_local_functions(model)
    used = {node.op_type for node in flat.graph.node}
    assert not used & FORBIDDEN
    assert not used & set(OPS)


def test_star_nodes_carry_their_attributes_and_the_functions_declare_them(parts):
    config, _ = parts
    model = build_model(*parts)
    declared = {function.name: set(function.attribute) for function in model.functions}
    stars = [node for node in model.graph.node if node.domain == DOMAIN]
    assert Counter(node.op_type for node in stars) == {
        "StarSegmentedPositions": 1,
        "StarSparseAttention": config.layers,
        "StarSegmentedLinearAttention": config.layers,
        "StarContextAttention": 1,
    }
    for node in stars:
        found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert set(found) == declared[node.op_type]
        assert (found["plugin_version"], found["plugin_namespace"]) == (b"1", b"star_edge")
        if node.op_type == "StarSparseAttention":
            assert found["heads"] == config.heads
            assert np.reshape(found["edges"], (-1, 2)).tolist() == [list(edge) for edge in config.edges]
    outer = {name for node in model.graph.node for name in [*node.input, *node.output]}
    for function in model.functions:
        inner = {name for node in function.node for name in [*node.input, *node.output]}
        assert not inner & outer, "TensorRT before 10.8 confuses a function's values with the graph's of the same name"


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_bytes_are_deterministic(parts, ranges, variant):
    one, other = (build(parts, ranges, variant).SerializeToString(deterministic=True) for _ in range(2))
    assert one == other


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_answers_equal_the_naive_reference(parts, ranges, golden, reference, variant):
    logits = onnx_forward(build(parts, ranges, variant).SerializeToString(), threads=1)(*golden)
    assert relative_error(logits, reference) <= TOLERANCES[variant[0]]


def test_torch_equals_the_naive_reference(golden, reference, random_checkpoint):
    model = build_from_checkpoint(load_checkpoint(random_checkpoint))
    with torch.no_grad():
        logits = model(*(torch.from_numpy(array) for array in golden)).numpy()
    assert relative_error(logits, reference) <= TOLERANCES["fp32"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["star-64", "star-128"])
def test_full_size_models_equal_the_naive_reference(name):
    """The published shapes, on every golden clip: torch, the rounding reference and every graph in ONNX Runtime."""
    torch.manual_seed(0)
    config = star_config(name, NTU25, channels=9, classes=60)
    model = Star(config).eval()
    weights = {path: tensor.numpy() for path, tensor in model.state_dict().items()}
    joints, cu_seqlens, person_lengths = pack_clips(golden_clips(NTU25))
    inputs = compute_features(joints, person_lengths, NTU25, FeatureRecipe()), cu_seqlens
    reference = naive.star(config, weights, *inputs)
    ranges = largest_magnitudes(config, weights, inputs)
    engines = {
        ("torch", "fp32"): torch_forward(model),
        ("torch", "fp16"): torch_forward(RoundedStar(model, "fp16")),
        ("torch", "bf16"): torch_forward(RoundedStar(model, "bf16")),
    }
    for variant, label in zip(VARIANTS, IDS, strict=True):
        graph = build((config, weights), ranges, variant).SerializeToString()
        engines["onnxruntime", label] = onnx_forward(graph, threads=1)
    errors = {key: relative_error(forward(*inputs), reference) for key, forward in engines.items()}
    assert {key: error for key, error in errors.items() if error > TOLERANCES[key[1].split()[0]]} == {}


@pytest.mark.parametrize("base", ["fp32", "fp16"])
def test_qdq_is_symmetric_per_channel_and_on_every_quantised_module(parts, ranges, base):
    config, weights = parts
    weights = {**weights, "layers.0.spatial.linear1.weight": weights["layers.0.spatial.linear1.weight"].copy()}
    weights["layers.0.spatial.linear1.weight"][3] = 0  # an output channel that sees nothing
    model = build_model(config, weights, "int8", ranges, base)
    modules = quantised_modules(config)
    count = Counter(node.op_type for node in model.graph.node)
    assert count["QuantizeLinear"] == len(modules)
    assert count["DequantizeLinear"] == 2 * len(modules)
    initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    float_type = np.float32 if base == "fp32" else np.float16
    for module in modules:
        stored, scales = initializers[f"{module}.weight"], initializers[f"{module}.weight.scale"]
        assert stored.dtype == np.int8
        assert scales.dtype == float_type
        assert (scales > 0).all()
        assert stored.min() >= -127
        assert not initializers[f"{module}.weight.zero_point"].any()
        exact = weights[f"{module}.weight"].T
        half_step = scales.astype(np.float64) * (0.5 if base == "fp32" else 0.6)
        assert (np.abs(stored * scales.astype(np.float64) - exact) <= half_step + 1e-12).all()
        scale = initializers[f"{module}.in.scale"]
        assert scale.shape == ()
        assert scale == float_type(ranges[f"{module}.in"] / 127)
    assert initializers["layers.0.spatial.linear1.weight.scale"][3] == 1
    assert initializers["embedding.weight"].dtype == float_type


def test_fp16_islands_are_float32(parts):
    model = onnx.shape_inference.infer_shapes(inliner.inline_local_functions(build_model(*parts, "fp16")), strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    for node in model.graph.node:
        found = types.get(node.output[0])
        if node.op_type in ("LayerNormalization", "Softmax", "Sin", "Exp", "ReduceSum", "Div"):
            assert found == TensorProto.FLOAT, node.name
        if node.op_type in ("Sigmoid", "Tanh") and "gate" not in node.output[0]:
            assert found == TensorProto.FLOAT16, node.name
        if node.name in quantised_modules(parts[0]):
            assert found == TensorProto.FLOAT16, node.name


def test_missing_or_misshapen_weights_and_ranges_are_named(parts, ranges):
    config, weights = parts
    with pytest.raises(MismatchError, match=r"layers\.1\.temporal\.linear2\.bias"):
        build_model(config, {name: array for name, array in weights.items() if name != "layers.1.temporal.linear2.bias"})
    with pytest.raises(MismatchError, match=r"head\.output\.weight"):
        build_model(config, {**weights, "head.output.weight": weights["head.output.weight"].T})
    with pytest.raises(MismatchError, match=r"head\.hidden\.in"):
        build_model(config, weights, "int8", {key: amax for key, amax in ranges.items() if key != "head.hidden.in"})
    with pytest.raises(InputError, match="calibrated ranges"):
        build_model(config, weights, "int8")


def test_odd_cases_are_odd():
    cases = {case.name: case for case in odd_cases(NITE15, FeatureRecipe())}
    lengths = {name: np.diff(case.cu_seqlens).tolist() for name, case in cases.items()}
    assert lengths["1 frame"] == [1]
    assert len(lengths["64 clips"]) == 64
    assert 0 in lengths["empty segment"]
    assert lengths["5,000 frames"] == [5000]
    assert not cases["all-zero frames"].features.any()
