"""ST-GCN: convolutions over a skeleton's neighbours, then over frames (Yan et al., arXiv 1801.07455).

N counts persons of all clips, T frames, V joints, K partitions of a joint's neighbours. The partitions are the paper's: the
authors' code measures distances to the centre no farther than one bone, so that it tells nearer from farther neighbours there alone.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from star_edge.models.blocks import Block, BlockModel, Convolution, brought, draw
from star_edge.models.config import PaddedConfig
from star_edge.models.skeleton_graph import hops, spatial_partitions

_KERNEL = 9


class StGcn(BlockModel):
    """Every joint of a layout shares its weights. Dropout ends each block but the first."""

    def __init__(self, config: PaddedConfig) -> None:
        partitions = torch.from_numpy(spatial_partitions(config.bones, config.joints, middle(config)))
        super().__init__(config, functools.partial(PartitionedBlock, partitions=partitions, dropout=config.dropout))
        self.dropout = nn.Dropout(0)  # theirs is in the blocks
        self.apply(_initialise)


class PartitionedBlock(Block):
    """A spatial and a temporal convolution: x [N, C, T, V] -> [N, D, ceil(T / stride), V].

    ``importance`` [K, V, V] is the paper's learnable edge importance weighting.
    """

    partitions: Tensor

    def __init__(self, before: int, after: int, stride: int, residual: bool, partitions: Tensor, dropout: float) -> None:
        spatial = PartitionedConvolution(before, after, len(partitions))
        temporal = nn.Sequential(
            nn.BatchNorm2d(after),
            nn.ReLU(),
            *Convolution(after, after, _KERNEL, stride),
            nn.Dropout(dropout if residual else 0.0),
        )
        super().__init__(spatial, temporal, brought(before, after, stride) if residual else None)
        self.register_buffer("partitions", partitions, persistent=False)
        self.importance = nn.Parameter(torch.ones_like(partitions))

    def forward(self, x: Tensor) -> Tensor:
        return self.added(x, self.temporal(self.spatial(x, self.partitions * self.importance)))


class PartitionedConvolution(nn.Module):
    """x [N, C, T, V], graph [K, V, V] -> [N, D, T, V]: sum_k (W_k x) A_k, the paper's ST-GCN with several subsets.

    Joint w (column of A_k) gathers from v (row). The partitions lie side by side, so that one product sums over them as well.
    """

    def __init__(self, before: int, after: int, partitions: int, bias: bool = True) -> None:
        super().__init__()
        self.partitions = partitions
        self.values = nn.Conv2d(before, partitions * after, 1, bias=bias)

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        values = self.values(x).unflatten(1, (self.partitions, -1))  # [N, K, D, T, V]
        return values.permute(0, 2, 3, 1, 4).flatten(3) @ graph.flatten(0, 1)


def middle(config: PaddedConfig) -> int:
    """The joint with the fewest bones to all others: for ``ntu25`` and ``openpose18`` the authors' centre."""
    return int(hops(config.bones, config.joints).sum(0).argmin())


def _initialise(module: nn.Module) -> None:
    """As the authors do; the classifier is a 1x1 convolution of theirs."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        draw(module, std=0.02)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        nn.init.normal_(module.weight, mean=1, std=0.02)
