"""Hyperformer: joints attend to joints and to body parts (Zhou et al., arXiv 2211.09590).

N counts persons of all clips, T frames, V joints, P body parts; H heads of E channels each are the D channels of a block.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from runtime.errors import InputError
from star_edge.models.blocks import Block, DrawnConvolution, brought
from star_edge.models.body_parts import body_parts, joint_distances
from star_edge.models.config import PaddedConfig
from star_edge.models.ctr_gcn import DilatedTemporalConvolution
from star_edge.models.padded import LayerNorm, PaddedModel, softmax

_BLOCKS = 10
_HALVING = (4, 7)  # blocks that leave every other frame
_HEAD = 24  # E
_GROUPS = 6  # of the channels that are mixed behind the heads


class Hyperformer(PaddedModel):
    """Ten blocks of one width; ``dim`` is a multiple of 24, and the input's statistics are per person."""

    def __init__(self, config: PaddedConfig) -> None:
        if config.dim % _HEAD:
            raise InputError("Hyperformer has heads of 24 channels", found=f"dim {config.dim}", expected="a multiple of 24")
        if config.growth:
            raise InputError("Hyperformer's blocks are of one width", found=f"growth {config.growth}", expected="none")
        super().__init__(config, width=config.dim, together=True)
        before = [self.coordinates, *(_BLOCKS - 1) * [config.dim]]
        strides = [2 if i in _HALVING else 1 for i in range(_BLOCKS)]
        self.blocks = nn.Sequential(*(_block(config, *each) for each in zip(before, strides, strict=True)))
        nn.init.normal_(self.output.weight, std=math.sqrt(2 / config.classes))

    def encode(self, x: Tensor) -> Tensor:
        """x [N, C, T, V] -> [N, D, ceil(T / 4), V]."""
        encoded: Tensor = self.blocks(x)
        return encoded


def _block(config: PaddedConfig, before: int, stride: int) -> Block:
    """Attention over joints, then frames at several scales; every block's input is added."""
    after = config.dim
    spatial, temporal = HypergraphAttention(config, before, after), DilatedTemporalConvolution(after, stride)
    return Block(spatial, temporal, brought(before, after, stride, DrawnConvolution))


class HypergraphAttention(nn.Module):
    """x [N, C, T, V] -> [N, D, T, V]: x + W (alpha softmax(l / sqrt(E)) + O) v in each frame, section 3 of the paper.

    q, k, v are maps of LN(x); O [H, V, V] is learned, and at first the identity. W mixes channels in six groups. Where the width
    changes, x comes to it by a 1x1 convolution. For l see :meth:`logits`.
    """

    means: Tensor
    parts: Tensor
    distances: Tensor

    def __init__(self, config: PaddedConfig, before: int, after: int) -> None:
        super().__init__()
        parts, distances = np.array(body_parts(config)), joint_distances(config)
        members = (parts == np.arange(parts.max() + 1)[:, None]).astype(np.float32)
        means = members / members.sum(1, keepdims=True)  # over each part's joints, [P, V]
        for name, constant in (("means", means), ("parts", parts), ("distances", distances)):
            self.register_buffer(name, torch.from_numpy(constant), persistent=False)

        heads = after // _HEAD
        self.norm = LayerNorm(before)
        self.queries = nn.Linear(before, after, bias=False)
        self.keys_values = nn.Linear(before, 2 * after, bias=False)
        self.hyperedges = nn.Linear(before, after, bias=False)
        self.relative = nn.Parameter(torch.zeros(int(distances.max()) + 1, after))
        self.hyperedge_bias = nn.Parameter(torch.zeros(heads, _HEAD))
        self.outer = nn.Parameter(torch.eye(config.joints).repeat(heads, 1, 1))
        self.alpha = nn.Parameter(torch.zeros(1))
        self.project = nn.Conv2d(after, after, 1, groups=_GROUPS)
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        joints = x.permute(0, 2, 3, 1)
        normed = self.norm(joints)
        q = _heads(self.queries(normed))
        k, v = map(_heads, self.keys_values(normed).chunk(2, -1))
        e = _heads(self.hyperedges(self.means @ joints))
        gathered = (self.alpha * softmax(self.logits(q, k, e)) + self.outer) @ v
        attended: Tensor = self.skip(x) + self.project(gathered.permute(0, 2, 4, 1, 3).flatten(1, 2))
        return attended

    def logits(self, q: Tensor, k: Tensor, e: Tensor) -> Tensor:
        """q_i . k_j + q_i . r_ij + q_i . e_j + w . e_j, over sqrt(E): [N, T, H, V, V], joint i (row) asks j.

        r_ij is the learned row for the distance of i and j. e_j is the hyperedge of j's part, the mean of its joints in x, mapped.

        Args:
            q, k: [N, T, H, V, E].
            e: [N, T, H, P, E].
        """
        q, w = q * _HEAD**-0.5, self.hyperedge_bias[:, None] * _HEAD**-0.5  # before the products, which fp16 could not hold
        by_part = (q + w) @ e.transpose(-1, -2)
        return q @ k.transpose(-1, -2) + self._by_distance(q) + by_part.index_select(-1, self.parts)

    def _by_distance(self, q: Tensor) -> Tensor:
        """q_i . r_ij: one product for each head and i, of all frames at once."""
        rows = self.relative.index_select(0, self.distances.flatten())
        rows = rows.view(*self.distances.shape, -1, _HEAD).permute(2, 0, 3, 1)  # [H, V, E, V]
        products = q.permute(2, 3, 0, 1, 4).flatten(2, 3) @ rows  # [H, V, N * T, V]
        return products.unflatten(2, (-1, q.shape[1])).permute(2, 3, 0, 1, 4)


def _heads(x: Tensor) -> Tensor:
    """[N, T, J, D] -> [N, T, H, J, E]."""
    return x.unflatten(-1, (-1, _HEAD)).transpose(2, 3)
