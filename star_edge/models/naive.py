"""Float64 reference of a whole STAR model, from the ops' naive references and the equations of its layers: what every engine must equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from star_edge.ops.context_attention.naive import context_attention
from star_edge.ops.segmented_linear_attention.naive import segmented_linear_attention
from star_edge.ops.segmented_positions.naive import segmented_positions
from star_edge.ops.sparse_attention.naive import sparse_attention

if TYPE_CHECKING:
    from star_edge.models.star import StarConfig

EPS = 1e-5  # of both normalisations


def star(config: StarConfig, weights: Mapping[str, np.ndarray], features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
    """Logits float64 [B, K] of packed clips: features [F, V, C], cu_seqlens int [B+1].

    ``weights`` is the state dict (see star_edge/models/star.py for the layers). Slow: loops over rows, joints and heads.
    """
    w = {name: np.asarray(array, dtype=np.float64) for name, array in weights.items()}
    flat = np.asarray(features, dtype=np.float64).reshape(len(features), -1)
    deviation = np.sqrt(w["input_norm.running_var"] + EPS)
    flat = (flat - w["input_norm.running_mean"]) / deviation * w["input_norm.weight"] + w["input_norm.bias"]
    x = segmented_positions(_linear(w, "embedding", flat.reshape(features.shape)), cu_seqlens)
    for layer in range(config.layers):
        spatial, temporal = f"layers.{layer}.spatial", f"layers.{layer}.temporal"
        qkv = _product(w, f"{spatial}.qkv", x)
        one = _rest_of_encoder(w, spatial, x, sparse_attention(qkv, config.edges, config.heads))
        qkv = _product(w, f"{temporal}.qkv", x)
        other = _rest_of_encoder(w, temporal, x, segmented_linear_attention(qkv, cu_seqlens, config.heads))
        x = one + other
    pooled = context_attention(x, w["context.weight"], cu_seqlens)
    return _linear(w, "head.output", _silu(_linear(w, "head.hidden", pooled.reshape(len(pooled), -1))))


def _rest_of_encoder(w: Mapping[str, np.ndarray], path: str, x: np.ndarray, attended: np.ndarray) -> np.ndarray:
    """x1 = LN(x + attended); LN(x1 + linear2(SiLU(linear1(x1))))."""
    x = _norm(w, f"{path}.norm1", x + attended)
    return _norm(w, f"{path}.norm2", x + _linear(w, f"{path}.linear2", _silu(_linear(w, f"{path}.linear1", x))))


def _linear(w: Mapping[str, np.ndarray], path: str, x: np.ndarray) -> np.ndarray:
    bias = f"{path}.bias" if f"{path}.bias" in w else f"{path}.second.bias"
    return _product(w, path, x) + w[bias]


def _product(w: Mapping[str, np.ndarray], path: str, x: np.ndarray) -> np.ndarray:
    """x W^T; of low rank, by one factor after the other."""
    if f"{path}.weight" in w:
        return x @ w[f"{path}.weight"].T
    return x @ w[f"{path}.first.weight"].T @ w[f"{path}.second.weight"].T


def _norm(w: Mapping[str, np.ndarray], path: str, x: np.ndarray) -> np.ndarray:
    """LayerNorm over the channels."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS) * w[f"{path}.weight"] + w[f"{path}.bias"]


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))
