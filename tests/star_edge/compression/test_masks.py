"""Masks, what sparse weights take to store, and the rounds of lottery tickets."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.optim.swa_utils import AveragedModel  # noqa: E402

from runtime.errors import InputError  # noqa: E402
from star_edge.compression.masks import (  # noqa: E402
    apply_masks,
    bake_masks,
    density,
    hold_masks,
    largest,
    make_masks,
    maskable,
    stored_bytes,
    two_of_four,
    weights_of,
)
from star_edge.compression.pruning import Tickets  # noqa: E402
from star_edge.models.registry import star_config  # noqa: E402
from star_edge.models.star import Star  # noqa: E402
from star_edge.skeletons import NITE15  # noqa: E402

SEEDS = st.integers(0, 2**16)
SPARSITIES = st.floats(0, 1)


def star() -> Star:
    torch.manual_seed(0)
    return Star(star_config("star-64", NITE15, 9, 6, layers=2)).eval()


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(11, 15, 9), torch.tensor([0, 4, 11], dtype=torch.int32)


@settings(deadline=None)
@given(SEEDS, st.integers(1, 6), st.integers(1, 19), st.sampled_from([(), (3,), (3, 2)]))
def test_two_of_four_keeps_the_two_largest_inputs(seed: int, outputs: int, inputs: int, kernel: tuple[int, ...]) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(outputs, inputs, *kernel)
    mask = two_of_four(weight)
    for place in range(0, inputs, 4):
        values, kept = weight[:, place : place + 4].abs(), mask[:, place : place + 4]
        left = min(2, values.shape[1])
        assert (kept.sum(1) == left).all()
        smallest_kept = values.masked_fill(~kept, torch.inf).amin(1)
        assert (smallest_kept >= values.masked_fill(kept, 0).amax(1)).all()


def test_two_of_four_of_equal_weights_keeps_the_first() -> None:
    assert two_of_four(torch.ones(1, 8)).tolist() == [[True, True, False, False] * 2]
    assert two_of_four(torch.zeros(1, 3)).tolist() == [[True, True, False]]


@settings(deadline=None)
@given(SEEDS, SPARSITIES, st.sampled_from(["global", "layer"]))
def test_unstructured_masks_keep_the_largest_of_their_scope(seed: int, sparsity: float, scope: str) -> None:
    torch.manual_seed(seed)
    weights = {"a": torch.randn(5, 7), "b": 10 * torch.randn(3, 4, 2)}
    masks = make_masks("unstructured", weights, sparsity, scope)  # type: ignore[arg-type]
    for group in [["a", "b"]] if scope == "global" else [["a"], ["b"]]:
        values = torch.cat([weights[path].abs().flatten() for path in group])
        kept = torch.cat([masks[path].flatten() for path in group])
        assert int((~kept).sum()) == round(sparsity * len(values))
        if 0 < int(kept.sum()) < len(values):
            assert values[kept].min() >= values[~kept].max()


def test_embedding_classifier_norms_and_biases_are_never_masked() -> None:
    model = star()
    before = copy.deepcopy(model.state_dict())
    masks = make_masks("unstructured", weights_of(maskable(model)), 0.9)
    assert len(masks) == 2 * 2 * 3 + 1
    apply_masks(model, masks)
    for name, tensor in model.state_dict().items():
        path, _, kind = name.rpartition(".")
        if path in masks and kind == "weight":
            assert torch.equal(tensor, before[name] * masks[path])
        else:
            assert torch.equal(tensor, before[name]), name
    assert "head.output" not in masks
    assert "head.output" in maskable(model, excluded=())


def test_held_masks_stop_gradients_and_survive_averaging_and_training() -> None:
    model = star()
    masks = make_masks("2:4", weights_of(maskable(model)), 0.5)
    masked = copy.deepcopy(model)
    apply_masks(masked, masks)
    hold_masks(model, masks)
    averaged = AveragedModel(model)
    torch.testing.assert_close(model(*clips()), masked(*clips()), atol=0, rtol=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(*clips()).square().sum().backward()
        gradient = model.head.hidden.parametrizations.weight.original.grad  # type: ignore[union-attr, index]
        assert not gradient[~masks["head.hidden"]].any()
        assert gradient[masks["head.hidden"]].any()
        optimizer.step()
        averaged.update_parameters(model)
    expected = averaged(*clips())
    bake_masks(averaged.module)
    assert set(averaged.module.state_dict()) == set(masked.state_dict())
    torch.testing.assert_close(averaged.module(*clips()), expected, atol=0, rtol=0)
    for path, mask in masks.items():
        assert not averaged.module.get_parameter(f"{path}.weight")[~mask].any()


def test_stored_bytes_and_density_count_what_is_left() -> None:
    weight = torch.zeros(10, 100)
    weight[:, ::10] = 1
    assert density(weight) == 0.1
    assert stored_bytes(weight) == {"dense": 4000, "bitmap": 125 + 400, "csr": 600 + 44}
    assert stored_bytes(torch.ones(1, 70_000))["csr"] == 8 * 70_000 + 8


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.floats(0.1, 0.98), st.integers(1, 5), st.sampled_from(["global", "layer"]))
def test_tickets_lose_weights_round_by_round_and_rewind_the_rest(seed: int, sparsity: float, rounds: int, scope: str) -> None:
    torch.manual_seed(seed)
    early = nn.Sequential(nn.Linear(8, 10), nn.BatchNorm1d(10), nn.Linear(10, 7)).state_dict()
    tickets = Tickets(early, ["0", "2"], sparsity, rounds, scope)  # type: ignore[arg-type]
    before = tickets.masks
    while not tickets.finished:
        trained = {name: tensor + torch.randn(tensor.shape) for name, tensor in tickets.start().items()}
        trained["0.weight"] = trained["0.weight"] * (torch.rand(10, 8) < 0.7)  # some are trained to zero
        tickets.prune(trained)
        assert all(not (tickets.masks[path] & ~before[path]).any() for path in before)
        before = tickets.masks
        gone, count = sum(int((~mask).sum()) for mask in before.values()), sum(mask.numel() for mask in before.values())
        assert gone == pytest.approx(tickets.sparsity_after(tickets.round) * count, abs=1)
    assert tickets.sparsity_after(rounds) == pytest.approx(sparsity)
    ticket = tickets.start()
    for name, tensor in early.items():
        path, _, kind = name.rpartition(".")
        mask = tickets.masks[path] if kind == "weight" and path in tickets.masks else torch.ones_like(tensor, dtype=torch.bool)
        assert torch.equal(ticket[name][mask], tensor[mask])
        assert not ticket[name][~mask].any()
    with pytest.raises(InputError, match="is over"):
        tickets.prune(ticket)


def test_tickets_remove_the_smallest_trained_weights() -> None:
    tickets = Tickets({"a.weight": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}, ["a"], sparsity=0.75, rounds=2)
    tickets.prune({"a.weight": torch.tensor([[9.0, -0.1, 0.2, -5.0]])})
    assert tickets.start()["a.weight"].tolist() == [[1.0, 0.0, 0.0, 4.0]]
    resumed = Tickets({"a.weight": torch.zeros(1, 4)}, ["a"], sparsity=0.75, rounds=2)
    resumed.load_state_dict(tickets.state_dict())
    resumed.prune({"a.weight": torch.tensor([[0.5, 7.0, 7.0, -1.0]])})
    assert resumed.start()["a.weight"].tolist() == [[0.0, 0.0, 0.0, 4.0]]
    with pytest.raises(InputError, match="no such search"):
        Tickets({}, [], sparsity=1.0)


def test_no_weights_make_no_masks() -> None:
    assert largest({}, 0.5) == {}
