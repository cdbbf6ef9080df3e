"""Ensembles: the mean of experts, a loss for each, and that experts trained together are as sparse as they should be."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from star_edge.cli.compress.ensemble import PAPERS_LEVELS  # noqa: E402
from star_edge.compression.masks import maskable, plain_weights  # noqa: E402
from star_edge.compression.sparse_generator import attach, generator_of  # noqa: E402
from star_edge.models.ensemble import experts_of  # noqa: E402
from star_edge.models.registry import build_model, star_config  # noqa: E402
from star_edge.skeletons import NITE15  # noqa: E402
from star_edge.training.sparse import ensemble_loss  # noqa: E402

LEVELS = tuple(map(float, PAPERS_LEVELS.split(",")))
SHAPE = {"dim": 16, "heads": 2, "layers": 2, "hidden": 24}


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(11, 15, 9), torch.tensor([0, 4, 11], dtype=torch.int32)


def test_the_papers_levels_are_two_thirds_of_one_dense_model() -> None:
    torch.manual_seed(0)
    ensemble = build_model("star-64", star_config("star-64", NITE15, 9, 6, experts=len(LEVELS), **SHAPE)).eval()
    for expert, level in zip(experts_of(ensemble).values(), LEVELS, strict=True):
        attach(expert, level, "layer")
    mean = ensemble(*clips())
    plain = build_model("star-64", ensemble.config).eval()
    plain.load_state_dict(plain_weights(ensemble))
    torch.testing.assert_close(plain(*clips()), mean, atol=0, rtol=0)
    kept = sum(int(module.weight.count_nonzero()) for module in maskable(plain).values())
    dense = build_model("star-64", star_config("star-64", NITE15, 9, 6, **SHAPE))
    assert kept / sum(module.weight.numel() for module in maskable(dense).values()) == pytest.approx(0.66, abs=2e-3)
    assert all(generator_of(expert) is not None for expert in experts_of(ensemble).values())  # left as it was


def test_each_expert_has_a_loss_of_its_own() -> None:
    logits = torch.tensor([[[1.0, 3.0]], [[5.0, -1.0]]], requires_grad=True)
    found = ensemble_loss(logits, lambda each: each.square().sum(), weight=0.5)
    assert found.item() == (9 + 1) + 0.5 * (1 + 9 + 25 + 1)
    found.backward()
    assert logits.grad is not None
    assert logits.grad[1, 0].tolist() == [3 + 5, 1 - 1]
