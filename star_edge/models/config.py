"""The shape of a model: what a checkpoint and a bundle keep of it. Needs no torch."""

from __future__ import annotations

import msgspec


class StarConfig(msgspec.Struct, frozen=True):
    """Shape of a STAR model; stored in checkpoints and bundles.

    Attributes:
        joints, channels, classes: V, C and K of input and output.
        edges: attention pairs (i, j) of the spatial branch.
        dim, heads, layers: width d, heads (d / heads = e), depth.
        hidden: width of the classification head.
        dropout: after attention and in the FFN. attention_dropout: on spatial attention weights. head_dropout: in the head.
    """

    joints: int
    channels: int
    classes: int
    edges: tuple[tuple[int, int], ...]
    dim: int = 64
    heads: int = 8
    layers: int = 5
    hidden: int = 128
    dropout: float = 0.0
    attention_dropout: float = 0.0
    head_dropout: float = 0.0
