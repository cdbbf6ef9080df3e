"""Float64 reference of sparse attention, written edge by edge from the equation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sparse_attention(qkv: np.ndarray, edges: Sequence[tuple[int, int]], heads: int) -> np.ndarray:
    """Attention of each joint over its neighbours, per frame and head: qkv [F, V, 3C] -> [F, V, C]. STAR, eq. 2-4.

    a_ij = exp(s_ij - max_j s_ij) / sum_j exp(s_ij - max_j s_ij) with s_ij = q_i . k_j / sqrt(e), (i, j) in edges, e = C / heads;
    the output is sum_j a_ij v_j, zero for a joint without edges.
    """
    frames, joints, width = qkv.shape
    e = width // 3 // heads
    q, k, v = np.asarray(qkv, dtype=np.float64).reshape(frames, joints, 3, heads, e).transpose(2, 0, 1, 3, 4)
    out = np.zeros((frames, joints, heads, e))
    for i in range(joints):
        neighbours = [j for row, j in edges if row == i]
        if not neighbours:
            continue
        for f in range(frames):
            for h in range(heads):
                scores = np.array([q[f, i, h] @ k[f, j, h] / np.sqrt(e) for j in neighbours])
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                for weight, j in zip(weights, neighbours, strict=True):
                    out[f, i, h] += weight * v[f, j, h]
    return out.reshape(frames, joints, heads * e)
