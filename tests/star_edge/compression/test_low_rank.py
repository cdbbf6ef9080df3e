"""Low rank: factors against numpy's SVD, layers against their factorised forms, and what the rank policies promise."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from runtime.errors import InputError  # noqa: E402
from star_edge.compression.low_rank import (  # noqa: E402
    Matrix,
    candidates,
    decompose,
    energies,
    factorise,
    input_moments,
    matrix_of,
    relative_errors,
    truncated_svd,
)
from star_edge.compression.ranks import (  # noqa: E402
    budget_ranks,
    count_applications,
    energy_ranks,
    fixed_ranks,
    measured_sensitivity,
)
from star_edge.models.registry import star_config  # noqa: E402
from star_edge.models.star import Star  # noqa: E402
from star_edge.skeletons import NITE15  # noqa: E402

SIZES = st.integers(1, 24)
SEEDS = st.integers(0, 2**16)
CONVOLUTIONS = {
    "1x1": lambda: nn.Conv2d(12, 10, 1),
    "1x1 strided, no bias": lambda: nn.Conv2d(12, 10, 1, stride=(2, 1), bias=False),
    "1x1 grouped": lambda: nn.Conv2d(12, 18, 1, groups=3),
    "9x1": lambda: nn.Conv2d(6, 8, (9, 1), stride=(2, 1), padding=(4, 0)),
    "3x1 dilated, grouped": lambda: nn.Conv2d(8, 8, (3, 1), padding=(2, 0), dilation=(2, 1), groups=2),
    "1-D": lambda: nn.Conv1d(9, 14, 3, padding=1),
}


@pytest.fixture(scope="module")
def star() -> Star:
    torch.manual_seed(0)
    return Star(star_config("star-64", NITE15, 9, 6, layers=2)).eval()


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(11, 15, 9), torch.tensor([0, 4, 11], dtype=torch.int32)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@settings(deadline=None, max_examples=40)
@given(SIZES, SIZES, SEEDS, st.data())
def test_factors_are_numpys_best_approximation(outputs: int, inputs: int, seed: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, min(outputs, inputs)))
    matrix = np.random.default_rng(seed).normal(size=(outputs, inputs))
    first, second = truncated_svd(torch.from_numpy(matrix), rank)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(second.numpy() @ first.numpy(), (u[:, :rank] * s[:rank]) @ vt[:rank], atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=0), atol=1e-10)  # S is split evenly


@settings(deadline=None, max_examples=25)
@given(SIZES, SIZES, SEEDS, st.booleans())
def test_a_linear_layer_of_full_rank_answers_as_before(outputs: int, inputs: int, seed: int, bias: bool) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, outputs, bias))
    x = torch.randn(3, inputs)
    low = decompose(model, {"0": min(outputs, inputs)})
    torch.testing.assert_close(low(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_of_full_rank_answers_as_before(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(CONVOLUTIONS[name]())
    x = torch.randn(2, model[0].in_channels, *(13, 5)[: model[0].weight.ndim - 2])
    full = matrix_of(model[0]).full_rank
    torch.testing.assert_close(decompose(model, {"0": full})(x), model(x), atol=1e-5, rtol=1e-5)
    assert relative_errors(model, {"0": full})["0"] == 0


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_relative_errors_are_those_of_the_product_of_the_factors(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(CONVOLUTIONS[name]())
    convolution, low = model[0], decompose(model, {"0": 2})[0]
    groups = convolution.groups
    first = low.first.weight.detach().unflatten(0, (groups, -1)).flatten(2)
    second = low.second.weight.detach().unflatten(0, (groups, -1)).flatten(2)
    whole = convolution.weight.detach().unflatten(0, (groups, -1)).flatten(2)
    error = (second @ first - whole).norm() / whole.norm()
    assert relative_errors(model, {"0": 2})["0"] == pytest.approx(error.item(), rel=1e-4)
    assert parameters(low) - parameters(convolution) == matrix_of(convolution).at(2) - matrix_of(convolution).whole


def test_break_even_is_where_factors_stop_to_save() -> None:
    # the two matrices of Hyperformer's blocks
    assert (Matrix(216, 216).break_even, Matrix(432, 216).break_even) == (108, 144)
    assert Matrix(216, 216).at(108) == Matrix(216, 216).whole


def test_a_rank_deficient_layer_is_factorised_without_loss() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(16, 3) @ torch.randn(3, 20))
    ranks = energy_ranks(candidates(model), energies(model, candidates(model)), 1 - 1e-12)
    assert ranks == {"0": 3}
    x = torch.randn(5, 20)
    torch.testing.assert_close(decompose(model, ranks)(x), model(x), atol=1e-5, rtol=1e-5)


def test_a_factorised_star_is_rebuilt_from_config_and_ranks(star: Star) -> None:
    ranks = fixed_ranks(candidates(star), 8)
    low = decompose(star, ranks)
    assert "layers.0.spatial.qkv" in ranks
    assert "head.output" in candidates(star, excluded=()).keys() - ranks.keys()  # the classifier
    assert "embedding" not in ranks  # 8 is its break-even: 9 inputs
    rebuilt = Star(star.config)
    factorise(rebuilt, ranks)
    rebuilt.load_state_dict(low.state_dict())
    names = {name for name in low.state_dict() if name.startswith("head.hidden.")}
    assert names == {"head.hidden.first.weight", "head.hidden.second.weight", "head.hidden.second.bias"}
    torch.testing.assert_close(rebuilt.eval()(*clips()), low(*clips()), atol=0, rtol=0)
    saved = sum(candidates(star)[path].whole - candidates(star)[path].at(rank) for path, rank in ranks.items())
    assert parameters(star) - parameters(low) == saved > 0


def test_an_unfit_rank_or_path_is_refused(star: Star) -> None:
    with pytest.raises(InputError, match="cannot have this rank"):
        factorise(Star(star.config), {"head.hidden": 129})
    with pytest.raises(InputError, match="no layer of this name"):
        factorise(Star(star.config), {"layers.0.spatial.norm1": 4})


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0.05, 1), st.floats(0.05, 1))
def test_more_energy_never_takes_less_rank(seed: int, one: float, other: float) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 30), nn.Linear(30, 9), nn.Conv2d(9, 8, 1, groups=1))
    layers, spectra = candidates(model), energies(model, candidates(model))
    few, many = (energy_ranks(layers, spectra, share) for share in sorted((one, other)))
    for path, matrix in layers.items():
        assert few.get(path, matrix.break_even) <= many.get(path, matrix.break_even)
    for path, rank in few.items():
        assert relative_errors(model, {path: rank})[path] ** 2 <= 1 - min(one, other) + 1e-9


def cost(layers: dict[str, Matrix], ranks: dict[str, int], weights: dict[str, int]) -> int:
    return sum(weights[path] * (m.at(ranks[path]) if path in ranks else m.whole) for path, m in layers.items())


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0, 1.2), st.booleans())
def test_a_budget_is_kept_and_used(seed: int, share: float, macs: bool) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 30), nn.Linear(30, 9), nn.Linear(9, 20))
    layers, spectra = candidates(model), energies(model, candidates(model))
    weights = {"0": 7, "1": 1, "2": 3} if macs else dict.fromkeys(layers, 1)
    least, most = cost(layers, dict.fromkeys(layers, 1), weights), cost(layers, {}, weights)
    budget = least + share * (most - least)
    ranks = budget_ranks(layers, spectra, budget, weights if macs else None)
    assert cost(layers, ranks, weights) <= budget
    for path in ranks:  # one more rank of any layer would be too much
        more = {**ranks, path: ranks[path] + 1}
        if more[path] == layers[path].break_even:
            del more[path]
        assert cost(layers, more, weights) > budget
    if share >= 1:
        assert ranks == {}


def test_a_budget_below_rank_one_is_refused() -> None:
    model = nn.Sequential(nn.Linear(12, 30))
    with pytest.raises(InputError, match="budget is too small"):
        budget_ranks(candidates(model), energies(model, candidates(model)), 41)


def test_a_sensitive_layer_keeps_more_of_a_budget() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    layers, spectra = candidates(model), energies(model, candidates(model))
    ranks = budget_ranks(layers, spectra, 1200, sensitivity=lambda path: {"0": 1.0, "1": 20.0}[path])
    assert ranks["0"] < ranks.get("1", 32)


def test_sensitivity_is_the_loss_of_each_layer_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    x = torch.randn(64, 16)
    answers = model(x).detach()

    def loss(changed: nn.Module) -> float:
        with torch.no_grad():
            return float((changed(x) - answers).square().mean())

    sensitivity = measured_sensitivity(model, {"0": 4, "1": 16}, loss)
    alone = {"0": 4}
    assert sensitivity("0") == pytest.approx(loss(decompose(model, alone)) / relative_errors(model, alone)["0"] ** 2)
    assert sensitivity("1") == 0  # at its full rank it loses nothing


def test_applications_count_rows_joints_and_steps(star: Star) -> None:
    counts = count_applications(star, *clips())
    assert counts["layers.0.spatial.qkv"] == 11 * 15
    assert counts["head.hidden"] == 2
    convolution = nn.Sequential(nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0)))
    assert count_applications(convolution, torch.zeros(2, 4, 9, 5)) == {"0": 2 * 5 * 5}


def test_kernels_are_candidates_only_when_asked_for() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, (9, 1)), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, (9, 1), groups=64))
    assert set(candidates(model)) == {"1"}
    assert set(candidates(model, kernels=True)) == {"0", "1"}  # a depthwise kernel has no rank to lose
    assert candidates(model, kernels=True)["0"] == Matrix(64, 576)


@pytest.mark.parametrize("name", [*CONVOLUTIONS, "linear"])
def test_with_moments_the_error_of_the_outputs_is_known_and_no_more_than_without(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10) if name == "linear" else CONVOLUTIONS[name]()).double()
    if name == "linear":
        x = torch.randn(40, 12).double() @ torch.randn(12, 12).double()
    else:
        x = torch.randn(2, model[0].in_channels, *(13, 5)[: model[0].weight.ndim - 2]).double()
        x = x * torch.linspace(0.1, 4, x.shape[1]).view(-1, *[1] * (x.ndim - 2))
    moments = input_moments(model, [(x[: len(x) // 2],), (x[len(x) // 2 :],)])
    bias = 0 if model[0].bias is None else model[0].bias.view(-1, *[1] * (x.ndim - 2)) if name != "linear" else model[0].bias

    def lost(low: nn.Module) -> float:
        return float(((low(x) - model(x)).norm() / (model(x) - bias).norm()).detach())

    ranks = {"0": 2}
    best = lost(decompose(model, ranks, moments))
    assert best == pytest.approx(relative_errors(model, ranks, moments)["0"], rel=1e-3)
    assert best < lost(decompose(model, ranks))
    full = {"0": matrix_of(model[0]).full_rank}
    torch.testing.assert_close(decompose(model, full, moments)(x), model(x), atol=1e-8, rtol=1e-8)


def test_inputs_that_are_all_zero_leave_the_weights_error_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10))
    moments = input_moments(model, [(torch.zeros(5, 12),)])
    low, plain = (decompose(model, {"0": 3}, each)[0] for each in (moments, None))
    torch.testing.assert_close(low.second.weight @ low.first.weight, plain.second.weight @ plain.first.weight)


def test_energies_of_outputs_are_those_of_the_layers_products(star: Star) -> None:
    found = energies(star, candidates(star), moments=input_moments(star, [clips()]))
    assert set(found) == set(candidates(star))
    features, _ = clips()
    rows = star.input_norm(features.flatten(1)).view(-1, 9).double()
    products = rows @ star.embedding.weight.double().T
    assert found["embedding"].sum().item() == pytest.approx(products.square().sum().item(), rel=1e-4)
