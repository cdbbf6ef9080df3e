"""ST-TR: self-attention over joints in one stream, over frames in another (Plizzari et al., arXiv 2012.06399).

N counts persons of all clips, T frames, V joints; C are the coordinates, D a block's channels.

The configuration is the one released for joints. Of what the authors' code can do besides, it has no relative positions, windows,
skeleton in the logits, adaptive graphs, or doubled widths for bones. Where theirs differs:

- it has a BatchNorm behind the blocks that nothing reads, 512 parameters of either stream;
- frames are halved by a convolution of two: it fails on an odd number of them, to which ours adds a frame of zeros, and for an even
  number of joints it reads every other frame alone;
- the streams of ST-TR are trained apart and their logits summed. Ours are one model with one loss, the sum with one bias.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.errors import InputError
from runtime.skeleton import bones_towards_root
from star_edge.models.blocks import GROWTH, Block, DrawnConvolution, brought, draw, shapes
from star_edge.models.config import PaddedConfig
from star_edge.models.padded import PaddedModel, softmax
from star_edge.models.skeleton_graph import inward_outward
from star_edge.models.st_gcn import PartitionedConvolution, middle

_KERNEL = 9
_HEADS = 8
_KEYS = 4  # a block's channels for each of its keys' channels

Axis = Literal["joints", "frames"]  # what a stream attends to


class Streams(PaddedModel):
    """Streams over the same clips; ``dim`` is a multiple of four, and the input's statistics are per person and stream.

    Their mean outputs stand side by side in front of the classifier, which so sums the logits of each.
    """

    def __init__(self, config: PaddedConfig, *attended: Axis) -> None:
        width = (config.growth or GROWTH)[-1] * config.dim
        super().__init__(config, width=len(attended) * width, together=True)
        self.streams = nn.ModuleList(Stream(config, axis) for axis in attended)
        self.input_norm = nn.BatchNorm1d(len(attended) * self.input_norm.num_features)
        self.dropout = nn.Dropout(0)  # theirs is in the blocks
        nn.init.normal_(self.output.weight, std=math.sqrt(2 / config.classes))

    def normalised(self, x: Tensor) -> Tensor:
        """x [B, M, T, V, C] -> [B * M, (S + 1) * C, T, V]: normalised for each of S streams, and as it came."""
        raw = x.flatten(0, 1).permute(0, 3, 1, 2)
        return torch.cat([super().normalised(torch.cat(len(self.streams) * [x], -1)), raw], 1)

    def encode(self, x: Tensor) -> Tensor:
        """x [N, (S + 1) * C, T, V] -> [N, S * D, ceil(T / 4), V]."""
        *own, raw = x.split(self.coordinates, 1)
        return torch.cat([stream(y, raw) for stream, y in zip(self.streams, own, strict=True)], 1)


class STr(Streams):
    """The stream with spatial self-attention in place of the graph convolution."""

    def __init__(self, config: PaddedConfig) -> None:
        super().__init__(config, "joints")


class TTr(Streams):
    """The stream with temporal self-attention in place of the convolution over frames."""

    def __init__(self, config: PaddedConfig) -> None:
        super().__init__(config, "frames")


class StTr(Streams):
    """Both streams."""

    def __init__(self, config: PaddedConfig) -> None:
        super().__init__(config, "joints", "frames")


class Stream(nn.Module):
    """x and raw [N, C, T, V] -> [N, D, ceil(T / 4), V]: blocks of convolutions, then from the first wider one on with attention.

    That one takes the raw coordinates once more, as they were before the input's normalisation.
    """

    def __init__(self, config: PaddedConfig, attended: Axis) -> None:
        super().__init__()
        graph = torch.from_numpy(_graph(config))
        self.convolving, self.attending = nn.Sequential(), nn.Sequential()
        for i, (before, after, stride) in enumerate(shapes(config)):
            if after == config.dim and not len(self.attending):
                self.convolving.append(_block(before, after, stride, graph, config.dropout if i else 0.0, None, i > 0))
            else:
                raw = 0 if len(self.attending) else config.channels - 1
                self.attending.append(_block(before + raw, after, stride, graph, config.dropout, attended, True))
        if not len(self.attending):
            raise InputError("ST-TR attends where blocks widen", found=f"growth {config.growth}", expected="a wider block")

    def forward(self, x: Tensor, raw: Tensor) -> Tensor:
        encoded: Tensor = self.attending(torch.cat([self.convolving(x), raw], 1))
        return encoded


def _graph(config: PaddedConfig) -> np.ndarray:
    """[3, V, V]: each joint itself, its parent and its children, in the tree that hangs from the middle, as the authors' for ntu25."""
    bones = bones_towards_root(config.bones, middle(config), config.joints)
    return inward_outward(bones, config.joints)[[0, 2, 1]]


