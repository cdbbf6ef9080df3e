"""The skeleton as matrices: how many bones lie between joints, and ST-GCN's partitions of each joint's neighbours."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def hops(bones: Iterable[tuple[int, int]], joints: int) -> np.ndarray:
    """int64 [V, V]: number of bones between two joints of a tree."""
    distance = np.full((joints, joints), joints, dtype=np.int64)
    np.fill_diagonal(distance, 0)
    for child, parent in bones:
        distance[child, parent] = distance[parent, child] = 1
    for middle in range(joints):  # Floyd-Warshall
        distance = np.minimum(distance, distance[:, middle, None] + distance[middle])
    return distance


def inward_outward(bones: Iterable[tuple[int, int]], joints: int) -> np.ndarray:
    """float32 [3, V, V]: each joint itself, its children, and its parent; a column's weights sum to one or zero.

    The partition of 2s-AGCN (Shi et al., arXiv 1805.07694) and its successors: a product with partition k on the right, x [.., V]
    @ A[k], gives each joint (column) the mean over its own kind of neighbours (rows).
    """
    inward = np.zeros((joints, joints), dtype=np.float32)
    for child, parent in bones:
        inward[child, parent] = 1
    return np.stack([np.eye(joints, dtype=np.float32), _columns(inward), _columns(inward.T)])


def spatial_partitions(bones: Iterable[tuple[int, int]], joints: int, centre: int) -> np.ndarray:
    """float32 [3, V, V]: of each joint (column) itself and neighbours as far from the centre as it, nearer ones, farther ones.

    ST-GCN's spatial configuration (Yan et al., arXiv 1801.07455, section 3.3): a joint's weights over all three are divided by
    the number of its neighbours.
    """
    distance = hops(bones, joints)
    near = (distance <= 1).astype(np.float32)
    to_centre = distance[centre]
    nearer = to_centre[:, None] - to_centre  # of a row's joint, against the column's
    return np.stack([near * (nearer == 0), near * (nearer < 0), near * (nearer > 0)]) / near.sum(0)


def _columns(matrix: np.ndarray) -> np.ndarray:
    sums = matrix.sum(0)
    normalised: np.ndarray = np.divide(matrix, sums, out=np.zeros_like(matrix), where=sums > 0)
    return normalised
