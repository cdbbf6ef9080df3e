"""STAR on torch-scatter and torch-sparse, the kernels the paper was written with: the baseline of ``star-edge bench``.

Importing this module without the ``[pyg]`` extra raises MissingDependencyError.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from runtime.errors import MissingDependencyError
from star_edge.models.star import Star, StarConfig

try:
    from star_edge.ops.context_attention.pyg import context_attention
    from star_edge.ops.segmented_linear_attention.pyg import segmented_linear_attention
    from star_edge.ops.segmented_positions.pyg import segmented_positions
    from star_edge.ops.sparse_attention.pyg import sparse_attention
except (ImportError, OSError):  # OSError: a build for another torch
    raise MissingDependencyError("torch-scatter and torch-sparse for this torch", "pyg", "The paper's scatter form") from None


class Positions(nn.Module):
    """StarSegmentedPositions."""

    def forward(self, x: Tensor, cu_seqlens: Tensor) -> Tensor:
        return segmented_positions(x, cu_seqlens)


class SpatialAttention(nn.Module):
    """StarSparseAttention over an edge list."""

    edges: Tensor

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.register_buffer("edges", torch.tensor(config.edges, dtype=torch.int64).T.contiguous(), persistent=False)

    def forward(self, qkv: Tensor, cu_seqlens: Tensor) -> Tensor:
        return sparse_attention(qkv, self.edges, self.heads)


class TemporalAttention(nn.Module):
    """StarSegmentedLinearAttention."""

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        self.heads = config.heads

    def forward(self, qkv: Tensor, cu_seqlens: Tensor) -> Tensor:
        return segmented_linear_attention(qkv, cu_seqlens, self.heads)


class ContextAttention(nn.Module):
    """StarContextAttention."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor, cu_seqlens: Tensor) -> Tensor:
        return context_attention(x, self.weight, cu_seqlens)


def pyg_star(model: Star) -> Star:
    """A copy of a model, in eval mode, whose four ops run in the paper's scatter form; state-dict names stay the same."""
    model = copy.deepcopy(model).eval()
    config = model.config
    replacements: dict[str, nn.Module] = {"positions": Positions(), "context": ContextAttention(model.context.weight)}
    for layer in range(config.layers):
        replacements[f"layers.{layer}.spatial.attention"] = SpatialAttention(config)
        replacements[f"layers.{layer}.temporal.attention"] = TemporalAttention(config)
    for path, module in replacements.items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module)
    return model
