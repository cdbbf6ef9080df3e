"""Float64 reference of context attention, written clip by clip from the equation."""

from __future__ import annotations

import numpy as np


def context_attention(x: np.ndarray, weight: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
    """Gated mean over each clip's rows, per joint: x [F, V, C], weight [C, C] -> [B, V, C]; zero for an empty clip.

    c = tanh(mean_f(x_f) W), g_f = sigmoid(x_f . c), out = mean_f(g_f x_f). STAR, eq. 7, with the mean that the authors' code
    takes where the paper writes a sum.
    """
    x, weight = np.asarray(x, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    out = np.zeros((len(cu_seqlens) - 1, *x.shape[1:]))
    for clip, (start, stop) in enumerate(zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)):
        if start == stop:
            continue
        for joint in range(x.shape[1]):
            rows = x[start:stop, joint]
            context = np.tanh(rows.mean(0) @ weight)
            gate = 1 / (1 + np.exp(-(rows @ context)))
            out[clip, joint] = (gate[:, None] * rows).mean(0)
    return out
