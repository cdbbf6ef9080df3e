"""From one skeleton layout to another, joint by joint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.errors import InputError
from runtime.skeleton import Skeleton

# Joint -> what stands for it where a layout has no joint of that name, best first: one joint, or the middle of several.
# "side_" is left_ or right_, the same on both sides of a line.
_STAND_INS: dict[str, tuple[tuple[str, ...], ...]] = {
    "spine_base": (("hip_center",), ("left_hip", "right_hip")),
    "hip_center": (("spine_base",), ("left_hip", "right_hip")),
    "spine_mid": (("spine",), ("torso",), ("left_shoulder", "right_shoulder", "left_hip", "right_hip")),
    "spine": (("spine_mid",), ("torso",), ("left_shoulder", "right_shoulder", "left_hip", "right_hip")),
    "torso": (("spine",), ("spine_mid",), ("left_shoulder", "right_shoulder", "left_hip", "right_hip")),
    "spine_shoulder": (("shoulder_center",), ("left_shoulder", "right_shoulder")),
    "shoulder_center": (("spine_shoulder",), ("left_shoulder", "right_shoulder")),
    "neck": (("shoulder_center",), ("spine_shoulder",), ("left_shoulder", "right_shoulder")),
    "head": (("left_ear", "right_ear"), ("nose",)),
    "nose": (("head",),),
    "side_wrist": (("side_hand",),),
    "side_hand": (("side_index", "side_pinky"),),
    "side_hand_tip": (("side_index",),),
    "side_index": (("side_hand_tip",),),
    "side_ankle": (("side_foot",),),
    "side_foot": (("side_foot_index",),),
    "side_foot_index": (("side_foot",),),
}


@dataclass(frozen=True)
class JointMap:
    """How joints of one layout are made from those of another.

    Attributes:
        source, target: the layouts.
        parts: of each target joint the source joints whose middle it is; empty where it has no counterpart.
    """

    source: Skeleton
    target: Skeleton
    parts: tuple[tuple[int, ...], ...]

    @property
    def lost(self) -> tuple[str, ...]:
        """Names of the target joints without a counterpart: they are all zero, as lost joints are."""
        return tuple(name for name, parts in zip(self.target.joints, self.parts, strict=True) if not parts)

    def __call__(self, joints: np.ndarray) -> np.ndarray:
        """Joints float32 [n, V, 3] of the source as float32 [n, V', 3] of the target.

        A joint is lost where one that it is made from is. In 2-D the score of a middle is the lowest of its parts.
        """
        mapped = np.zeros((len(joints), self.target.num_joints, 3), dtype=np.float32)
        for joint, parts in enumerate(self.parts):
            if parts:
                used = joints[:, list(parts)]
                mapped[:, joint] = used.mean(axis=1, dtype=np.float64)
                if self.source.dims == 2:
                    mapped[:, joint, 2] = used[..., 2].min(axis=1)
                mapped[~(used != 0).any(-1).all(-1), joint] = 0
        return mapped


def map_joints(source: Skeleton, target: Skeleton) -> JointMap:
    """The map between two layouts by the names of their joints.

    A joint of the same name is taken as it is; else a synonym or the middle of joints around it (a neck from the shoulders, the base
    of the spine from the hips); else the joint is lost.

    Raises InputError between 2-D and 3-D layouts, and where no joint corresponds.
    """
    if source.dims != target.dims:
        raise InputError(
            "2-D and 3-D joints do not become one another",
            where=f"{source.name} to {target.name}",
            found=f"{source.dims}-D joints",
            expected=f"{target.dims}-D joints of '{target.name}'",
            hint=f"choose a {source.dims}-D layout: star-edge inspect skeletons",
        )
    index = {name: joint for joint, name in enumerate(source.joints)}
    parts = tuple(_parts_of(name, index) for name in target.joints)
    if not any(parts):
        raise InputError(
            "no joint of one layout has a counterpart in the other",
            where=f"{source.name} to {target.name}",
            found=", ".join(source.joints[:5]),
            expected=f"joints named like {', '.join(target.joints[:5])}",
        )
    return JointMap(source, target, parts)


def _parts_of(name: str, index: dict[str, int]) -> tuple[int, ...]:
    side = next((side for side in ("left_", "right_") if name.startswith(side)), None)
    general = "side_" + name[len(side) :] if side else name
    choices = ((name,), *_STAND_INS.get(general, ()))
    for choice in choices:
        names = [part.replace("side_", side or "", 1) if part.startswith("side_") else part for part in choice]
        if all(part in index for part in names):
            return tuple(index[part] for part in names)
    return ()