class UnrectifiedBlock(Block):
    """temporal(spatial(x)) + residual(x), each of which ends with a ReLU: x [N, C, T, V] -> [N, D, ceil(T / stride), V]."""

    def added(self, x: Tensor, y: Tensor) -> Tensor:
        return y if self.residual is None else y + self.residual(x)


def _block(
    before: int, after: int, stride: int, graph: Tensor, dropout: float, attended: Axis | None, residual: bool
) -> UnrectifiedBlock:
    joints = graph.shape[-1]
    spatial: nn.Module
    if attended == "joints":
        skip = nn.Identity() if before == after else None
        spatial = SelfAttention(before, after, 1, joints, "joints", dropout, skip)
    else:
        spatial = MaskedGraphConvolution(before, after, graph)
    temporal: nn.Module
    if attended == "frames":
        down = brought(after, after, stride, RectifiedConvolution)
        temporal = SelfAttention(after, after, stride, joints, "frames", dropout, down)
    else:
        temporal = nn.Sequential(nn.Dropout(dropout), *RectifiedConvolution(after, after, _KERNEL, stride))
    return UnrectifiedBlock(spatial, temporal, brought(before, after, stride, RectifiedConvolution) if residual else None)


class RectifiedConvolution(DrawnConvolution):
    """A convolution over frames, BatchNorm and ReLU."""

    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(before, after, kernel, stride)
        self.append(nn.ReLU())


class MaskedGraphConvolution(nn.Module):
    """x [N, C, T, V] -> [N, D, T, V]: ReLU(BN(sum_k (W_k x) (A_k * M_k) + b_k)), with partitions A_k of the skeleton and M_k learned."""

    graph: Tensor

    def __init__(self, before: int, after: int, graph: Tensor) -> None:
        super().__init__()
        self.register_buffer("graph", graph, persistent=False)
        self.mask = nn.Parameter(torch.ones_like(graph))
        self.gather = PartitionedConvolution(before, after, len(graph), bias=False)
        # the authors give each W_k a bias, of which only the sum counts
        self.bias = nn.Parameter(torch.zeros(len(graph), after))
        self.norm = nn.BatchNorm2d(after)
        draw(self.gather.values, std=math.sqrt(2 / after))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.gather(x, self.graph * self.mask) + self.bias.sum(0)[:, None, None]))


class SelfAttention(nn.Module):
    """x [N, C, T, V] -> [N, D, ceil(T / stride), V]: ReLU(BN(W Z + skip(x))), sections 4.1 and 4.2 of the paper.

    Z has softmax_j(q_i . k_j / sqrt(E)) v_j summed over j, with heads side by side. i and j are joints of one frame, or frames of one
    joint; q, k of E channels and v are maps of BN(x), whose statistics are per joint and channel.

    Args:
        before, after, joints: C, D and V.
        stride: frames that q, k and v are made of, and frames per frame of the output.
        attended: what i and j are.
        dropout: share of the j that each frame or joint leaves out in training (the authors' DropConnect).
        skip: of x; None adds nothing.
    """

    def __init__(
        self, before: int, after: int, stride: int, joints: int, attended: Axis, dropout: float, skip: nn.Module | None
    ) -> None:
        super().__init__()
        keys = max(after // _KEYS // _HEADS, 1) * _HEADS
        self.stride, self.widths, self.attended = stride, (keys, keys, after), attended
        self.norm_in = nn.BatchNorm1d(before * joints)
        self.queries_keys_values = nn.Conv2d(before, sum(self.widths), (stride, 1), stride=(stride, 1))
        self.drop = DropConnect(dropout)
        self.mix = nn.Conv2d(after, after, 1)
        self.skip = skip
        self.norm = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm_in(x.transpose(2, 3).flatten(1, 2)).unflatten(1, (x.shape[1], -1)).transpose(2, 3)
        whole = F.pad(normed, (0, 0, 0, -x.shape[2] % self.stride))
        parts = self.queries_keys_values(whole).split(self.widths, 1)
        q, k, v = (self._aside(part.unflatten(1, (_HEADS, -1)).permute(0, 3, 1, 4, 2)) for part in parts)
        weights = self.drop(softmax(q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)))
        y = self.mix(self._aside(weights @ v).permute(0, 2, 4, 1, 3).flatten(1, 2))
        return F.relu(self.norm(y if self.skip is None else y + self.skip(x)))

    def _aside(self, x: Tensor) -> Tensor:
        """[N, T, H, V, E] with what is attended to in V's place, or back."""
        return x if self.attended == "joints" else x.transpose(1, 3)


class DropConnect(nn.Module):
    """Softmax weights [.., I, J] without some of the columns, chosen in training; the others share what those had."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, weights: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return weights
        kept = weights * (torch.rand_like(weights[..., :1, :]) >= self.p)
        return kept / (kept.sum(-1, keepdim=True) + 1e-8)
