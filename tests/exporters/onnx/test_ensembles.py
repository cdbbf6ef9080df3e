"""Graphs of ensembles: the experts' own graphs side by side under their paths, and the mean of their logits."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from exporters.onnx.golden import Case, odd_cases  # noqa: E402
from exporters.onnx.graph import Base, build_model, node_precisions, quantised_modules, recorded_tensors  # noqa: E402
from exporters.onnx.parity import onnx_forward  # noqa: E402
from exporters.onnx.traced import TracedLowering, trace  # noqa: E402
from exporters.tensorrt.graphs import int8_plugins, int8_twin  # noqa: E402
from runtime.features import FeatureRecipe  # noqa: E402
from runtime.tolerances import TOLERANCES, relative_error  # noqa: E402
from star_edge.export import torch_forward  # noqa: E402
from star_edge.models import registry  # noqa: E402
from star_edge.models.config import expert_paths  # noqa: E402
from star_edge.models.ensemble import Ensemble  # noqa: E402
from star_edge.skeletons import NITE15, NTU25  # noqa: E402
from tests.fakes.small_padded import CONFIG, small_padded  # noqa: E402

STAR = registry.star_config("star-64", NITE15, channels=9, classes=5, dim=16, heads=4, layers=2, hidden=24, experts=2)
ALONE = msgspec.structs.replace(STAR, experts=1)


@pytest.fixture(scope="module")
def star() -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    return {name: tensor.numpy() for name, tensor in registry.build_model("star-64", STAR).state_dict().items()}


@pytest.fixture(scope="module")
def ranges() -> dict[str, float]:
    rng = np.random.default_rng(0)
    return {key: float(rng.uniform(1, 4)) for key in recorded_tensors(STAR)}


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [case for case in odd_cases(NITE15, FeatureRecipe()) if case.name in ("1 frame", "empty segment", "2 persons")]


def own(table: Mapping[str, object], path: str) -> dict:
    """What is an expert's, under the names that it has alone."""
    return {name.removeprefix(path): value for name, value in table.items() if name.startswith(path)}


@pytest.mark.parametrize(("precision", "base"), [("fp32", "fp32"), ("fp16", "fp16"), ("int8", "fp32"), ("int8", "fp16")])
def test_a_star_ensemble_is_its_experts_graphs(star, ranges, cases, precision, base) -> None:
    model = build_model(STAR, star, precision, ranges, base)
    alone = [build_model(ALONE, own(star, path), precision, own(ranges, path), base) for path in expert_paths(STAR)]
    assert len(model.graph.node) == sum(len(one.graph.node) for one in alone) + 1
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    whole, parts = onnx_forward(model.SerializeToString()), [onnx_forward(one.SerializeToString()) for one in alone]
    for case in cases:
        answers = np.stack([part(case.features, case.cu_seqlens) for part in parts])
        np.testing.assert_allclose(whole(case.features, case.cu_seqlens), answers.mean(0), rtol=1e-5, atol=1e-6)
        assert not np.array_equal(answers[0], answers[1])


def test_modules_and_keys_are_those_of_one_model_under_each_experts_path() -> None:
    paths = expert_paths(STAR)
    assert quantised_modules(STAR) == [f"{path}{module}" for path in paths for module in quantised_modules(ALONE)]
    for table, alone in (
        (recorded_tensors(STAR), recorded_tensors(ALONE)),
        (node_precisions(STAR, "int8", "fp16"), node_precisions(ALONE, "int8", "fp16")),
    ):
        assert all(own(table, path).keys() == alone.keys() for path in paths)
        assert len(table) == len(paths) * len(alone)
    assert node_precisions(STAR, "int8", quantised=["experts.1.head.hidden"])["experts.0.head.hidden"] == "fp32"


def test_ops_of_every_expert_take_int8_for_tensorrt(star, ranges, cases) -> None:
    model = build_model(STAR, star, "int8", ranges, "fp16")
    plugins, twin = (onnx_forward(make(model, ranges).SerializeToString()) for make in (int8_plugins, int8_twin))
    plain = onnx_forward(model.SerializeToString())
    for case in cases:
        answers = twin(case.features, case.cu_seqlens)
        np.testing.assert_array_equal(plugins(case.features, case.cu_seqlens), answers)
        assert not np.array_equal(plain(case.features, case.cu_seqlens), answers)


@pytest.fixture(scope="module")
def padded() -> Ensemble:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    config = msgspec.structs.replace(CONFIG, experts=2)
    return Ensemble(config, [small_padded(seed) for seed in range(2)]).eval()


@pytest.fixture(scope="module")
def lowering(padded: Ensemble) -> TracedLowering:
    return TracedLowering({"fp32": trace(padded), "fp16": trace(padded, "fp16")})


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_padded_ensemble_equals_torch_on_odd_inputs(padded: Ensemble, lowering: TracedLowering, precision: Base) -> None:
    traced, reference = onnx_forward(lowering.int8_model({}, precision, []).SerializeToString()), torch_forward(padded)
    for case in odd_cases(NTU25, FeatureRecipe(channels=4)):
        exact = reference(case.features, case.cu_seqlens)
        assert relative_error(traced(case.features, case.cu_seqlens), exact) < TOLERANCES[precision], case.name


def test_clips_are_padded_once(lowering: TracedLowering) -> None:
    names = [node.name for node in lowering.int8_model({}, "fp32", []).graph.node]
    assert any(name.startswith("padding.") for name in names)
    assert not any("experts" in name and "padding" in name for name in names)
    assert names[-1] == "mean.reducemean"


def test_every_expert_is_quantised(lowering: TracedLowering) -> None:
    alone = TracedLowering({"fp32": trace(small_padded())})
    paths = ["experts.0.", "experts.1."]
    assert lowering.quantised_modules == [f"{path}{module}" for path in paths for module in alone.quantised_modules]
    precisions = lowering.node_precisions("int8", "fp16")
    assert all(own(precisions, path) == alone.node_precisions("int8", "fp16") for path in paths)
    assert "float32 normalisation" in lowering.float_reason("experts.1.input_norm")
