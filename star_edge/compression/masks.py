"""Masks over weights: which there are, by magnitude, and how a model is made to keep to them.

A mask is a boolean tensor of its weight's shape, True for what stays, and is known by its module's path.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from star_edge.compression.low_rank import FACTORABLE, Factorable

Masks: TypeAlias = dict[str, Tensor]
Pattern: TypeAlias = Literal["unstructured", "2:4"]
Scope: TypeAlias = Literal["global", "layer"]

# names, anywhere in a path, of what is never masked: the first layer, the classifier, and layers that only weigh others
EXCLUDED = frozenset({"embedding", "attention", "output"})


def maskable(model: nn.Module, excluded: Collection[str] = EXCLUDED) -> dict[str, Factorable]:
    """Path -> linear layer or convolution whose weight may be masked; biases, norms and graphs never are.

    Args:
        excluded: names that keep a module out, and all below it.
    """
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, FACTORABLE) and not set(path.split(".")) & set(excluded)
    }


def weights_of(modules: Mapping[str, Factorable]) -> dict[str, Tensor]:
    """Path -> weight, detached."""
    return {path: module.weight.detach() for path, module in modules.items()}


def make_masks(pattern: Pattern, weights: Mapping[str, Tensor], sparsity: float, scope: Scope = "global") -> Masks:
    """Masks by the magnitude of weights.

    Args:
        sparsity: share to remove; 2:4 always removes half.
        scope: of ``unstructured``: whether all weights are ranked together, or those of each layer alone.
    """
    if pattern == "2:4":
        return {path: two_of_four(weight) for path, weight in weights.items()}
    return largest({path: weight.abs() for path, weight in weights.items()}, sparsity, scope)


def largest(values: Mapping[str, Tensor], sparsity: float, scope: Scope = "global") -> Masks:
    """Masks of all but the round(sparsity * n) smallest values; of equal ones the first go first."""
    if scope == "layer":
        return {path: largest({path: value}, sparsity)[path] for path, value in values.items()}
    if not values:
        return {}
    flat = torch.cat([value.flatten() for value in values.values()])
    mask = torch.ones_like(flat, dtype=torch.bool)
    mask[flat.argsort(stable=True)[: round(sparsity * len(flat))]] = False
    parts = mask.split([value.numel() for value in values.values()])
    return {path: part.view(value.shape) for (path, value), part in zip(values.items(), parts, strict=True)}


def two_of_four(weight: Tensor) -> Tensor:
    """Mask of the two largest of each four consecutive inputs of an output, [out, in, *kernel], as sparse tensor cores take it.

    Where the inputs are no multiple of four, the last group counts as filled up with zeros: of one or two inputs all stay, of
    three the two largest.
    """
    rows = weight.detach().abs().movedim(1, -1)
    groups = nn.functional.pad(rows, (0, -rows.shape[-1] % 4), value=-1.0).unflatten(-1, (-1, 4))
    kept = groups.argsort(dim=-1, descending=True, stable=True)[..., :2]
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter(-1, kept, True)
    return mask.flatten(-2)[..., : rows.shape[-1]].movedim(-1, 1).contiguous()


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set what is masked to zero, in place."""
    with torch.no_grad():
        for path, mask in masks.items():
            model.get_parameter(f"{path}.weight").masked_fill_(~mask, 0.0)


def hold_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Let a model train under masks: what is masked counts as zero and has no gradient, until :func:`bake_masks`.

    A parametrisation, because ``torch.nn.utils.prune`` leaves computed weights in the model, which averaged models cannot copy.
    """
    for path, mask in masks.items():
        parametrize.register_parametrization(model.get_submodule(path), "weight", _Masked(mask))


def bake_masks(model: nn.Module) -> None:
    """Undo :func:`hold_masks`: plain weights under their own names, zero where they are masked."""
    for module in [*model.modules()]:
        if parametrize.is_parametrized(module, "weight") and isinstance(module.parametrizations.weight[0], _Masked):  # type: ignore[index, union-attr]
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """State dict of a model whose weights are parametrised, under its own names, with what its weights now are.

    Not by undoing the parametrisation of a copy: a copy shares its modules' classes, and the model would lose its weights.
    """
    inside = ".parametrizations.weight."
    state = {name: tensor for name, tensor in model.state_dict().items() if inside not in f".{name}"}
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            weight = module.weight
            assert isinstance(weight, Tensor)
            state[f"{path}.weight"] = weight.detach() + 0.0  # zeros without a sign
    return state


class _Masked(nn.Module):
    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight.masked_fill(~self.mask, 0.0)


def stored_bytes(weight: Tensor) -> dict[str, int]:
    """Bytes of a weight [out, ...] in float32: ``dense``; ``bitmap`` of one bit a weight, and values; ``csr`` over outputs.

    CSR has column numbers of 16 bits where they suffice, and row offsets of 32.
    """
    kept, columns = int(weight.count_nonzero()), weight[0].numel()
    return {
        "dense": 4 * weight.numel(),
        "bitmap": math.ceil(weight.numel() / 8) + 4 * kept,
        "csr": (4 + (2 if columns <= 2**16 else 4)) * kept + 4 * (len(weight) + 1),
    }


def stored_forms(weights: Iterable[Tensor], others: int) -> dict[str, int]:
    """Bytes of weights by form, and ``others`` beside them that are never masked."""
    each = [stored_bytes(weight) for weight in weights]
    return {form: others + sum(sizes[form] for sizes in each) for form in ("dense", "bitmap", "csr")}


def density(weight: Tensor) -> float:
    """Share of weights that are not zero."""
    return int(weight.count_nonzero()) / weight.numel()
