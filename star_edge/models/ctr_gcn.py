"""CTR-GCN: each channel refines the skeleton's topology for the clip it sees (Chen et al., arXiv 2107.12213).

N counts persons of all clips, T frames, V joints.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_edge.models.blocks import Block, BlockModel, DrawnConvolution, Make, brought, draw
from star_edge.models.config import PaddedConfig
from star_edge.models.skeleton_graph import inward_outward

_KERNEL = 5
_DILATIONS = (1, 2)


class CtrGcn(BlockModel):
    """``dim`` is a multiple of four; the input's statistics are per person."""

    def __init__(self, config: PaddedConfig) -> None:
        super().__init__(config, block_of(config), together=True)
        nn.init.normal_(self.output.weight, std=math.sqrt(2 / config.classes))


def block_of(config: PaddedConfig) -> Make:
    """Makes the blocks: channel-wise topologies, then frames at several scales."""
    # a joint takes the sum of its children and a share of its parent: the authors gather along rows what they norm by columns
    graph = torch.from_numpy(inward_outward(config.bones, config.joints)[[0, 2, 1]])

    def make(before: int, after: int, stride: int, residual: bool) -> Block:
        spatial, temporal = TopologyRefinement(before, after, graph), DilatedTemporalConvolution(after, stride)
        return Block(spatial, temporal, brought(before, after, stride, DrawnConvolution) if residual else None)

    return make


class TopologyRefinement(nn.Module):
    """x [N, C, T, V] -> [N, D, T, V]: ReLU(BN(sum_k R_k (W_k x)) + x), section 3.2 of the paper.

    Each channel gathers along its own topology R_k, see :meth:`topologies`. Where the width changes, x comes to it by a 1x1
    convolution with BatchNorm. Initialised as the authors do, like all that follows.
    """

    def __init__(self, before: int, after: int, graph: Tensor) -> None:
        super().__init__()
        self.partitions, embedded = graph.shape[0], max(8, before // 8)
        self.graph = nn.Parameter(graph.clone())
        self.alpha = nn.Parameter(torch.zeros(1))
        self.embedding = nn.Conv1d(before, 2 * self.partitions * embedded, 1)
        self.refinement = nn.Conv2d(self.partitions * embedded, self.partitions * after, 1, groups=self.partitions)
        self.values = nn.Conv2d(before, self.partitions * after, 1)
        self.norm = nn.BatchNorm2d(after)
        self.down = brought(before, after, convolution=DrawnConvolution)

        draw(self.embedding, std=math.sqrt(2 / embedded))  # He's, of each partition by itself
        draw(self.refinement, std=math.sqrt(2 / after))
        draw(self.values, std=math.sqrt(2 / after))
        nn.init.constant_(self.norm.weight, 1e-6)  # at first a block hands on its input

    def forward(self, x: Tensor) -> Tensor:
        values = self.values(x).unflatten(1, (self.partitions, -1))
        gathered = (values @ self.topologies(x).transpose(-1, -2)).sum(1)
        return F.relu(self.norm(gathered) + self.down(x))

    def topologies(self, x: Tensor) -> Tensor:
        """R_k = A_k + alpha Q_k, equation 6, [N, K, D, V, V]: joint u (row) gathers from v.

        Q_k = L_k(tanh(a_k[u] - b_k[v])), equation 2: a and b are two embeddings of x's mean over frames, and L_k a linear map from
        their channels to D; A_k starts as partition k of the skeleton and is learned.
        """
        a, b = self.embedding(x.mean(2)).unflatten(1, (2, -1)).unbind(1)
        own = self.refinement(torch.tanh(a[..., :, None] - b[..., None, :])).unflatten(1, (self.partitions, -1))
        return self.graph[:, None] + self.alpha * own


class DilatedTemporalConvolution(nn.Module):
    """x [N, D, T, V] -> [N, D, ceil(T / stride), V]: four branches share the channels, section 3.4 of the paper.

    Convolutions of five frames, dilated by 1 and 2, a maximum of three frames, and a 1x1 convolution. BatchNorm ends each.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.narrow = channels // (len(_DILATIONS) + 2)
        reduced = (len(_DILATIONS) + 1) * self.narrow
        reduced_norm = nn.BatchNorm2d(reduced)
        self.reduce = nn.Sequential(nn.Conv2d(channels, reduced, 1), reduced_norm, nn.ReLU())
        self.dilated = nn.ModuleList(
            nn.Conv2d(self.narrow, self.narrow, (_KERNEL, 1), stride=(stride, 1), padding=(reach, 0), dilation=(dilation, 1))
            for dilation, reach in ((dilation, dilation * (_KERNEL // 2)) for dilation in _DILATIONS)
        )
        self.maximum = nn.MaxPool2d((3, 1), stride=(stride, 1), padding=(1, 0))
        self.point = nn.Conv2d(channels, self.narrow, 1, stride=(stride, 1))
        self.norm = nn.BatchNorm2d(channels)

        convolutions = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d)]
        for layer in convolutions:
            draw(layer, std=math.sqrt(2 / (self.narrow * layer.kernel_size[0])))
        for norm in (reduced_norm, self.norm):
            nn.init.normal_(norm.weight, mean=1, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        *parts, last = self.reduce(x).split(self.narrow, 1)
        branches = [convolution(part) for convolution, part in zip(self.dilated, parts, strict=True)]
        normed: Tensor = self.norm(torch.cat([*branches, self.maximum(last), self.point(x)], 1))
        return normed
