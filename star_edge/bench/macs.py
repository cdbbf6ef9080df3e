"""Multiply-accumulates of STAR, counted from its configuration. Attention is counted along its edges: the sparse form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from star_edge.models.config import PaddedConfig, StarConfig


def macs(config: StarConfig, rows: Sequence[int]) -> int:
    """All MACs of clips with the given rows, of all experts. Additions alone, exponentials and divisions are not counted."""
    per_row = linear_macs(config) + spatial_macs(config) + temporal_macs(config) + gate_macs(config)
    return config.experts * (sum(rows) * per_row + len(rows) * head_macs(config))


def padded_macs(name: str, config: PaddedConfig) -> int:
    """MACs of one clip through a padded model, however long the clip: products and convolutions as torch counts them."""
    import msgspec
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from star_edge.models.padded import PaddedModel
    from star_edge.models.registry import build_model

    with torch.device("meta"), torch.no_grad():
        alone = msgspec.structs.replace(config, experts=1)
        model = build_model(name, alone).to("meta").eval()  # constants made of numpy's arrays are not there yet
        assert isinstance(model, PaddedModel)
        with FlopCounterMode(display=False) as counter:
            padded = torch.zeros(1, config.persons, config.frames, config.joints, config.channels - 1)
            model.classify(model.normalised(padded))
    return config.experts * (counter.get_total_flops() // 2)


def linear_macs(config: StarConfig) -> int:
    """Embedding, and QKV (3 d²) and FFN (2 d²) of both branches of each layer, per row; here and below of one expert."""
    branches = [f"layers.{layer}.{branch}" for layer in range(config.layers) for branch in ("spatial", "temporal")]
    inside = sum(_encoder_macs(config, path) for path in branches)
    return config.joints * (_product(config, "embedding", config.channels, config.dim) + inside)


def _encoder_macs(config: StarConfig, path: str) -> int:
    """QKV and FFN, per row and joint."""
    dim = config.dim
    width = config.widths.get(f"{path}.linear1", dim)
    layers = {"qkv": (dim, 3 * dim), "linear1": (dim, width), "linear2": (width, dim)}
    return sum(_product(config, f"{path}.{name}", *shape) for name, shape in layers.items())


def spatial_macs(config: StarConfig) -> int:
    """Scores and weighted values along the edges: 2 d each, per row."""
    return config.layers * len(config.edges) * 2 * config.dim


def temporal_macs(config: StarConfig) -> int:
    """Per row and joint, U += k v^T and q U take d e each, q . Z takes d; e = d / heads."""
    return config.layers * config.joints * (2 * config.dim * (config.dim // config.heads) + config.dim)


def gate_macs(config: StarConfig) -> int:
    """Context attention per row: x . c and the sum of g x, d each per joint."""
    return config.joints * 2 * config.dim


def head_macs(config: StarConfig) -> int:
    """Per clip: the context's W (d² per joint) and both head layers."""
    width = config.widths.get("head.hidden", config.hidden)
    hidden = _product(config, "head.hidden", config.joints * config.dim, width)
    return config.joints * config.dim**2 + hidden + _product(config, "head.output", width, config.classes)


def _product(config: StarConfig, path: str, inputs: int, outputs: int) -> int:
    """MACs of a linear layer on one vector: of both factors where it has a rank."""
    rank = config.ranks.get(path)
    return inputs * outputs if rank is None else rank * (inputs + outputs)
