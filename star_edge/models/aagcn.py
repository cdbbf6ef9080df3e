"""AAGCN: graphs that adapt to the clip, and attention to joints, frames and channels (Shi et al., arXiv 1912.06971).

N counts persons of all clips, T frames, V joints.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_edge.models.blocks import Block, BlockModel, DrawnConvolution, brought, draw
from star_edge.models.config import PaddedConfig
from star_edge.models.skeleton_graph import inward_outward


class Aagcn(BlockModel):
    """One stream of MS-AAGCN; its input's statistics are per person."""

    def __init__(self, config: PaddedConfig) -> None:
        graph = torch.from_numpy(inward_outward(config.bones, config.joints))
        super().__init__(config, functools.partial(AttentiveBlock, graph=graph), together=True)
        nn.init.normal_(self.output.weight, std=math.sqrt(2 / config.classes))


class AttentiveBlock(Block):
    """A spatial and a temporal convolution with attention between them: x [N, C, T, V] -> [N, D, ceil(T / stride), V]."""

    def __init__(self, before: int, after: int, stride: int, residual: bool, graph: Tensor) -> None:
        super().__init__(
            AdaptiveGraphConvolution(before, after, graph),
            DrawnConvolution(after, after, kernel=9, stride=stride),
            brought(before, after, stride, DrawnConvolution) if residual else None,
        )
        self.attention = Attention(after, graph.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.added(x, self.temporal(self.attention(self.spatial(x))))


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
        self.down = brought(before, after, convolution=DrawnConvolution)

        draw(self.embedding, std=math.sqrt(2 / self.embedded))  # He's, of each embedding by itself
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
        self.activation = nn.ReLU()
        self.channels = nn.Linear(channels // 2, channels)
        draw(self.joints, std=math.sqrt(2 / ((channels + 1) * kernel)))  # Glorot's
        draw(self.squeeze, std=math.sqrt(2 / channels))  # He's
        for layer in (self.frames, self.channels):  # at first all weigh the same
            draw(layer, std=0)

    def forward(self, y: Tensor) -> Tensor:
        y = y * (1 + torch.sigmoid(self.joints(y.mean(2)))[:, :, None])
        y = y * (1 + torch.sigmoid(self.frames(y.mean(3)))[..., None])
        return y * (1 + torch.sigmoid(self.channels(self.activation(self.squeeze(y.mean((2, 3))))))[..., None, None])
