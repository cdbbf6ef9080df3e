"""Which joints are arms and which are legs, as STEP-CATFormer divides a body, from the joints' names. Needs no torch."""

from __future__ import annotations

from runtime.errors import InputError
from runtime.skeleton import Skeleton
from star_edge.models.config import PaddedConfig
from star_edge.skeletons import LAYOUTS

_LEG = ("hip", "knee", "ankle", "foot", "heel")
_ARM = ("shoulder", "elbow", "wrist", "hand", "thumb", "pinky", "index")
_PELVIS = ("spine_base", "hip_center")
_WAIST = (*_PELVIS, "spine_mid", "spine", "torso")

# the authors' order of the upper body's joints, which tells nothing but is that of their weights
_UPPER_BODY = {"ntu25": (2, 3, 10, 11, 6, 7, 8, 9, 4, 5, 20, 21, 22, 23, 24)}

Division = tuple[tuple[int, ...], tuple[int, ...]]


def arms_and_rest(skeleton: Skeleton) -> Division:
    """Arms; legs with trunk and head."""
    arms = _limbs(skeleton, _ARM)
    return arms, _legs(skeleton) + _trunk(skeleton)


def rest_and_legs(skeleton: Skeleton) -> Division:
    """Arms with trunk and head; legs with the pelvis, where the layout has one."""
    pelvis = _named(skeleton, _PELVIS)
    upper = tuple(joint for joint in _trunk(skeleton) if joint not in pelvis)
    return _limbs(skeleton, _ARM) + upper, _legs(skeleton) + pelvis


def upper_and_lower(skeleton: Skeleton) -> Division:
    """Head, arms and chest; legs with pelvis and waist."""
    lower = _legs(skeleton) + _named(skeleton, _WAIST)
    upper = tuple(joint for joint in range(skeleton.num_joints) if joint not in lower)
    return _UPPER_BODY.get(skeleton.name, upper), lower


def layout_of(config: PaddedConfig) -> Skeleton:
    """The named layout that a config was made for; InputError where it is another, whose arms and legs nothing tells."""
    for layout in LAYOUTS.values():
        if (layout.num_joints, layout.bones, layout.root) == (config.joints, config.bones, config.root):
            return layout
    raise InputError(
        f"a skeleton of {config.joints} joints whose arms and legs are not known",
        expected=f"one of the layouts {', '.join(LAYOUTS)}",
        hint="convert the data to one of them, or take a model that needs no body parts",
    )


def _legs(skeleton: Skeleton) -> tuple[int, ...]:
    """The right leg, then the left one: the authors' order."""
    legs = _limbs(skeleton, _LEG)
    right = tuple(joint for joint in legs if skeleton.joints[joint].startswith("right_"))
    return right + tuple(joint for joint in legs if joint not in right)


def _trunk(skeleton: Skeleton) -> tuple[int, ...]:
    limbs = _limbs(skeleton, _ARM) + _limbs(skeleton, _LEG)
    return tuple(joint for joint in range(skeleton.num_joints) if joint not in limbs)


def _limbs(skeleton: Skeleton, words: tuple[str, ...]) -> tuple[int, ...]:
    """Joints of either side that are named after one of the words: ``left_hand_tip`` by ``hand``."""
    return tuple(
        joint
        for joint, name in enumerate(skeleton.joints)
        if name.startswith(("left_", "right_")) and name.split("_")[1] in words
    )


def _named(skeleton: Skeleton, names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(joint for joint, name in enumerate(skeleton.joints) if name in names)
