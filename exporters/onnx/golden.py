"""Generated clips: plausible moving skeletons for any layout, the golden clips, and the odd inputs of the parity check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runtime.clip import Clip, pack_clips
from runtime.features import FeatureRecipe, compute_features
from runtime.golden import Golden
from runtime.packing import cu_seqlens_of
from runtime.skeleton import Skeleton
from runtime.tolerances import TOLERANCES

# features float32 [F, V, C], cu_seqlens int32 [B+1] -> logits [B, K]
Forward = Callable[[np.ndarray, np.ndarray], np.ndarray]

FRAMES_PER_SECOND = 30
BONE = 0.25  # metres between neighbouring joints
SWAY = 0.08  # metres, amplitude of each joint's motion


@dataclass(frozen=True, eq=False)
class Case:
    """One packed batch to compare engines on: features float32 [F, V, C], cu_seqlens int32 [B+1]."""

    name: str
    features: np.ndarray
    cu_seqlens: np.ndarray


def make_golden(skeleton: Skeleton, recipe: FeatureRecipe, reference: Forward) -> Golden:
    """The golden clips of a bundle with the logits of ``reference``, the fp32 model computed in float64."""
    clips = golden_clips(skeleton)
    joints, cu_seqlens, person_lengths = pack_clips(clips)
    logits = reference(compute_features(joints, person_lengths, skeleton, recipe), cu_seqlens)
    names = tuple(clip.name for clip in clips)
    return Golden(joints, cu_seqlens, person_lengths, names, logits.astype(np.float32), dict(TOLERANCES))


def golden_clips(skeleton: Skeleton) -> list[Clip]:
    """Shortest and longest clip, two persons, joints lost now and then, a joint that is never seen."""
    rng = np.random.default_rng(1)
    lost, absent = moving_body(skeleton, 50, rng), moving_body(skeleton, 30, rng)
    lost[rng.random(lost.shape[:2]) < 0.2] = 0
    absent[:, -1] = 0
    return [
        Clip.from_persons([moving_body(skeleton, 1, rng)], "one frame"),
        Clip.from_persons([moving_body(skeleton, 300, rng)], "longest"),
        Clip.from_persons([moving_body(skeleton, 40, rng), moving_body(skeleton, 30, rng)], "two persons"),
        Clip.from_persons([lost], "lost joints"),
        Clip.from_persons([absent], "absent joint"),
    ]


def odd_cases(skeleton: Skeleton, recipe: FeatureRecipe, many: int = 64) -> list[Case]:
    """What an export must survive: 1 frame, 1 clip, ``many`` clips, an empty segment, 2 persons, all-zero frames, 5,000 frames."""
    rng = np.random.default_rng(2)

    def case(name: str, *clips: Clip) -> Case:
        joints, cu_seqlens, person_lengths = pack_clips(clips)
        return Case(name, compute_features(joints, person_lengths, skeleton, recipe), cu_seqlens)

    def body(rows: int) -> Clip:
        return Clip.from_persons([moving_body(skeleton, rows, rng)])

    batch = case("empty segment", body(12), body(20))
    zeros = np.zeros((30, skeleton.num_joints, recipe.channels), dtype=np.float32)
    return [
        case("1 frame", body(1)),
        case("1 clip", body(64)),
        case(f"{many} clips", *(body(1 + index % 7) for index in range(many))),
        Case(batch.name, batch.features, cu_seqlens_of([12, 0, 20, 0])),
        case("2 persons", Clip.from_persons([moving_body(skeleton, 40, rng), moving_body(skeleton, 25, rng)])),
        Case("all-zero frames", zeros, cu_seqlens_of([len(zeros)])),
        case("5,000 frames", body(5000)),
    ]


def moving_body(skeleton: Skeleton, rows: int, rng: np.random.Generator) -> np.ndarray:
    """One person float32 [rows, V, 3]: joints sway smoothly around a pose, the body wanders; metres, 3 m from the camera.

    In 2-D layouts the third coordinate is a score from 0.5 to 1.
    """
    time = np.arange(rows)[:, None, None] / FRAMES_PER_SECOND
    sway = np.zeros((rows, skeleton.num_joints, 3))
    wander = np.zeros((rows, 1, 3))
    for hertz in (0.4, 1.1, 2.3):
        for path, size in ((sway, SWAY), (wander, 2 * SWAY)):
            phase = rng.uniform(0, 2 * np.pi, path.shape[1:])
            path += size * rng.uniform(0, 1, path.shape[1:]) * np.sin(2 * np.pi * hertz * time + phase)
    body = _rest_pose(skeleton, rng) + sway + wander
    if skeleton.dims == 2:
        body[..., 2] = rng.uniform(0.5, 1, body.shape[:2])
    return body.astype(np.float32)


def _rest_pose(skeleton: Skeleton, rng: np.random.Generator) -> np.ndarray:
    """A pose [V, 3]: every joint one bone's length from its parent, in a random direction."""
    pose = np.full((skeleton.num_joints, 3), (0.1, 0.2, 3.0))
    children: dict[int, list[int]] = {}
    for child, parent in skeleton.bones:
        children.setdefault(parent, []).append(child)
    queue = [skeleton.root]
    while queue:
        parent = queue.pop(0)
        for child in children.get(parent, []):
            direction = rng.normal(size=3)
            pose[child] = pose[parent] + BONE * direction / np.linalg.norm(direction)
            queue.append(child)
    return pose
