"""Sparse generators: thresholds, gradients by hand, the warm-up's penalty, baked weights."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.optim.swa_utils import AveragedModel  # noqa: E402

from runtime.errors import InputError  # noqa: E402
from star_edge.compression.masks import density, maskable  # noqa: E402
from star_edge.compression.sparse_generator import attach, bake, block_of, generator_of, threshold  # noqa: E402
from star_edge.models.registry import star_config  # noqa: E402
from star_edge.models.star import Star  # noqa: E402
from star_edge.skeletons import NITE15  # noqa: E402


def star(seed: int = 0) -> Star:
    torch.manual_seed(seed)
    return Star(star_config("star-64", NITE15, 9, 6, layers=2)).eval()


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(11, 15, 9), torch.tensor([0, 4, 11], dtype=torch.int32)


def total_density(masks: dict[str, torch.Tensor]) -> float:
    return sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


@settings(deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 40), st.floats(0, 1))
def test_the_threshold_is_the_kth_smallest_score(seed: int, count: int, sparsity: float) -> None:
    torch.manual_seed(seed)
    scores = torch.randn(count)
    found = threshold([scores[: count // 2], scores[count // 2 :]], sparsity)
    assert found == scores.sort().values[round(sparsity * (count - 1))]
    assert int((scores < found).sum()) == round(sparsity * (count - 1))


def test_scores_have_the_gradient_of_the_mask_and_weights_the_masked_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4))
    generator = attach(model, 0.5)
    weights = model[0].parametrizations.weight
    x, direction = torch.randn(3, 6), torch.randn(3, 4)
    (model(x) * direction).sum().backward()
    of_weight = direction.T @ x  # of the masked weight
    mask = generator.masks()["0"]
    assert int((~mask).sum()) == round(0.5 * 23)
    torch.testing.assert_close(weights.original0.grad, of_weight * mask)
    torch.testing.assert_close(weights.original1.grad, of_weight * weights.original0.detach())


def test_in_the_warm_up_nothing_is_masked_yet_scores_learn() -> None:
    dense, model = star(), star()
    generator = attach(model, 0.8, warmup=4)
    torch.testing.assert_close(model(*clips()), dense(*clips()), atol=0, rtol=0)
    model(*clips()).sum().backward()
    assert all(weight.original1.grad.any() for _, weight in generator._weights())
    assert total_density(generator.masks()) == 1


def test_the_penalty_pushes_the_weights_that_will_go_and_only_those() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    generator = attach(model, 0.5, warmup=4)
    weights = dict(generator._weights())
    generator.set_epoch(1)
    generator.penalty().backward()
    final = threshold([weight.original1.detach() for weight in weights.values()], 0.5)
    doomed = {path: weight.original1.detach() < final for path, weight in weights.items()}
    norm = torch.stack([(weight.original0 * doomed[path]).detach().norm() for path, weight in weights.items()]).norm()
    assert norm > 0
    assert generator.penalty().item() == pytest.approx(0.25 * norm.item())
    for path, weight in weights.items():
        torch.testing.assert_close(weight.original0.grad, 0.25 * weight.original0.detach() * doomed[path] / norm)
        assert weight.original0.grad.any()
        assert weight.original1.grad is None
    generator.set_epoch(4)
    assert generator.penalty() == 0


def test_the_penalty_adds_up_over_blocks_and_has_finite_gradients_at_zero() -> None:
    model = star()
    generator = attach(model, 0.8, "layer", warmup=4)
    assert set(generator.groups) == {"layers.0", "layers.1", "head"}
    generator.set_epoch(2)
    with torch.no_grad():
        for weight in generator.groups["head"].values():
            weight.original0.zero_()
    generator.penalty().backward()
    gradients = {path: weight.original0.grad for path, weight in generator._weights()}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert all(gradient.any() == (path != "head.hidden") for path, gradient in gradients.items())


@pytest.mark.parametrize("scope", ["network", "layer"])
def test_masks_have_the_sparsity_of_their_scope_and_touch_nothing_else(scope: str) -> None:
    model = star()
    plain, shared = set(model.state_dict()), set(maskable(model))
    untouched = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attach(model, 0.9, scope)  # type: ignore[arg-type]
    masks = bake(model)
    assert set(masks) == shared
    assert set(model.state_dict()) == plain
    assert total_density(masks) == pytest.approx(0.1, abs=1e-3)
    per_block = [total_density({path: masks[path] for path in masks if block_of(path) == "layers.0"})]
    assert per_block[0] == pytest.approx(0.1, abs=1e-3) or scope == "network"
    for name, tensor in model.state_dict().items():
        path, _, kind = name.rpartition(".")
        expected = untouched[name] * masks[path] if path in masks and kind == "weight" else untouched[name]
        assert torch.equal(tensor, expected), name


def test_sparsity_rises_over_the_ramp() -> None:
    model = star()
    generator = attach(model, 0.8, warmup=2, ramp=4)
    found = []
    for epoch in range(8):
        generator.set_epoch(epoch)
        found.append(1 - total_density(generator.masks()))
    assert found == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8], abs=1e-3)


def test_baked_weights_answer_as_the_generator_after_training() -> None:
    model = star()
    attach(model, 0.7, "layer")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scores = model.head.hidden.parametrizations.weight.original1.detach().clone()  # type: ignore[union-attr, index]
    for _ in range(2):
        optimizer.zero_grad()
        model(*clips()).square().mean().backward()
        optimizer.step()
    assert not torch.equal(scores, model.head.hidden.parametrizations.weight.original1)  # type: ignore[union-attr, index]
    expected = model(*clips())
    masks = bake(model)
    torch.testing.assert_close(model(*clips()), expected, atol=0, rtol=0)
    for path, mask in masks.items():
        weight = model.get_parameter(f"{path}.weight")
        assert not weight[~mask].any()
        assert not weight[~mask].signbit().any()
        assert density(weight) == pytest.approx(mask.double().mean().item())
    assert generator_of(model) is None
    with pytest.raises(InputError, match="no sparse generator"):
        bake(model)


def test_an_averaged_copy_follows_the_sparsity_and_has_thresholds_of_its_own() -> None:
    model = star()
    generator = attach(model, 0.7, warmup=1)
    averaged = AveragedModel(model, multi_avg_fn=None, avg_fn=lambda old, new, _: 0.5 * old + 0.5 * new)
    generator.set_epoch(1)
    with torch.no_grad():
        for _, weight in generator._weights():
            weight.original1.copy_(weight.original1.flip(0))
    averaged.update_parameters(model)
    averaged.update_parameters(model)
    copied = generator_of(averaged.module)
    assert copied is not None
    assert copied is not generator
    expected = averaged(*clips())
    masks = bake(averaged.module)
    assert total_density(masks) == pytest.approx(0.3, abs=1e-3)
    torch.testing.assert_close(averaged.module(*clips()), expected, atol=0, rtol=0)
    assert generator_of(model) is generator


def test_a_state_dict_restores_weights_scores_and_sparsity() -> None:
    model, other = star(), star(seed=5)
    attach(model, 0.7)
    generator = attach(other, 0.7, warmup=9)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    torch.testing.assert_close(other(*clips()), model(*clips()), atol=0, rtol=0)
    assert total_density(generator.masks()) == pytest.approx(0.3, abs=1e-3)


def test_models_that_cannot_be_sparse_are_refused() -> None:
    with pytest.raises(InputError, match="no weights"):
        attach(nn.Sequential(nn.BatchNorm1d(3)), 0.5)
    with pytest.raises(InputError, match="no such sparsity"):
        attach(star(), 1.0)
