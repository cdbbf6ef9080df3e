"""DG-STGCN: learned graphs that know no skeleton, and joints fused with the whole (Duan et al., arXiv 2210.05895).

N counts persons of all clips, T frames, V joints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_edge.models.blocks import Block, BlockModel, Convolution, MultiScaleTemporalConvolution, brought
from star_edge.models.config import PaddedConfig
from star_edge.models.padded import softmax

_GROUPS = 8  # K, graphs of a block
_HALF = 6e4  # within fp16, which products of two embeddings can leave; of infinities softmax would make NaN


class DgStGcn(BlockModel):
    """DG-GCN, then DG-TCN in each block."""

    def __init__(self, config: PaddedConfig) -> None:
        def make(before: int, after: int, stride: int, residual: bool) -> Block:
            spatial = DynamicGroupGcn(before, after, config.joints)
            temporal = DynamicGroupTcn(after, config.joints, stride)
            return Block(spatial, temporal, brought(before, after, stride) if residual else None)

        super().__init__(config, make)
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)


class DynamicGroupGcn(nn.Module):
    """DG-GCN, section 3.2 of the paper: x [N, C, T, V] -> [N, D, T, V].

    K groups of D / K channels: each channel's values (1x1 convolution, BatchNorm, ReLU) are gathered along its own graph, see
    :meth:`graphs`, and a 1x1 convolution mixes all. The input is added; where the width changes, it comes to it by a 1x1
    convolution with BatchNorm.
    """

    def __init__(self, before: int, after: int, joints: int) -> None:
        super().__init__()
        inner = _GROUPS * (after // _GROUPS)
        self.graph = nn.Parameter(torch.empty(_GROUPS, joints, joints).normal_(mean=0.04, std=0.02))
        self.alpha = nn.Parameter(torch.zeros(1))
        self.beta = nn.Parameter(torch.zeros(1))
        self.values = nn.Sequential(*Convolution(before, inner), nn.ReLU())
        self.embedding = nn.Conv1d(before, 2 * inner, 1)
        self.mix = Convolution(inner, after)
        self.down = brought(before, after)

    def forward(self, x: Tensor) -> Tensor:
        gathered = self.values(x) @ self.graphs(x).flatten(1, 2)
        return F.relu(self.mix(gathered) + self.down(x))

    def graphs(self, x: Tensor) -> Tensor:
        """A_k + alpha tanh(a_kc[v] - b_kc[w]) + beta softmax_v(a_k[v] . b_k[w]), [N, K, D / K, V, V].

        a and b are two embeddings of x's mean over frames. The first term is learned, the second each channel's own, the third
        shared by a group's channels; joint w gathers from v.
        """
        a, b = self.embedding(x.mean(2)).unflatten(1, (2, _GROUPS, -1)).unbind(1)
        own = torch.tanh(a[..., :, None] - b[..., None, :])
        alike = (a.transpose(-1, -2) @ b).clamp(-_HALF, _HALF)
        shared = self.graph + self.beta * softmax(alike, dim=-2)
        return shared[:, :, None] + self.alpha * own


class DynamicGroupTcn(MultiScaleTemporalConvolution):
    """DG-TCN, section 3.3 of the paper: x [N, D, T, V] -> [N, D, ceil(T / stride), V].

    The joints' mean joins them as joint V in ST-GCN++'s branches. What they make of it is added to every joint in a learned share,
    before all are mixed.
    """

    def __init__(self, channels: int, joints: int, stride: int) -> None:
        super().__init__(channels, stride)
        self.share = nn.Parameter(torch.zeros(joints))

    def forward(self, x: Tensor) -> Tensor:
        y = self.branches(torch.cat([x, x.mean(3, keepdim=True)], 3))
        return self.mixed(y[..., :-1] + y[..., -1:] * self.share)
