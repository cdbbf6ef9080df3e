"""Low rank: a layer's matrix as a product of two thin ones, by truncated SVD (LORTSAR, Oraki et al., arXiv 2407.14655).

W = U S Vᵀ, outputs x inputs, becomes ``second`` = U_k √S_k after ``first`` = √S_k V_kᵀ; the bias stays on ``second``. A
convolution is a matrix of its inputs times its kernel by its outputs, one for each of its groups: the first factor takes kernel,
stride, padding and dilation over, the second is a 1x1 convolution.

A factorised model is rebuilt from its config and ranks alone: build the model, :func:`factorise`, ``load_state_dict``. Which ranks
to take is for :mod:`star_edge.compression.ranks`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from runtime.errors import InputError

Factorable: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d
FACTORABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class Matrix:
    """Shape of a layer as ``groups`` matrices of ``outputs`` x ``inputs`` each; a rank is that of each of them."""

    outputs: int
    inputs: int
    groups: int = 1

    @property
    def full_rank(self) -> int:
        return min(self.outputs, self.inputs)

    @property
    def break_even(self) -> int:
        """Smallest rank at which two factors hold no fewer parameters than the matrix."""
        return math.ceil(self.outputs * self.inputs / (self.outputs + self.inputs))

    @property
    def whole(self) -> int:
        """Parameters, without bias."""
        return self.groups * self.outputs * self.inputs

    def at(self, rank: int) -> int:
        """Parameters of both factors, without bias."""
        return self.groups * rank * (self.outputs + self.inputs)


class LowRankLinear(nn.Module):
    """y = second(first(x)): [..., inputs] -> [..., rank] -> [..., outputs]."""

    def __init__(self, whole: nn.Linear, rank: int) -> None:
        super().__init__()
        place = {"device": whole.weight.device, "dtype": whole.weight.dtype}
        self.first = nn.Linear(whole.in_features, rank, bias=False, **place)
        self.second = nn.Linear(rank, whole.out_features, bias=whole.bias is not None, **place)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


class LowRankConv(nn.Module):
    """y = second(first(x)): [N, inputs, ...] -> [N, groups * rank, ...] -> [N, outputs, ...], in one or two dimensions."""

    def __init__(self, whole: nn.Conv1d | nn.Conv2d, rank: int) -> None:
        super().__init__()
        convolution: Any = nn.Conv1d if isinstance(whole, nn.Conv1d) else nn.Conv2d
        inner, groups = whole.groups * rank, whole.groups
        place = {"device": whole.weight.device, "dtype": whole.weight.dtype}
        self.first = convolution(
            whole.in_channels,
            inner,
            whole.kernel_size,
            stride=whole.stride,
            padding=whole.padding,
            dilation=whole.dilation,
            padding_mode=whole.padding_mode,
            groups=groups,
            bias=False,
            **place,
        )
        self.second = convolution(inner, whole.out_channels, 1, groups=groups, bias=whole.bias is not None, **place)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


def matrices(module: Factorable) -> Tensor:
    """A layer's weight as [groups, outputs, inputs], inputs counting those of one group times the kernel."""
    groups = 1 if isinstance(module, nn.Linear) else module.groups
    return module.weight.detach().unflatten(0, (groups, -1)).flatten(2)


def matrix_of(module: Factorable) -> Matrix:
    """Shape of a layer's matrices."""
    groups, outputs, inputs = matrices(module).shape
    return Matrix(outputs, inputs, groups)


def candidates(model: nn.Module, kernels: bool = False) -> dict[str, Matrix]:
    """Path of each layer for which some rank saves parameters -> the shape of its matrix.

    Args:
        kernels: also convolutions with kernels larger than 1, unfolded.
    """
    found = {}
    for path, module in model.named_modules():
        if not isinstance(module, FACTORABLE) or module is model:
            continue
        unfolds = not isinstance(module, nn.Linear) and math.prod(module.kernel_size) > 1
        if (kernels or not unfolds) and matrix_of(module).break_even > 1:
            found[path] = matrix_of(module)
    return found


def factorise(model: nn.Module, ranks: Mapping[str, int]) -> None:
    """Replace layers by two fresh factors each, in place; the model keeps its other weights.

    Args:
        ranks: path -> rank, which is obeyed also where it saves nothing.

    Raises InputError for a path without such a layer and for a rank that its matrix cannot have.
    """
    for path, rank in ranks.items():
        whole = _layer(model, path)
        full = matrix_of(whole).full_rank
        if not 1 <= rank <= full:
            raise InputError("a layer cannot have this rank", where=path, found=rank, expected=f"1 to {full}")
        low = LowRankLinear(whole, rank) if isinstance(whole, nn.Linear) else LowRankConv(whole, rank)
        replace_module(model, path, low.train(whole.training))


def decompose(model: nn.Module, ranks: Mapping[str, int]) -> nn.Module:
    """A copy whose layers of ``ranks`` are the best approximations of their rank (Eckart-Young), computed in float64."""
    low = copy.deepcopy(model)
    factorise(low, ranks)
    with torch.no_grad():
        for path, rank in ranks.items():
            whole, factors = _layer(model, path), low.get_submodule(path)
            first, second = truncated_svd(matrices(whole), rank)
            _set(factors.first, first)
            _set(factors.second, second)
            if whole.bias is not None:
                _set(factors.second, whole.bias, "bias")
    return low


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """[..., outputs, inputs] -> √S_k V_kᵀ [..., rank, inputs] and U_k √S_k [..., outputs, rank], in float64."""
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = s[..., :rank].sqrt()
    return root[..., :, None] * vt[..., :rank, :], u[..., :, :rank] * root[..., None, :]


def energies(model: nn.Module, kernels: bool = False) -> dict[str, Tensor]:
    """Path of each candidate -> energy of each rank: s_i², summed over groups, largest first; float64 [full rank]."""
    return {
        path: torch.linalg.svdvals(matrices(_layer(model, path)).double()).square().sum(0).cpu()
        for path in candidates(model, kernels)
    }


def relative_errors(model: nn.Module, ranks: Mapping[str, int]) -> dict[str, float]:
    """Path -> Frobenius norm of what a layer's matrix loses at its rank, relative to the matrix's."""
    errors = {}
    for path, rank in ranks.items():
        squares = torch.linalg.svdvals(matrices(_layer(model, path)).double()).square()
        errors[path] = float((squares[:, rank:].sum() / squares.sum().clamp(min=torch.finfo(torch.float64).tiny)).sqrt())
    return errors


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of the one at ``path``."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _layer(model: nn.Module, path: str) -> Factorable:
    module = dict(model.named_modules()).get(path)
    if not isinstance(module, FACTORABLE) or module is model:
        raise InputError(
            "there is no layer of this name to factorise", where=path, expected="the path of a linear layer or convolution"
        )
    return module


def _set(module: Any, value: Tensor, name: str = "weight") -> None:
    parameter: Tensor = module.get_parameter(name)
    parameter.copy_(value.reshape(parameter.shape))
