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
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from runtime.errors import InputError

Factorable: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d
FACTORABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)
Moments: TypeAlias = Mapping[str, Tensor]

_DAMPING = 1e-6  # of the mean of the moments' diagonal


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
    weight: Tensor = module.weight.detach()
    return weight.reshape(groups, len(weight) // groups, -1)


def matrix_of(module: Factorable) -> Matrix:
    """Shape of a layer's matrices."""
    groups, outputs, inputs = matrices(module).shape
    return Matrix(outputs, inputs, groups)


def candidates(model: nn.Module, kernels: bool = False, excluded: Collection[str] = ("output",)) -> dict[str, Matrix]:
    """Path of each layer for which some rank saves parameters -> the shape of its matrix.

    Args:
        kernels: also convolutions with kernels larger than 1, unfolded.
        excluded: names that keep a layer out, anywhere in its path; default: the classifier.
    """
    found = {}
    for path, module in model.named_modules():
        if not isinstance(module, FACTORABLE) or module is model or set(path.split(".")) & set(excluded):
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


def decompose(model: nn.Module, ranks: Mapping[str, int], moments: Moments | None = None) -> nn.Module:
    """A copy whose layers of ``ranks`` are the best approximations of their rank, computed in float64.

    Args:
        moments: of the layers' inputs (:func:`input_moments`). With them the error of the outputs is the least, |(W - W_k) X|;
            else that of the weights, |W - W_k| (Eckart-Young), as in LORTSAR.
    """
    low = copy.deepcopy(model)
    factorise(low, ranks)
    with torch.no_grad():
        for path, rank in ranks.items():
            whole, factors = _layer(model, path), low.get_submodule(path)
            first, second = truncated_svd(matrices(whole), rank, _root(path, moments))
            _set(factors.first, first)
            _set(factors.second, second)
            if whole.bias is not None:
                _set(factors.second, whole.bias, "bias")
    return low


def truncated_svd(matrix: Tensor, rank: int, root: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """[..., outputs, inputs] -> √S_k V_kᵀ [..., rank, inputs] and U_k √S_k [..., outputs, rank], in float64.

    Args:
        root: lower triangular L [..., inputs, inputs] with L Lᵀ the second moments of the inputs: then U S Vᵀ is that of W L, and
            the first factor has L taken out again.
    """
    weighted = matrix.double() if root is None else matrix.double() @ root
    u, s, vt = torch.linalg.svd(weighted, full_matrices=False)
    scale = s[..., :rank].sqrt()
    first, second = scale[..., :, None] * vt[..., :rank, :], u[..., :, :rank] * scale[..., None, :]
    if root is not None:
        first = torch.linalg.solve_triangular(root, first, upper=False, left=False)
    return first, second


def energies(model: nn.Module, paths: Iterable[str], moments: Moments | None = None) -> dict[str, Tensor]:
    """Path of each layer -> energy of each rank: s_i², summed over groups, largest first; float64 [full rank].

    The squared singular values are those of the weights, or where there are ``moments`` those of the outputs.
    """
    return {path: _squares(model, path, moments).sum(0).cpu() for path in paths}


def relative_errors(model: nn.Module, ranks: Mapping[str, int], moments: Moments | None = None) -> dict[str, float]:
    """Path -> what a layer's matrix (its outputs, where there are ``moments``) loses at its rank, as Frobenius norms' ratio."""
    errors = {}
    for path, rank in ranks.items():
        squares = _squares(model, path, moments)
        errors[path] = float((squares[:, rank:].sum() / squares.sum().clamp(min=torch.finfo(torch.float64).tiny)).sqrt())
    return errors


@torch.no_grad()
def input_moments(model: nn.Module, batches: Iterable[Sequence[Tensor]]) -> dict[str, Tensor]:
    """Path of each linear layer and convolution -> Σ x xᵀ over its inputs, float64 [groups, inputs, inputs].

    Args:
        batches: arguments of the model's calls, on clips it was trained with.
    """
    layers = {path: module for path, module in model.named_modules() if isinstance(module, FACTORABLE)}
    moments: dict[str, Tensor] = {}

    def add(path: str, module: Factorable, x: Tensor) -> None:
        rows = _input_rows(module, x.detach()).double()
        moments[path] = moments.get(path, 0) + rows.mT @ rows

    handles = [
        module.register_forward_pre_hook(lambda module, inputs, path=path: add(path, module, inputs[0]))
        for path, module in layers.items()
    ]
    try:
        for batch in batches:
            model(*batch)
    finally:
        for handle in handles:
            handle.remove()
    return moments


def _input_rows(module: Factorable, x: Tensor) -> Tensor:
    """What each output position is a product with: [groups, positions, inputs], in the order of :func:`matrices`."""
    if isinstance(module, nn.Linear):
        return x.flatten(0, -2)[None]
    # a convolution over one axis is one over two, of which the first has one place
    two = isinstance(module, nn.Conv2d)
    x = x if two else x[:, :, None]
    kernel, dilation, stride = (each if two else (1, *each) for each in (module.kernel_size, module.dilation, module.stride))
    padding: Any = module.padding if two else (0, *module.padding)
    columns = nn.functional.unfold(x, kernel, dilation, padding, stride)  # [N, C * kernel, positions]
    return columns.view(len(x), module.groups, -1, columns.shape[-1]).permute(1, 0, 3, 2).flatten(1, 2)


def _root(path: str, moments: Moments | None) -> Tensor | None:
    """Lower triangular root of a layer's moments; a little is added to them, because inputs may depend on each other."""
    if moments is None:
        return None
    moment = moments[path]
    mean = moment.diagonal(dim1=-2, dim2=-1).mean(-1)
    mean = torch.where(mean > 0, mean, 1.0)  # of inputs that are all zero, any
    damping = _DAMPING * mean[:, None, None] * torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
    root: Tensor = torch.linalg.cholesky(moment + damping)
    return root


def _squares(model: nn.Module, path: str, moments: Moments | None) -> Tensor:
    """Squared singular values of a layer's matrices, or of their outputs: [groups, full rank]."""
    root, matrix = _root(path, moments), matrices(_layer(model, path)).double()
    values: Tensor = torch.linalg.svdvals(matrix if root is None else matrix @ root)
    return values.square()


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
