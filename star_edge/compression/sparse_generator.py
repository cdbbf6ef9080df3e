"""Sparse generators: scores that learn beside the weights which of them count (Sparse ST-GCN, arXiv 2505.10679).

Each weight W has scores S of its shape. Those below a threshold, the k-th smallest score of its group with
k = 1 + round(q (n - 1)) at sparsity q, mask their weights: W * [S >= threshold]. The mask's gradient goes to the scores as if the
threshold were not there (straight-through). In the warm-up nothing is masked, but weights that the final threshold would mask
are pushed towards zero by :meth:`SparseGenerator.penalty`.

Differs from the authors' code: the penalty has a gradient (theirs is built from detached weights, and only shifts the loss that is
logged), and thresholds are found once a forward pass, not once a layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from runtime.errors import InputError
from star_edge.compression.masks import EXCLUDED, Masks, maskable

Scope: TypeAlias = Literal["network", "layer"]


class SparseWeight(nn.Module):
    """W * [S >= threshold], as a parametrisation: ``original0`` is W, ``original1`` is S, kaiming-uniform (fan-in, ReLU).

    Attributes:
        threshold: of the current sparsity; sparsity: that. Buffers, so that averaged copies and saved states have them.
    """

    threshold: Tensor
    sparsity: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("threshold", weight.new_full((), -torch.inf))
        self.register_buffer("sparsity", torch.zeros((), dtype=torch.float64, device=weight.device))

    def forward(self, weight: Tensor, scores: Tensor) -> Tensor:
        mask = (scores >= self.threshold).to(weight.dtype)
        return weight * (mask + (scores - scores.detach()))  # adds exactly 0, with the gradient of the scores

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight, nn.init.kaiming_uniform_(torch.empty_like(weight), mode="fan_in", nonlinearity="relu")


class SparseGenerator:
    """The groups of a model's sparse weights, and their schedule; runs before each of the model's forward passes.

    Attributes:
        groups: name -> weights whose scores share a threshold: path -> its ParametrizationList.
        sparsity: final one. warmup, ramp: epochs without masks, and then with fewer.
    """

    def __init__(self, groups: dict[str, dict[str, Any]], sparsity: float, warmup: int, ramp: int) -> None:
        self.groups, self.sparsity, self.warmup, self.ramp = groups, sparsity, warmup, ramp
        self.epoch = 0.0
        self.set_epoch(0)

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        self.refresh()

    def set_epoch(self, epoch: float) -> None:
        """Begin an epoch, counted from 0: dense before ``warmup``, then at the full sparsity, or rising to it over ``ramp`` epochs."""
        self.epoch = epoch
        risen = 1.0 if not self.ramp else min(1.0, (epoch - self.warmup + 1) / self.ramp)
        for _, weight in self._weights():
            weight[0].sparsity.fill_(self.sparsity * risen if epoch >= self.warmup else 0.0)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Find the thresholds of the current scores."""
        for group in self.groups.values():
            # the sparsity of the buffer, which in an averaged copy follows that of the model in training
            sparsity = float(next(iter(group.values()))[0].sparsity)
            found = threshold([weight.original1 for weight in group.values()], sparsity)
            for weight in group.values():
                weight[0].threshold.copy_(found)

    def penalty(self) -> Tensor:
        """lambda(e) Σ over groups |W where S is below the final threshold|_2, lambda rising linearly, e / warmup; 0 after it."""
        norms = [
            torch.stack([torch.linalg.vector_norm(part) for part in self._doomed(group)])
            for group in self.groups.values()
            if self.epoch < self.warmup
        ]
        if not norms:
            return torch.zeros((), device=next(self._weights())[1].original0.device)
        return self.epoch / self.warmup * torch.stack([torch.linalg.vector_norm(group) for group in norms]).sum()

    def masks(self) -> Masks:
        """Masks of the current scores, by path."""
        self.refresh()
        return {path: weight.original1.detach() >= weight[0].threshold for path, weight in self._weights()}

    def _doomed(self, group: dict[str, Any]) -> Iterator[Tensor]:
        """Weights of a group, zero where the final sparsity would leave them; the masks have no gradient, the weights do."""
        final = threshold([weight.original1.detach() for weight in group.values()], self.sparsity)
        for weight in group.values():
            yield weight.original0 * (weight.original1.detach() < final)

    def _weights(self) -> Iterator[tuple[str, Any]]:
        for group in self.groups.values():
            yield from group.items()


def threshold(scores: list[Tensor], sparsity: float) -> Tensor:
    """The k-th smallest of all scores, k = 1 + round(q (n - 1)); scores from there on stay."""
    flat = torch.cat([each.flatten() for each in scores])
    return flat.kthvalue(1 + round(sparsity * (len(flat) - 1))).values


def attach(
    model: nn.Module,
    sparsity: float,
    scope: Scope = "network",
    warmup: int = 0,
    ramp: int = 0,
    excluded: Collection[str] = EXCLUDED,
) -> SparseGenerator:
    """Give every maskable weight of a model scores, in place.

    Args:
        sparsity: share of these weights that is masked in the end.
        scope: whether all scores share a threshold, or those of each layer of STAR, each block of a padded model, have one.
        warmup: epochs in which nothing is masked. ramp: epochs after them in which the sparsity rises.
        excluded: as for :func:`star_edge.compression.masks.maskable`.
    """
    if not 0 < sparsity < 1:
        raise InputError("no such sparsity", found=sparsity, expected="between 0 and 1")
    groups: dict[str, dict[str, Any]] = {}
    for path, module in maskable(model, excluded).items():
        parametrize.register_parametrization(module, "weight", SparseWeight(module.weight))
        group = "" if scope == "network" else block_of(path)
        groups.setdefault(group, {})[path] = module.parametrizations["weight"]  # type: ignore[index]
    if not groups:
        raise InputError("the model has no weights to mask", expected="linear layers or convolutions")
    generator = SparseGenerator(groups, sparsity, warmup, ramp)
    model.register_forward_pre_hook(generator)
    return generator


def generator_of(model: nn.Module) -> SparseGenerator | None:
    """The generator that was attached to a model, or came with the model it is a copy of."""
    hooks = model._forward_pre_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, SparseGenerator)), None)


def bake(model: nn.Module) -> Masks:
    """Undo :func:`attach`: plain weights under their own names, zero where they are masked. The masks, by path."""
    generator = generator_of(model)
    if generator is None:
        raise InputError("the model has no sparse generator")
    masks = generator.masks()
    for path, mask in masks.items():
        module = model.get_submodule(path)
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        weight = module.weight.detach().masked_fill(~mask, 0.0)  # type: ignore[operator]  # zeros without a sign
        del module.weight  # a parameter, or a buffer where nothing was to learn
        module.weight = nn.Parameter(weight)
    for key, hook in [*model._forward_pre_hooks.items()]:
        if hook is generator:
            del model._forward_pre_hooks[key]
    return masks


def block_of(path: str) -> str:
    """The path up to its first number, ``layers.3`` of ``layers.3.spatial.qkv``; where there is none, the first name."""
    names = path.split(".")
    numbers = [place for place, name in enumerate(names) if name.isdigit()]
    return ".".join(names[: numbers[0] + 1]) if numbers else names[0]
