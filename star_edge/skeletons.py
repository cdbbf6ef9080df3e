"""Named skeleton layouts, and custom ones from a JSON file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from runtime.errors import InputError
from runtime.readers.decoding import JSON_ERRORS
from runtime.skeleton import Skeleton, bones_towards_root


def _sides(names: str) -> list[str]:
    return [f"{side}_{name}" for side in ("left", "right") for name in names.split()]


def _layout(name: str, joints: list[str], bones: list[tuple[int, int]], root: str, dims: int = 3) -> Skeleton:
    """A layout whose left/right pairs follow from the joint names."""
    index = {joint: i for i, joint in enumerate(joints)}
    pairs = [(i, index["right" + joint[4:]]) for i, joint in enumerate(joints) if joint.startswith("left")]
    return Skeleton(
        name=name,
        joints=tuple(joints),
        bones=bones_towards_root(bones, index[root], len(joints)),
        root=index[root],
        pairs=tuple(pairs),
        dims=dims,
    ).check()


# Kinect v2 as NTU RGB+D orders it, with the "chain" hands (tip - thumb side): 187 edges in three hops.
NTU25 = _layout(
    "ntu25",
    ["spine_base", "spine_mid", "neck", "head"]
    + _sides("shoulder elbow wrist hand")
    + _sides("hip knee ankle foot")
    + ["spine_shoulder", "left_hand_tip", "left_thumb", "right_hand_tip", "right_thumb"],
    [(0, 1), (1, 20), (2, 20), (3, 2), (4, 20), (5, 4), (6, 5), (7, 6), (8, 20), (9, 8), (10, 9), (11, 10), (12, 0),
     (13, 12), (14, 13), (15, 14), (16, 0), (17, 16), (18, 17), (19, 18), (21, 22), (22, 7), (23, 24), (24, 11)],
    root="spine_base",
)  # fmt: skip

# Kinect v1 as NW-UCLA orders it.
KINECT20 = _layout(
    "kinect20",
    ["hip_center", "spine", "shoulder_center", "head"] + _sides("shoulder elbow wrist hand") + _sides("hip knee ankle foot"),
    [(0, 1), (1, 2), (2, 3), (2, 4), (4, 5), (5, 6), (6, 7), (2, 8), (8, 9), (9, 10), (10, 11),
     (0, 12), (12, 13), (13, 14), (14, 15), (0, 16), (16, 17), (17, 18), (18, 19)],
    root="hip_center",
)  # fmt: skip

# Kinect v1 as MSR Action3D orders it.
MSR20 = _layout(
    "msr20",
    ["left_shoulder", "right_shoulder", "neck", "spine", "left_hip", "right_hip", "hip_center", "left_elbow", "right_elbow",
     "left_wrist", "right_wrist", "left_hand", "right_hand", "left_knee", "right_knee", "left_ankle", "right_ankle",
     "left_foot", "right_foot", "head"],
    [(19, 2), (2, 0), (2, 1), (0, 7), (7, 9), (9, 11), (1, 8), (8, 10), (10, 12), (2, 3), (3, 6), (6, 4), (6, 5),
     (4, 13), (13, 15), (15, 17), (5, 14), (14, 16), (16, 18)],
    root="hip_center",
)  # fmt: skip

# OpenNI/NITE as SBU Kinect Interaction orders it.
NITE15 = _layout(
    "nite15",
    ["head", "neck", "torso"] + _sides("shoulder elbow hand") + _sides("hip knee foot"),
    [(0, 1), (1, 2), (1, 3), (3, 4), (4, 5), (1, 6), (6, 7), (7, 8), (2, 9), (9, 10), (10, 11), (2, 12), (12, 13), (13, 14)],
    root="torso",
)  # fmt: skip

_COCO_FACE = ["nose", "left_eye", "right_eye", "left_ear", "right_ear"]

# COCO keypoints; limbs interleave left and right. The root is the nose side of the torso: COCO has no centre joint.
COCO17 = _layout(
    "coco17",
    _COCO_FACE
    + [f"{side}_{part}" for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in ("left", "right")],
    [(0, 1), (0, 2), (1, 3), (2, 4), (0, 5), (0, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12),
     (11, 13), (13, 15), (12, 14), (14, 16)],
    root="nose",
    dims=2,
)  # fmt: skip

# OpenPose COCO model with the added neck, as Kinetics-skeleton orders it.
OPENPOSE18 = _layout(
    "openpose18",
    ["nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "right_hip",
     "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear"],
    [(0, 1), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (2, 8), (8, 9), (9, 10), (5, 11), (11, 12), (12, 13),
     (0, 14), (0, 15), (14, 16), (15, 17)],
    root="neck",
    dims=2,
)  # fmt: skip

# MediaPipe BlazePose.
MEDIAPIPE33 = _layout(
    "mediapipe33",
    ["nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer", "left_ear",
     "right_ear", "left_mouth", "right_mouth"]
    + [f"{side}_{part}" for part in ("shoulder", "elbow", "wrist", "pinky", "index", "thumb", "hip", "knee", "ankle", "heel",
                                     "foot_index") for side in ("left", "right")],
    [(0, 1), (1, 2), (2, 3), (3, 7), (0, 4), (4, 5), (5, 6), (6, 8), (0, 9), (0, 10), (0, 11), (0, 12), (11, 13), (13, 15),
     (15, 17), (15, 19), (15, 21), (12, 14), (14, 16), (16, 18), (16, 20), (16, 22), (11, 23), (12, 24), (23, 25), (25, 27),
     (27, 29), (29, 31), (24, 26), (26, 28), (28, 30), (30, 32)],
    root="nose",
)  # fmt: skip

LAYOUTS: dict[str, Skeleton] = {
    layout.name: layout for layout in (NTU25, KINECT20, MSR20, NITE15, COCO17, OPENPOSE18, MEDIAPIPE33)
}


def get_skeleton(name_or_path: str) -> Skeleton:
    """A named layout, or one read from a JSON file with the fields of :class:`Skeleton`."""
    if name_or_path in LAYOUTS:
        return LAYOUTS[name_or_path]
    path = Path(name_or_path)
    if path.suffix != ".json" or not path.is_file():
        raise InputError(
            f"unknown skeleton layout '{name_or_path}'",
            expected=f"one of {', '.join(LAYOUTS)}, or a .json file",
            hint="star-edge inspect skeletons",
        )
    try:
        return msgspec.json.decode(path.read_bytes(), type=Skeleton).check(where=path)
    except JSON_ERRORS as error:
        raise InputError(f"cannot read the skeleton layout: {error}", where=path) from None
