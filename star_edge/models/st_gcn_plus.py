"""ST-GCN++: learned graphs, and frames at several scales (Duan et al., PYSKL, arXiv 2205.09443).

N counts persons of all clips, T frames, V joints, K partitions of a joint's neighbours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_edge.models.config import PaddedConfig
from star_edge.models.padded import PaddedModel
from star_edge.models.skeleton_graph import inward_outward
from star_edge.models.st_gcn import GROWTH, PartitionedConvolution, PointConvolution, residual_of, shapes

_KERNEL = 3
_DILATIONS = (1, 2, 3, 4)


class StGcnPlus(PaddedModel):
    """Ten blocks, 64 to 256 channels wide, or as ``config.growth`` says.

    Blocks keep their frames but for those that widen, which halve them (rounded up).
    """

    def __init__(self, config: PaddedConfig) -> None:
        growth = config.growth or GROWTH
        super().__init__(config, width=growth[-1] * config.dim)
        # the authors' order: each joint itself, its parent, its children
        graph = torch.from_numpy(inward_outward(config.bones, config.joints)[[0, 2, 1]])
        self.blocks = nn.Sequential()
        for i, (before, after, stride) in enumerate(shapes(config, growth)):
            self.blocks.append(Block(before, after, graph, stride, residual=i > 0))
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)

    def encode(self, x: Tensor) -> Tensor:
        """x [N, C, T, V] -> [N, 4 * dim, ceil(T / 4), V]."""
        encoded: Tensor = self.blocks(x)
        return encoded


class Block(nn.Module):
    """A spatial and a temporal layer: x [N, C, T, V] -> [N, D, ceil(T / stride), V]."""

    def __init__(self, before: int, after: int, graph: Tensor, stride: int, residual: bool) -> None:
        super().__init__()
        self.spatial = LearnedGraphConvolution(before, after, graph)
        self.temporal = MultiScaleTemporalConvolution(after, stride)
        self.residual = residual_of(before, after, stride) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.temporal(self.spatial(x))
        return F.relu(y if self.residual is None else y + self.residual(x))


class LearnedGraphConvolution(nn.Module):
    """x [N, C, T, V] -> [N, D, T, V]: ReLU(BN(sum_k (W_k x) A_k) + x).

    A_k [V, V] starts as partition k of the skeleton and is learned. Where the width changes, x comes to it by a 1x1 convolution
    with BatchNorm.
    """

    def __init__(self, before: int, after: int, graph: Tensor) -> None:
        super().__init__()
        self.graph = nn.Parameter(graph.clone())
        self.gather = PartitionedConvolution(before, after, len(graph))
        self.norm = nn.BatchNorm2d(after)
        self.down = nn.Identity() if before == after else PointConvolution(before, after)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.gather(x, self.graph)) + self.down(x))


class MultiScaleTemporalConvolution(nn.Module):
    """x [N, D, T, V] -> [N, D, ceil(T / stride), V].

    Six branches share the channels: four convolutions of three frames, dilated by 1 to 4, a maximum of three frames, and a 1x1
    convolution; the first also takes the remainder. A 1x1 convolution mixes all.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        narrow = channels // (len(_DILATIONS) + 2)
        widths = [channels - (len(_DILATIONS) + 1) * narrow] + len(_DILATIONS) * [narrow]
        self.widths = widths  # of all branches but the last, which all begin with a 1x1 convolution: here in one
        self.reduce = nn.Sequential(*PointConvolution(channels, sum(widths)), nn.ReLU())
        self.dilated = nn.ModuleList(
            nn.Conv2d(width, width, (_KERNEL, 1), stride=(stride, 1), padding=(dilation, 0), dilation=(dilation, 1))
            for dilation, width in zip(_DILATIONS, widths[:-1], strict=True)
        )
        self.maximum = nn.MaxPool2d((_KERNEL, 1), stride=(stride, 1), padding=(1, 0))
        self.point = nn.Conv2d(channels, narrow, 1, stride=(stride, 1))
        self.norm = nn.BatchNorm2d(channels)
        self.mix = PointConvolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        *parts, last = self.reduce(x).split(self.widths, 1)
        branches = [convolution(part) for convolution, part in zip(self.dilated, parts, strict=True)]
        y = torch.cat([*branches, self.maximum(last), self.point(x)], 1)
        mixed: Tensor = self.mix(F.relu(self.norm(y)))
        return mixed
