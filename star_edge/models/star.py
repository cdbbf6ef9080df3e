"""STAR: sparse transformer for action recognition (Shi et al., arXiv 2107.07089), the authors' configuration ``best_dist``.

Two encoders a layer look at the packed clips in parallel, one over the joints of each frame (sparse softmax attention), one over
the frames of each clip (segmented linear attention); their outputs are summed. No padding anywhere.

Deviations from the authors' code, each equal or better numerically:
    - the spatial softmax subtracts each row's maximum, not the tensor's (a global maximum underflows in fp16);
    - edges are the union of A, A² and A³ with each pair once (concatenated lists would double direct neighbours);
    - the segmented linear attention has eps 1e-6 in its denominator, like their single-clip path;
    - the head's input is the mean of the gated rows (their code), not the sum (paper, eq. 7);
    - hands hang in a chain tip - thumb - wrist (the official NTU list), giving 187 edges.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from star_edge.models.config import StarConfig
from star_edge.models.dropout import Dropout
from star_edge.ops.context_attention.packed import context_attention
from star_edge.ops.segmented_linear_attention.packed import segmented_linear_attention
from star_edge.ops.segmented_positions.packed import segmented_positions
from star_edge.ops.sparse_attention.packed import edge_mask, sparse_attention


class Positions(nn.Module):
    """StarSegmentedPositions as a module, so that its path names it everywhere."""

    def forward(self, x: Tensor, cu_seqlens: Tensor) -> Tensor:
        return segmented_positions(x, cu_seqlens)


class SpatialAttention(nn.Module):
    """StarSparseAttention: over the joints of each frame."""

    mask: Tensor

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        self.register_buffer("mask", edge_mask(config.edges, config.joints), persistent=False)

    def forward(self, qkv: Tensor, cu_seqlens: Tensor) -> Tensor:
        return sparse_attention(qkv, self.mask, self.heads, self.dropout if self.training else 0.0)


class TemporalAttention(nn.Module):
    """StarSegmentedLinearAttention: over the frames of each clip."""

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        self.heads = config.heads

    def forward(self, qkv: Tensor, cu_seqlens: Tensor) -> Tensor:
        return segmented_linear_attention(qkv, cu_seqlens, self.heads)


class ContextAttention(nn.Module):
    """StarContextAttention: the gated mean of each clip's frames, per joint."""

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(config.dim, config.dim)))

    def forward(self, x: Tensor, cu_seqlens: Tensor) -> Tensor:
        return context_attention(x, self.weight, cu_seqlens)


class Encoder(nn.Module):
    """Post-norm transformer encoder: x1 = LN(x + attention(qkv(x))); LN(x1 + FFN(x1)); no output projection."""

    def __init__(self, config: StarConfig, branch: Literal["spatial", "temporal"]) -> None:
        super().__init__()
        dim = config.dim
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attention = SpatialAttention(config) if branch == "spatial" else TemporalAttention(config)
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.linear1 = nn.Linear(dim, dim)
        self.linear2 = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.activation = nn.SiLU()
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, cu_seqlens: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attention(self.qkv(x), cu_seqlens)))
        return self.norm2(x + self.dropout(self.linear2(self.dropout(self.activation(self.linear1(x))))))


class Layer(nn.Module):
    """Both branches in parallel, summed, with no further residual."""

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        self.spatial = Encoder(config, "spatial")
        self.temporal = Encoder(config, "temporal")

    def forward(self, x: Tensor, cu_seqlens: Tensor) -> Tensor:
        return self.spatial(x, cu_seqlens) + self.temporal(x, cu_seqlens)


class Head(nn.Module):
    """Two-layer classifier over the flattened joints: [B, V * d] -> [B, K]."""

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.joints * config.dim, config.hidden)
        self.activation = nn.SiLU()
        self.dropout = Dropout(config.head_dropout)
        self.output = nn.Linear(config.hidden, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.dropout(self.activation(self.hidden(x))))


class Star(nn.Module):
    """STAR over packed clips: features [F, V, C], cu_seqlens int32 [B+1] -> logits [B, K]."""

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        self.config = config
        # plain averages over all training batches: the input's statistics do not drift, and short runs need no warm-up of them
        self.input_norm = nn.BatchNorm1d(config.joints * config.channels, eps=1e-5, momentum=None)
        self.embedding = nn.Linear(config.channels, config.dim)
        self.positions = Positions()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.context = ContextAttention(config)
        self.head = Head(config)

    def forward(self, features: Tensor, cu_seqlens: Tensor) -> Tensor:
        x = self.input_norm(features.flatten(1)).view(features.shape)
        x = self.positions(self.embedding(x), cu_seqlens)
        for layer in self.layers:
            x = layer(x, cu_seqlens)
        return self.head(self.context(x, cu_seqlens).flatten(1))
