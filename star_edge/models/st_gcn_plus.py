"""ST-GCN++: learned graphs, and frames at several scales (Duan et al., PYSKL, arXiv 2205.09443).

N counts persons of all clips, T frames, V joints, K partitions of a joint's neighbours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_edge.models.blocks import Block, BlockModel, MultiScaleTemporalConvolution, brought
from star_edge.models.config import PaddedConfig
from star_edge.models.skeleton_graph import inward_outward
from star_edge.models.st_gcn import PartitionedConvolution


class StGcnPlus(BlockModel):
    """A learned graph, then frames at several scales in each block."""

    def __init__(self, config: PaddedConfig) -> None:
        # the authors' order: each joint itself, its parent, its children
        graph = torch.from_numpy(inward_outward(config.bones, config.joints)[[0, 2, 1]])

        def make(before: int, after: int, stride: int, residual: bool) -> Block:
            spatial, temporal = LearnedGraphConvolution(before, after, graph), MultiScaleTemporalConvolution(after, stride)
            return Block(spatial, temporal, brought(before, after, stride) if residual else None)

        super().__init__(config, make)
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)


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
        self.down = brought(before, after)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.gather(x, self.graph)) + self.down(x))
