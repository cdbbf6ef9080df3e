"""How far an engine's logits may be from the fp32 reference, per precision, and how the distance is measured."""

from __future__ import annotations

import numpy as np

# relative to the largest |logit| of the reference over the clips compared
TOLERANCES: dict[str, float] = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 3e-2, "int8": 1e-1}


def relative_error(logits: np.ndarray, reference: np.ndarray) -> float:
    """max|logits - reference| / max|reference|, both [B, K]; infinite when a logit is not finite."""
    difference = np.abs(np.asarray(logits, dtype=np.float64) - np.asarray(reference, dtype=np.float64))
    if difference.size == 0:
        return 0.0
    if not np.isfinite(difference).all():
        return float("inf")
    largest = float(np.abs(reference).max())
    return float(difference.max()) / largest if largest > 0 else float(difference.max())
