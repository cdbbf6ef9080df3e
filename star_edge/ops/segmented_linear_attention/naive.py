"""Float64 reference of segmented linear attention, written row by row from the equation."""

from __future__ import annotations

import numpy as np

from star_edge.ops.segmented_linear_attention import EPS


def _phi(u: np.ndarray) -> np.ndarray:
    """elu(u) + 1."""
    return np.where(u > 0, u + 1, np.exp(np.minimum(u, 0)))


def segmented_linear_attention(qkv: np.ndarray, cu_seqlens: np.ndarray, heads: int, eps: float = EPS) -> np.ndarray:
    """Linear attention over time within each clip, per joint and head: qkv [F, V, 3C] -> [F, V, C]. STAR, eq. 5-6.

    With q, k scaled by e^(-1/4) and phi(u) = elu(u) + 1: U = sum_f phi(k_f) v_f^T and Z = sum_f phi(k_f) over the clip's rows;
    out_f = phi(q_f)^T U / (phi(q_f) . Z + eps).
    """
    rows, joints, width = qkv.shape
    e = width // 3 // heads
    q, k, v = np.asarray(qkv, dtype=np.float64).reshape(rows, joints, 3, heads, e).transpose(2, 0, 1, 3, 4)
    q, k = _phi(q * e**-0.25), _phi(k * e**-0.25)
    out = np.zeros((rows, joints, heads, e))
    for start, stop in zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True):
        for joint in range(joints):
            for h in range(heads):
                u, z = np.zeros((e, e)), np.zeros(e)
                for f in range(start, stop):
                    u += np.outer(k[f, joint, h], v[f, joint, h])
                    z += k[f, joint, h]
                for f in range(start, stop):
                    out[f, joint, h] = q[f, joint, h] @ u / (q[f, joint, h] @ z + eps)
    return out.reshape(rows, joints, heads * e)
