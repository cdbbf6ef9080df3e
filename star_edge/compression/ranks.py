"""Which layers to factorise, and to which rank. A layer that would not get smaller stays whole, and has no entry.

The energy of a rank is its squared singular value, relative to the sum of the layer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from runtime.errors import InputError
from star_edge.compression.low_rank import FACTORABLE, Matrix, decompose, relative_errors


def fixed_ranks(layers: Mapping[str, Matrix], rank: int) -> dict[str, int]:
    """The same rank for every layer that it makes smaller."""
    return _paying(layers, dict.fromkeys(layers, rank))


def energy_ranks(layers: Mapping[str, Matrix], energies: Mapping[str, Tensor], share: float) -> dict[str, int]:
    """The smallest ranks that keep at least ``share`` of each layer's energy, Σ_{i<=k} s_i² >= share Σ s_i²."""
    if not 0 < share <= 1:
        raise InputError("the share of energy to keep is out of range", found=share, expected="above 0, at most 1")
    return _paying(layers, {path: _smallest(_cumulative(energies[path]), share) for path in layers})


def budget_ranks(
    layers: Mapping[str, Matrix],
    energies: Mapping[str, Tensor],
    budget: float,
    applications: Mapping[str, int] | None = None,
    sensitivity: Callable[[str], float] | None = None,
) -> dict[str, int]:
    """The ranks that keep the most energy within a budget, by greedy marginal energy per cost.

    Every layer begins at rank 1. The next move is the best of all: to any higher rank, or to the whole matrix, because that gives
    all the rest of a flat spectrum at once.

    Args:
        budget: parameters that the layers may hold together, without biases; with ``applications`` the MACs they may take.
        applications: path -> how often each parameter is used (:func:`count_applications`); a layer that is never used costs nothing.
        sensitivity: path -> loss increase per share of the layer's energy that is lost (:func:`measured_sensitivity`); 1 for
            every layer if it is not known.

    Raises InputError where the budget does not hold even rank 1 everywhere.
    """
    moves = {path: _Moves(layers[path], energies[path]) for path in layers}
    for path, layer in moves.items():
        layer.costs *= 1 if applications is None else applications[path]
        layer.gains *= 1 if sensitivity is None else sensitivity(path)
    left = budget - sum(layer.costs[0] for layer in moves.values())
    if left < 0:
        raise InputError(
            "the budget is too small for these layers",
            found=f"{budget:g}",
            expected=f"at least {budget - left:g}, rank 1 for all",
        )
    best = {path: layer.best(left) for path, layer in moves.items()}
    while best:
        path = max(best, key=lambda each: best[each][0])
        layer, (_, target) = moves[path], best[path]
        if target == layer.now:
            del best[path]
            continue
        if layer.costs[target] - layer.costs[layer.now] <= left:
            left -= layer.costs[target] - layer.costs[layer.now]
            layer.now = target
        best[path] = layer.best(left)
    return {path: layer.now + 1 for path, layer in moves.items() if layer.now + 1 < layers[path].break_even}


class _Moves:
    """Costs and energies of a layer at rank 1, 2, ... below break-even, and last as a whole."""

    def __init__(self, matrix: Matrix, energies: Tensor) -> None:
        ranks = range(1, matrix.break_even)
        self.costs = np.array([*map(matrix.at, ranks), matrix.whole], np.float64)
        self.gains = np.append(_cumulative(energies)[: len(ranks)], 1.0)
        self.now = 0

    def best(self, left: float) -> tuple[float, int]:
        """Most gain per cost of the moves that ``left`` pays for, and where it leads; (0, here) where none gains anything."""
        costs, gains = self.costs[self.now + 1 :] - self.costs[self.now], self.gains[self.now + 1 :] - self.gains[self.now]
        useful = np.flatnonzero((costs <= left) & (gains > 0))
        if not len(useful):
            return 0.0, self.now
        rates = gains[useful] / np.maximum(costs[useful], np.finfo(np.float64).tiny)
        return float(rates.max()), self.now + 1 + int(useful[rates.argmax()])


def measured_sensitivity(
    model: nn.Module, ranks: Mapping[str, int], loss: Callable[[nn.Module], float]
) -> Callable[[str], float]:
    """Path -> loss increase per share of energy lost, of one layer alone at its rank in ``ranks``; 0 where the loss fell.

    Args:
        loss: of a model, on clips that are for choosing.
    """
    whole = loss(model)

    def sensitivity(path: str) -> float:
        alone = {path: ranks[path]}
        lost = relative_errors(model, alone)[path] ** 2
        return max(0.0, loss(decompose(model, alone)) - whole) / lost if lost else 0.0

    return sensitivity


def count_applications(model: nn.Module, *inputs: Tensor) -> dict[str, int]:
    """Path of each linear layer and convolution -> how often a call of the model uses each of its parameters.

    That many times its parameters are its MACs, whole or factorised: a factorised convolution takes its steps in the first factor.
    """
    counts: dict[str, int] = {}

    def count(path: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, _: object, output: Tensor) -> None:
            width = output.shape[-1] if isinstance(module, nn.Linear) else output.shape[1]
            counts[path] = counts.get(path, 0) + output.numel() // width

        return hook

    layers = {path: module for path, module in model.named_modules() if isinstance(module, FACTORABLE)}
    handles = [module.register_forward_hook(count(path)) for path, module in layers.items()]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {path: counts.get(path, 0) for path in layers}


def _paying(layers: Mapping[str, Matrix], ranks: Mapping[str, int]) -> dict[str, int]:
    return {path: rank for path, rank in ranks.items() if rank < layers[path].break_even}


def _cumulative(energies: Tensor) -> np.ndarray:
    """Share of the energy in the first ranks; a matrix of zeros has all of it in the first."""
    sums: np.ndarray = energies.cumsum(0).numpy()
    return sums / sums[-1] if sums[-1] > 0 else np.ones_like(sums)


def _smallest(cumulative: np.ndarray, share: float) -> int:
    return int(np.searchsorted(cumulative, share)) + 1
