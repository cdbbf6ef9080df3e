"""DG-STGCN: learned graphs that know no skeleton, and joints fused with the whole (Duan et al., arXiv 2210.05895).

N counts persons of all clips, T frames, V joints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_edge.models.config import PaddedConfig
from star_edge.models.padded import PaddedModel, softmax

_GROWTH = (1, 1, 1, 1, 2, 2, 2, 4, 4, 4)  # of each block's width, against the first's; where it grows, frames halve
_GROUPS = 8  # K, graphs of a block
_DILATIONS = (1, 2, 3, 4)
_HALF = 6e4  # within fp16, which products of two embeddings can leave; of infinities softmax would make NaN


class DgStGcn(PaddedModel):
    """Ten blocks, 64 to 256 channels wide.

    They keep their frames but for the fifth and the eighth, which halve them (rounded up).
    """

    def __init__(self, config: PaddedConfig) -> None:
        super().__init__(config, width=_GROWTH[-1] * config.dim)
        widths = [self.coordinates] + [growth * config.dim for growth in _GROWTH]
        self.blocks = nn.Sequential()
        for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            stride = 2 if i > 0 and after != before else 1
            self.blocks.append(Block(before, after, config.joints, stride, residual=i > 0))
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)

    def encode(self, x: Tensor) -> Tensor:
        """x [N, C, T, V] -> [N, 4 * dim, ceil(T / 4), V]."""
        encoded: Tensor = self.blocks(x)
        return encoded


class Block(nn.Module):
    """DG-GCN, then DG-TCN, around both the block's input: x [N, C, T, V] -> [N, D, ceil(T / stride), V]."""

    def __init__(self, before: int, after: int, joints: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.spatial = DynamicGroupGcn(before, after, joints)
        self.temporal = DynamicGroupTcn(after, joints, stride)
        self.residual: nn.Module | None = None
        if residual:
            same = before == after and stride == 1
            self.residual = nn.Identity() if same else _convolution(before, after, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.temporal(self.spatial(x))
        return F.relu(y if self.residual is None else y + self.residual(x))


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
        self.values = nn.Sequential(*_convolution(before, inner), nn.ReLU())
        self.embedding = nn.Conv1d(before, 2 * inner, 1)
        self.mix = _convolution(inner, after)
        self.down = nn.Identity() if before == after else _convolution(before, after)

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


class DynamicGroupTcn(nn.Module):
    """DG-TCN, section 3.3 of the paper: x [N, D, T, V] -> [N, D, ceil(T / stride), V].

    The joints' mean joins them as joint V. Six branches share the channels: four convolutions of three frames, dilated by 1 to
    4, a maximum of three frames, and a 1x1 convolution; the first also takes the remainder. What they make of joint V is added
    to every joint in a learned share, and a 1x1 convolution mixes all.
    """

    def __init__(self, channels: int, joints: int, stride: int) -> None:
        super().__init__()
        narrow = channels // (len(_DILATIONS) + 2)
        widths = [channels - (len(_DILATIONS) + 1) * narrow] + len(_DILATIONS) * [narrow]  # but of the last branch
        self.widths = widths
        self.reduce = nn.Sequential(*_convolution(channels, sum(widths)), nn.ReLU())
        self.dilated = nn.ModuleList(
            nn.Conv2d(width, width, (3, 1), stride=(stride, 1), padding=(dilation, 0), dilation=(dilation, 1))
            for width, dilation in zip(widths[:-1], _DILATIONS, strict=True)
        )
        self.maximum = nn.MaxPool2d((3, 1), stride=(stride, 1), padding=(1, 0))
        self.point = nn.Conv2d(channels, narrow, 1, stride=(stride, 1))
        self.share = nn.Parameter(torch.zeros(joints))
        self.norm = nn.BatchNorm2d(channels)
        self.mix = _convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, x.mean(3, keepdim=True)], 3)
        *parts, last = self.reduce(x).split(self.widths, 1)
        branches = [convolution(part) for convolution, part in zip(self.dilated, parts, strict=True)]
        y = torch.cat([*branches, self.maximum(last), self.point(x)], 1)
        mixed: Tensor = self.mix(F.relu(self.norm(y[..., :-1] + y[..., -1:] * self.share)))
        return mixed


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """1x1 convolution over every stride-th frame, and BatchNorm."""
    return nn.Sequential(nn.Conv2d(before, after, 1, stride=(stride, 1)), nn.BatchNorm2d(after))
