"""Joints seen in an image: one origin, direction and rule for lost joints, whatever format they come from."""

from __future__ import annotations

import numpy as np

MAX_PERSONS = 2


def on_plane(x: np.ndarray, y: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Joints float32 [..., 3] (x, y, score) from coordinates relative to the image's centre with y downwards.

    The sign of y changes, so that up is positive as in the 3-D layouts. A joint without a score above zero is lost: all zero.
    """
    joints = np.stack([x, -y, score], axis=-1).astype(np.float32)
    joints[score <= 0] = 0
    return joints


def spread(rows: np.ndarray) -> float:
    """How much a person [n, V, 3] (x, y, score) moves: the sum over x and y of the standard deviation over its tracked joints."""
    tracked = rows[(rows[..., :2] != 0).any(-1)][:, :2]
    return float(tracked.astype(np.float64).std(axis=0).sum()) if len(tracked) else 0.0
