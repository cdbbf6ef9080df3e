"""A STAR-64's state dict as ``star_cuda_run`` wants it: BatchNorm and scales folded in, matrices permuted and in float16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

DIM, HEADS = 64, 8
HEAD_DIM = DIM // HEADS
BATCH_NORM_EPS = 1e-5
_VECTORS = ("norm1.weight", "norm1.bias", "linear1.bias", "linear2.bias", "norm2.weight", "norm2.bias")


def _output_order() -> np.ndarray:
    """Channel that stands in each of 64 rows of a matrix: a thread of four then has sixteen neighbouring channels."""
    block, thread, i = np.meshgrid(np.arange(8), np.arange(4), np.arange(2), indexing="ij")
    return (thread * 16 + 2 * block + i).ravel()


def _input_order() -> np.ndarray:
    """Channel that stands in each of 64 columns of a matrix, which the same threads multiply with what they have."""
    step, half, thread, i = np.meshgrid(np.arange(4), np.arange(2), np.arange(4), np.arange(2), indexing="ij")
    return (thread * 16 + 4 * step + 2 * half + i).ravel()


def permuted(weight: np.ndarray) -> np.ndarray:
    """Rows [n * 64, 64] of weight [outputs, inputs] in the order of ``mma``'s fragments."""
    blocks = weight.reshape(-1, DIM, DIM)
    return blocks[:, _output_order()][:, :, _input_order()].reshape(weight.shape)


def pack_weights(
    state: Mapping[str, np.ndarray], edges: Sequence[tuple[int, int]], *, joints: int, channels: int, layers: int
) -> dict[str, np.ndarray]:
    """Arrays by the names of ``star_cuda_weights``; ``state`` is the model's state dict."""
    w = {name: np.asarray(array, dtype=np.float64) for name, array in state.items()}
    scale = w["input_norm.weight"] / np.sqrt(w["input_norm.running_var"] + BATCH_NORM_EPS)
    starts = np.searchsorted(sorted(i for i, _ in edges), np.arange(joints + 1))
    key_values = [_key_value(w, layer) for layer in range(layers)]
    key_values.append(np.zeros_like(key_values[0]))
    return {
        "input_scale": scale.astype(np.float32),
        "input_shift": (w["input_norm.bias"] - w["input_norm.running_mean"] * scale).astype(np.float32),
        "embedding": np.ascontiguousarray(w["embedding.weight"].T, dtype=np.float32),
        "embedding_bias": w["embedding.bias"].astype(np.float32),
        "first_key_value": key_values[0],
        "matrices": np.stack([_matrices(w, layer, key_values[layer + 1]) for layer in range(layers)]),
        "vectors": np.stack([_vectors(w, layer) for layer in range(layers)]),
        "edge_starts": starts.astype(np.int32),
        "edge_ends": np.array([j for _, j in sorted(edges)], dtype=np.int32),
        "context": w["context.weight"].astype(np.float32),
        "head_hidden": w["head.hidden.weight"].astype(np.float16),
        "head_hidden_bias": w["head.hidden.bias"].astype(np.float32),
        "head_output": w["head.output.weight"].astype(np.float16),
        "head_output_bias": w["head.output.bias"].astype(np.float32),
    }


def _matrices(w: Mapping[str, np.ndarray], layer: int, next_key_value: np.ndarray) -> np.ndarray:
    spatial, temporal = f"layers.{layer}.spatial", f"layers.{layer}.temporal"
    qkv = w[f"{spatial}.qkv.weight"].copy()
    qkv[:DIM] *= np.log2(np.e) / np.sqrt(HEAD_DIM)  # softmax is then a power of 2
    query = w[f"{temporal}.qkv.weight"][:DIM] * HEAD_DIM**-0.25
    parts = [qkv, w[f"{spatial}.linear1.weight"], w[f"{spatial}.linear2.weight"]]
    parts += [query, w[f"{temporal}.linear1.weight"], w[f"{temporal}.linear2.weight"]]
    return np.concatenate([permuted(np.concatenate(parts)).astype(np.float16), next_key_value])


def _key_value(w: Mapping[str, np.ndarray], layer: int) -> np.ndarray:
    rows = w[f"layers.{layer}.temporal.qkv.weight"][DIM:].copy()
    rows[:DIM] *= HEAD_DIM**-0.25
    return permuted(rows).astype(np.float16)


def _vectors(w: Mapping[str, np.ndarray], layer: int) -> np.ndarray:
    names = [f"layers.{layer}.{branch}.{vector}" for branch in ("spatial", "temporal") for vector in _VECTORS]
    return np.stack([w[name] for name in names]).astype(np.float32)
