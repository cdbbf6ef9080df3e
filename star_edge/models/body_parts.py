"""The parts that Hyperformer divides a body into, and how far joints are from each other. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from star_edge.models.config import PaddedConfig
from star_edge.models.skeleton_graph import hops
from star_edge.skeletons import KINECT20, NTU25

# the authors' own, part by joint; no rule tells that of ntu25
_PARTS = {
    NTU25.bones: (0, 4, 2, 2, 2, 2, 1, 1, 2, 2, 1, 1, 2, 3, 3, 3, 2, 3, 3, 3, 1, 0, 1, 0, 1),
    KINECT20.bones: 4 * (0,) + 8 * (1,) + 8 * (2,),
}
# the authors hang the tips of ntu25's hands from the hands, where our layout hangs them from the thumbs
_HUNG = {NTU25.bones: {21: 7, 23: 11}}


def body_parts(config: PaddedConfig) -> tuple[int, ...]:
    """Part of each joint, numbered from 0 without gaps: the authors' where they have the skeleton, else :func:`limbs`."""
    return _PARTS.get(config.bones) or limbs(joint_distances(config))


def joint_distances(config: PaddedConfig) -> np.ndarray:
    """int64 [V, V]: bones between two joints, on the authors' tree where it differs from the skeleton's."""
    hung = _HUNG.get(config.bones, {})
    return hops([(child, hung.get(child, parent)) for child, parent in config.bones], config.joints)


def limbs(distance: np.ndarray) -> tuple[int, ...]:
    """Part of each joint of any tree: 0 for the trunk, and one for each limb, in the order of their first joints.

    A limb has two joints or more. Where three of them or more meet is the trunk, with what lies between such places and the
    single joints beside it. A tree without such a place is one part.

    Args:
        distance: bones between two joints, [V, V].
    """
    joints = range(len(distance))
    hubs = [joint for joint in joints if len(_limbs_beside(distance, [joint])) >= 3]
    between = [joint for joint in joints if any(_lies_between(distance, joint)[a, b] for a in hubs for b in hubs)]
    parts = np.zeros(len(distance), dtype=np.int64)
    if hubs:
        for part, limb in enumerate(_limbs_beside(distance, between), start=1):
            parts[list(limb)] = part
    return tuple(parts.tolist())


def _limbs_beside(distance: np.ndarray, trunk: Collection[int]) -> list[tuple[int, ...]]:
    """Sets of at least two joints that the trunk parts from all others."""
    apart = np.zeros(distance.shape, dtype=bool)
    for joint in trunk:
        apart |= _lies_between(distance, joint)
    others = [joint for joint in range(len(distance)) if joint not in trunk]
    sets = {tuple(b for b in others if not apart[a, b]) for a in others}
    return sorted(joints for joints in sets if len(joints) >= 2)


def _lies_between(distance: np.ndarray, joint: int) -> np.ndarray:
    """bool [V, V]: whether the only path from one joint to another leads over this one."""
    between: np.ndarray = distance[:, joint, None] + distance[joint] == distance
    return between
