"""Random changes to training clips. Lost joints (all zero) stay lost."""

from __future__ import annotations

import numpy as np

from runtime.clip import Clip
from runtime.skeleton import Skeleton
from star_edge.training.recipe import Augmentation


def augment(clip: Clip, skeleton: Skeleton, changes: Augmentation, rng: np.random.Generator) -> Clip:
    """A randomly changed copy of ``clip``; the same for the same state of ``rng``.

    Space is changed alike in all rows, so that motion and the distance between persons keep their meaning.
    """
    persons = np.split(clip.joints, np.cumsum(clip.person_lengths)[:-1])
    persons = _crop(persons, changes.crop, rng)
    persons = [_resample(person, rate) for person, rate in zip(persons, _rates(persons, changes.speed, rng), strict=True)]
    if len(persons) > 1 and rng.random() < changes.swap:
        persons = persons[::-1]
    joints, lengths = np.concatenate(persons), tuple(len(person) for person in persons)
    tracked = (joints[..., : skeleton.dims] != 0).any(-1, keepdims=True)
    joints = _change_space(joints, skeleton, changes, rng)
    if rng.random() < changes.mirror:
        joints[..., 0] *= -1
        joints, tracked = joints[:, skeleton.mirror], tracked[:, skeleton.mirror]
    kept = rng.random((1, skeleton.num_joints, 1)) >= changes.lose_joints
    return Clip(np.where(tracked & kept, joints, 0).astype(np.float32), lengths, clip.name)


def _crop(persons: list[np.ndarray], smallest: float, rng: np.random.Generator) -> list[np.ndarray]:
    """The same random part of each person's rows, at least ``smallest`` of them."""
    fraction = rng.uniform(smallest, 1.0)
    start = rng.uniform(0.0, 1.0 - fraction)
    kept = []
    for person in persons:
        rows = max(1, round(fraction * len(person)))
        first = min(round(start * len(person)), len(person) - rows)
        kept.append(person[first : first + rows])
    return kept


def _rates(persons: list[np.ndarray], speed: float, rng: np.random.Generator) -> list[float]:
    """One speed for all persons of the clip."""
    return [float(np.exp(rng.uniform(-1, 1) * np.log1p(speed)))] * len(persons)


def _resample(person: np.ndarray, rate: float) -> np.ndarray:
    """Play [n, V, C] at ``rate`` times its speed by linear interpolation; a joint lost at either end is lost."""
    rows = max(1, round(len(person) / rate))
    if rows == len(person):
        return person
    at = np.linspace(0, len(person) - 1, rows)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(person) - 1)
    weight = (at - low)[:, None, None]
    lost = (person == 0).all(-1, keepdims=True)
    return np.where(lost[low] | lost[high], 0, (1 - weight) * person[low] + weight * person[high])


def _change_space(joints: np.ndarray, skeleton: Skeleton, changes: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Rotate, scale and disturb positions [F, V, C]; a 2-D layout turns in its plane and keeps its scores."""
    dims = skeleton.dims
    position = joints[..., :dims]
    yaw, pitch, roll = np.deg2rad(rng.uniform(-1, 1, 3) * [changes.yaw, changes.tilt, changes.tilt])
    rotation = _turn(1, yaw) @ _turn(0, pitch) @ _turn(2, roll) if dims == 3 else _turn(2, roll)[:2, :2]
    rotation = rotation * (1 + changes.scale * rng.uniform(-1, 1, dims))
    position = position @ rotation.T
    position = position + changes.noise * rng.standard_normal((1, *position.shape[1:]))
    if changes.jitter:
        position = position + changes.jitter * rng.standard_normal(position.shape)
    return np.concatenate([position, joints[..., dims:]], axis=-1)


def _turn(axis: int, angle: float) -> np.ndarray:
    """Rotation by ``angle`` about one axis of three [3, 3]."""
    i, j = [other for other in range(3) if other != axis]
    matrix = np.eye(3)
    matrix[[i, j], [i, j]] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix
