"""ST-GCN: convolutions over a skeleton's neighbours, then over frames (Yan et al., arXiv 1801.07455).

N counts persons of all clips, T frames, V joints, K partitions of a joint's neighbours. The partitions are the paper's: the
authors' code measures distances to the centre no farther than one bone, so that it tells nearer from farther neighbours there alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_edge.models.config import PaddedConfig
from star_edge.models.ctr_gcn import draw
from star_edge.models.padded import PaddedModel
from star_edge.models.skeleton_graph import hops, spatial_partitions

GROWTH = (1, 1, 1, 1, 2, 2, 2, 4, 4, 4)  # of each block's width, against the first's; where it grows, frames halve
_KERNEL = 9


class StGcn(PaddedModel):
    """Ten blocks, 64 to 256 channels wide, or as ``config.growth`` says; every joint of a layout shares its weights.

    Blocks keep their frames but for those that widen, which halve them (rounded up). Dropout ends each block but the first.
    """

    def __init__(self, config: PaddedConfig) -> None:
        growth = config.growth or GROWTH
        super().__init__(config, width=growth[-1] * config.dim)
        partitions = torch.from_numpy(spatial_partitions(config.bones, config.joints, middle(config)))
        self.dropout = nn.Dropout(0)  # theirs is in the blocks
        self.blocks = nn.Sequential()
        for i, (before, after, stride) in enumerate(shapes(config, growth)):
            dropout = config.dropout if i > 0 else 0.0
            self.blocks.append(Block(before, after, partitions, stride, residual=i > 0, dropout=dropout))
        self.apply(_initialise)

    def encode(self, x: Tensor) -> Tensor:
        """x [N, C, T, V] -> [N, 4 * dim, ceil(T / 4), V]."""
        encoded: Tensor = self.blocks(x)
        return encoded


class Block(nn.Module):
    """A spatial and a temporal convolution: x [N, C, T, V] -> [N, D, ceil(T / stride), V].

    ``importance`` [K, V, V] is the paper's learnable edge importance weighting.
    """

    partitions: Tensor

    def __init__(self, before: int, after: int, partitions: Tensor, stride: int, residual: bool, dropout: float) -> None:
        super().__init__()
        self.register_buffer("partitions", partitions, persistent=False)
        self.importance = nn.Parameter(torch.ones_like(partitions))
        self.spatial = PartitionedConvolution(before, after, len(partitions))
        self.temporal = nn.Sequential(
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, (_KERNEL, 1), stride=(stride, 1), padding=(_KERNEL // 2, 0)),
            nn.BatchNorm2d(after),
            nn.Dropout(dropout),
        )
        self.residual = residual_of(before, after, stride) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.temporal(self.spatial(x, self.partitions * self.importance))
        return F.relu(y if self.residual is None else y + self.residual(x))


class PartitionedConvolution(nn.Module):
    """x [N, C, T, V], graph [K, V, V] -> [N, D, T, V]: sum_k (W_k x) A_k, the paper's ST-GCN with several subsets.

    Joint w (column of A_k) gathers from v (row). The partitions lie side by side, so that one product sums over them as well.
    """

    def __init__(self, before: int, after: int, partitions: int) -> None:
        super().__init__()
        self.partitions = partitions
        self.values = nn.Conv2d(before, partitions * after, 1)

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        values = self.values(x).unflatten(1, (self.partitions, -1))  # [N, K, D, T, V]
        return values.permute(0, 2, 3, 1, 4).flatten(3) @ graph.flatten(0, 1)


class PointConvolution(nn.Sequential):
    """1x1 convolution over every stride-th frame and BatchNorm: x [N, C, T, V] -> [N, D, ceil(T / stride), V]."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(before, after, 1, stride=(stride, 1)), nn.BatchNorm2d(after))


def residual_of(before: int, after: int, stride: int) -> nn.Module:
    """What a block adds to its output: its input, brought to the output's shape where that is another."""
    return nn.Identity() if before == after and stride == 1 else PointConvolution(before, after, stride)


def shapes(config: PaddedConfig, growth: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Channels before and after each block, and its stride: two where it widens what another block made."""
    before = config.channels - 1
    for i, factor in enumerate(growth):
        after = factor * config.dim
        yield before, after, 2 if i > 0 and after != before else 1
        before = after


def middle(config: PaddedConfig) -> int:
    """The joint with the fewest bones to all others: for ``ntu25`` and ``openpose18`` the authors' centre."""
    return int(hops(config.bones, config.joints).sum(0).argmin())


def _initialise(module: nn.Module) -> None:
    """As the authors do; the classifier is a 1x1 convolution of theirs."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        draw(module, std=0.02)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        nn.init.normal_(module.weight, mean=1, std=0.02)
