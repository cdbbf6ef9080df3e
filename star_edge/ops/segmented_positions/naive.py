"""Float64 reference of the segmented sinusoidal positions, written from the definition."""

from __future__ import annotations

import numpy as np


def segmented_positions(x: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
    """x [F, V, C] plus, for row p of its clip and channel j, sin((p/10^4)^(j/C)) for even j, cos(...) for odd j.

    p restarts at 0 in each clip and runs on across the clip's persons; 0^0 = 1. STAR, section 3.3 as the authors' code
    computes it (the power is applied to the whole quotient).
    """
    out = np.array(x, dtype=np.float64)
    channels = x.shape[-1]
    for start, stop in zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True):
        for row in range(start, stop):
            for j in range(channels):
                phase = ((row - start) / 1e4) ** (j / channels)
                out[row, :, j] += np.sin(phase) if j % 2 == 0 else np.cos(phase)
    return out
