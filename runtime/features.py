"""Joints to network features: one recipe for training and for every engine."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from runtime.skeleton import Skeleton


class FeatureRecipe(msgspec.Struct, frozen=True):
    """How features are made from joints; recorded in checkpoint and bundle.

    Attributes:
        channels: 3 (centred joints) or 9 (joints, bones, motion); with one more, 4 or 10, the last is the number of the person
            whose row it is, for models that have to tell persons apart.
        centre: ``root`` subtracts one point per clip, the root joint of its first person in that person's first row with
            a tracked root; ``none`` leaves coordinates as they are.
    """

    channels: Literal[3, 4, 9, 10] = 9
    centre: Literal["root", "none"] = "root"


def compute_features(
    joints: np.ndarray,
    person_lengths: np.ndarray,
    skeleton: Skeleton,
    recipe: FeatureRecipe = FeatureRecipe(),
) -> np.ndarray:
    """Features of packed clips.

    Args:
        joints: float32 [F, V, 3]; x, y, z, or x, y, score for a 2-D layout. A joint with all-zero position is lost.
        person_lengths: int [B, P], rows of each person of each clip in packing order; zeros for absent persons; sums to F.
        skeleton: layout of the V joints.
        recipe: channels and centring.

    Returns:
        float32 [F, V, channels]: position, then bone (joint minus parent, the root's is zero), then motion (next row
        minus this one within a person, the last row repeating the one before; zero for a one-row person). A lost
        joint is zero wherever it takes part. In 2-D layouts the third channel of each triple is the joint's score. Then,
        if the recipe has it, the person's number, from 0.
        STAR, section 4.1 (features), with two changes to the authors' code: bones are indexed by their own joint, and
        motion is cut at persons.
    """
    dims = skeleton.dims
    tracked = (joints[..., :dims] != 0).any(-1, keepdims=True)  # [F, V, 1]
    position = np.asarray(joints[..., :dims], dtype=np.float32)
    if recipe.centre == "root":
        position = (position - _centres(position, tracked, person_lengths, skeleton.root)) * tracked
    parts = [position]
    if recipe.channels >= 9:
        parents = skeleton.parents
        bones = (position - position[:, parents]) * (tracked & tracked[:, parents])
        parts += [bones, _motion(position, tracked, person_lengths)]
    if dims == 2:
        score = np.asarray(joints[..., 2:3], dtype=np.float32)
        parts = [channel for part in parts for channel in (part, score)]
    if recipe.channels in (4, 10):
        parts.append(_persons(person_lengths, skeleton.num_joints))
    return np.ascontiguousarray(np.concatenate(parts, axis=-1), dtype=np.float32)


def _centres(position: np.ndarray, tracked: np.ndarray, person_lengths: np.ndarray, root: int) -> np.ndarray:
    """The point subtracted from each row [F, 1, dims]: one per clip, zero where its first person's root is never seen."""
    lengths = np.asarray(person_lengths, dtype=np.int64)
    clip_starts = np.concatenate([[0], np.cumsum(lengths.sum(1))])
    centres = np.zeros((len(lengths), position.shape[-1]), dtype=np.float32)
    for clip, persons in enumerate(lengths):
        first = next((int(n) for n in persons if n > 0), 0)
        start = clip_starts[clip]
        seen = np.flatnonzero(tracked[start : start + first, root, 0])
        if len(seen):
            centres[clip] = position[start + seen[0], root]
    return np.repeat(centres, lengths.sum(1), axis=0)[:, None, :]


def _persons(person_lengths: np.ndarray, joints: int) -> np.ndarray:
    """Number of the person in each row [F, V, 1]."""
    lengths = np.asarray(person_lengths, dtype=np.int64)
    numbers = np.broadcast_to(np.arange(lengths.shape[1], dtype=np.float32), lengths.shape)
    return np.repeat(numbers.reshape(-1), lengths.reshape(-1))[:, None, None].repeat(joints, axis=1)


def _motion(position: np.ndarray, tracked: np.ndarray, person_lengths: np.ndarray) -> np.ndarray:
    """Next row minus this one within each person [F, V, dims]."""
    motion = np.zeros_like(position)
    if len(position) < 2:
        return motion
    motion[:-1] = (position[1:] - position[:-1]) * (tracked[1:] & tracked[:-1])
    lengths = np.asarray(person_lengths, dtype=np.int64).reshape(-1)
    lengths = lengths[lengths > 0]
    last = np.cumsum(lengths) - 1
    motion[last] = np.where((lengths > 1)[:, None, None], motion[np.maximum(last - 1, 0)], 0)
    return motion
