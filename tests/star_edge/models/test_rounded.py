"""The rounding reference: rounds what it should, and shows what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exporters.onnx.graph import recorded_tensors
from runtime.tolerances import TOLERANCES, relative_error
from star_edge.models.rounded import DTYPES, RoundedStar
from star_edge.models.star import Star
from star_edge.training.checkpoint import build_from_checkpoint, load_checkpoint

CU_SEQLENS = torch.tensor([0, 6, 6, 17], dtype=torch.int32)


@pytest.fixture
def model(random_checkpoint) -> Star:
    return build_from_checkpoint(load_checkpoint(random_checkpoint))


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(17, 15, 9, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("precision", DTYPES)
def test_it_is_close_to_fp32_and_not_equal(model, features, precision):
    with torch.no_grad():
        reference = model(features, CU_SEQLENS).numpy()
    error = relative_error(RoundedStar(model, precision)(features, CU_SEQLENS).numpy(), reference)
    assert TOLERANCES["fp32"] < error <= TOLERANCES[precision]


@pytest.mark.parametrize("precision", DTYPES)
def test_every_tensor_and_weight_is_representable(model, features, precision):
    rounded, seen = RoundedStar(model, precision), set()

    def watch(path: str, tensor: torch.Tensor) -> None:
        seen.add(path)
        torch.testing.assert_close(tensor.to(DTYPES[precision]).float(), tensor, rtol=0, atol=0)

    rounded(features, CU_SEQLENS, watch)
    for weight in rounded.weights.values():
        torch.testing.assert_close(weight.to(DTYPES[precision]).float(), weight, rtol=0, atol=0)
    modules = {key.rpartition(".")[0] for key in recorded_tensors(model.config)}
    assert modules <= seen
    assert not any("norm" in name for name in rounded.weights), "normalisations stay float32"


def test_an_overflow_names_the_module_where_it_starts(model, features):
    with torch.no_grad():
        model.layers[1].temporal.linear1.weight.mul_(4e4)
        model.layers[1].temporal.linear2.weight.mul_(1 / 4e4)
        assert bool(model(features, CU_SEQLENS).isfinite().all())
    assert RoundedStar(model, "fp16").first_overflow(features, CU_SEQLENS) == "layers.1.temporal.linear1"
    assert RoundedStar(model, "bf16").first_overflow(features, CU_SEQLENS) is None


def test_a_weight_that_does_not_fit_is_named(model, features):
    with torch.no_grad():
        model.head.hidden.bias[0] = 7e4
    assert RoundedStar(model, "fp16").first_overflow(features, CU_SEQLENS) == "head.hidden.bias"


def test_the_model_is_left_as_it_is(model, features):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    RoundedStar(model, "fp16")(features, CU_SEQLENS)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name].numpy())
