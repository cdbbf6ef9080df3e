"""AAGCN: graphs that adapt to the clip, and attention to joints, frames and channels (Shi et al., arXiv 1912.06971).

N counts persons of all clips, T frames, V joints.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_edge.models.config import PaddedConfig
from star_edge.models.padded import PaddedModel
from star_edge.models.skeleton_graph import inward_outward

_GROWTH = (1, 1, 1, 1, 2, 2, 2, 4, 4, 4)  # of each block's width, against the first's; where it grows, frames halve


class Aagcn(PaddedModel):
    """One stream of MS-AAGCN: ten blocks, 64 to 256 channels wide; its input's statistics are per person.

    Blocks keep their frames but for the fifth and the eighth, which halve them (rounded up).
    """

    def __init__(self, config: PaddedConfig) -> None:
        super().__init__(config, width=_GROWTH[-1] * config.dim, together=True)
        graph = torch.from_numpy(inward_outward(config.bones, config.joints))
        widths = [self.coordinates] + [growth * config.dim for growth in _GROWTH]
        self.blocks = nn.Sequential()
        for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            stride = 2 if i > 0 and after != before else 1
            self.blocks.append(Block(before, after, graph, stride, residual=i > 0))
        nn.init.normal_(self.output.weight, std=math.sqrt(2 / config.classes))

    def encode(self, x: Tensor) -> Tensor:
        """x [N, C, T, V] -> [N, 4 * dim, ceil(T / 4), V]."""
        encoded: Tensor = self.blocks(x)
        return encoded


class Block(nn.Module):
    """A spatial and a temporal convolution with attention between them: x [N, C, T, V] -> [N, D, ceil(T / stride), V]."""

    def __init__(self, before: int, after: int, graph: Tensor, stride: int, residual: bool) -> None:
        super().__init__()
        self.spatial = AdaptiveGraphConvolution(before, after, graph)
        self.attention = Attention(after, graph.shape[-1])
        self.temporal = TemporalConvolution(after, after, kernel=9, stride=stride)
        self.residual: nn.Module | None = None
        if residual:
            same = before == after and stride == 1
            self.residual = nn.Identity() if same else TemporalConvolution(before, after, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.temporal(self.attention(self.spatial(x)))
        return F.relu(y if self.residual is None else y + self.residual(x))


class AdaptiveGraphConvolution(nn.Module):
    """x [N, C, T, V] -> [N, D, T, V]: ReLU(BN(sum_k W_k x (B_k + alpha C_k)) + x), equation 4 of the paper.

    B_k [V, V] starts as partition k of the skeleton and is learned; C_k is the clip's own, see :meth:`graphs`. Where the width
    changes, x comes to it by a 1x1 convolution with BatchNorm. Initialised as the authors do, like all that follows.
    """

    def __init__(self, before: int, after: int, graph: Tensor) -> None:
        super().__init__()
        self.partitions, self.embedded = graph.shape[0], after // 4
        self.graph = nn.Parameter(graph.clone())
        self.alpha = nn.Parameter(torch.zeros(1))
        self.embedding = nn.Conv2d(before, 2 * self.partitions * self.embedded, 1)
        # the three W_k side by side; the authors give each a bias, of which only the sum counts
        self.values = nn.Conv2d(self.partitions * before, after, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.partitions, after))
        self.norm = nn.BatchNorm2d(after)
        self.down = nn.Identity() if before == after else TemporalConvolution(before, after)

        _draw(self.embedding, std=math.sqrt(2 / self.embedded))  # He's, of each embedding by itself
        nn.init.normal_(self.values.weight, std=math.sqrt(2 / self.values.weight.numel()))
        nn.init.constant_(self.norm.weight, 1e-6)  # at first a block hands on its input

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        gathered = x.flatten(1, 2)[:, None] @ self.graphs(x)  # [N, K, C * T, V]
        gathered = gathered.unflatten(2, (channels, -1)).flatten(1, 2)  # [N, K * C, T, V]
        y = self.values(gathered) + self.bias.sum(0)[:, None, None]
        return F.relu(self.norm(y) + self.down(x))

    def graphs(self, x: Tensor) -> Tensor:
        """B_k + alpha C_k, [N, K, V, V]; C_k = tanh(a_k^T b_k / (E T)), with a and b of E channels, compares joints."""
        a, b = self.embedding(x).unflatten(1, (2, self.partitions, self.embedded)).flatten(3, 4).unbind(1)
        scale = (self.embedded * x.shape[2]) ** -0.5  # on both sides of the product, which fp16 could not hold
        return self.graph + self.alpha * torch.tanh((a * scale).transpose(-1, -2) @ (b * scale))


class Attention(nn.Module):
    """Attention to joints, then frames, then channels: y [N, D, T, V] -> the same; figure 4 of the paper.

    Each multiplies y by one plus a sigmoid of what y's means over the other axes say.
    """

    def __init__(self, channels: int, joints: int) -> None:
        super().__init__()
        kernel = joints - 1 + joints % 2  # the largest odd one, which leaves as many joints as there were
        self.joints = nn.Conv1d(channels, 1, kernel, padding=kernel // 2)
        self.frames = nn.Conv1d(channels, 1, 9, padding=4)
        self.squeeze = nn.Linear(channels, channels // 2)
        self.channels = nn.Linear(channels // 2, channels)
        _draw(self.joints, std=math.sqrt(2 / ((channels + 1) * kernel)))  # Glorot's
        _draw(self.squeeze, std=math.sqrt(2 / channels))  # He's
        for layer in (self.frames, self.channels):  # at first all weigh the same
            _draw(layer, std=0)

    def forward(self, y: Tensor) -> Tensor:
        y = y * (1 + torch.sigmoid(self.joints(y.mean(2)))[:, :, None])
        y = y * (1 + torch.sigmoid(self.frames(y.mean(3)))[..., None])
        return y * (1 + torch.sigmoid(self.channels(F.relu(self.squeeze(y.mean((2, 3))))))[..., None, None])


class TemporalConvolution(nn.Sequential):
    """Convolution over frames and BatchNorm: x [N, C, T, V] -> [N, D, ceil(T / stride), V]."""

    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1) -> None:
        convolution = nn.Conv2d(before, after, (kernel, 1), stride=(stride, 1), padding=(kernel // 2, 0))
        _draw(convolution, std=math.sqrt(2 / (after * kernel)))  # He's, by the outputs that an input reaches
        super().__init__(convolution, nn.BatchNorm2d(after))


def _draw(layer: nn.Conv1d | nn.Conv2d | nn.Linear, std: float) -> None:
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
