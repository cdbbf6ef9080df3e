"""Joints of one layout from those of another: by name, by stand-in, or lost."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError
from runtime.readers.ntu import read_ntu
from runtime.skeleton import Skeleton
from star_edge.data import Dataset, convert
from star_edge.data.joint_map import map_joints
from star_edge.skeletons import COCO17, KINECT20, LAYOUTS, MEDIAPIPE33, MSR20, NITE15, NTU25, OPENPOSE18


def joints_of(layout: Skeleton, rows: int = 4) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 1, size=(rows, layout.num_joints, 3)).astype(np.float32)


def test_joints_of_one_name_are_taken_as_they_are() -> None:
    source = joints_of(NTU25)
    mapped = map_joints(NTU25, KINECT20)(source)
    for name in set(NTU25.joints) & set(KINECT20.joints):
        np.testing.assert_array_equal(mapped[:, KINECT20.joints.index(name)], source[:, NTU25.joints.index(name)])


@pytest.mark.parametrize(
    ("source", "target", "joint", "parts"),
    [
        (NTU25, KINECT20, "hip_center", ["spine_base"]),
        (NTU25, KINECT20, "spine", ["spine_mid"]),
        (NTU25, KINECT20, "shoulder_center", ["spine_shoulder"]),
        (KINECT20, NTU25, "neck", ["shoulder_center"]),
        (NITE15, MSR20, "hip_center", ["left_hip", "right_hip"]),
        (NITE15, NTU25, "spine_shoulder", ["left_shoulder", "right_shoulder"]),
        (NITE15, KINECT20, "left_wrist", ["left_hand"]),
        (MEDIAPIPE33, NTU25, "right_hand", ["right_index", "right_pinky"]),
        (MEDIAPIPE33, NTU25, "head", ["left_ear", "right_ear"]),
        (MEDIAPIPE33, KINECT20, "spine", ["left_shoulder", "right_shoulder", "left_hip", "right_hip"]),
        (COCO17, OPENPOSE18, "neck", ["left_shoulder", "right_shoulder"]),
        (OPENPOSE18, COCO17, "left_ankle", ["left_ankle"]),
    ],
)
def test_stand_ins(source: Skeleton, target: Skeleton, joint: str, parts: list[str]) -> None:
    joints = joints_of(source)
    mapped = map_joints(source, target)(joints)[:, target.joints.index(joint), : source.dims]
    expected = joints[:, [source.joints.index(part) for part in parts], : source.dims].mean(axis=1)
    np.testing.assert_allclose(mapped, expected, rtol=1e-6)


def test_score_of_a_middle_is_the_lowest_of_its_parts() -> None:
    joints = joints_of(COCO17)
    neck = map_joints(COCO17, OPENPOSE18)(joints)[:, OPENPOSE18.joints.index("neck")]
    np.testing.assert_array_equal(neck[:, 2], joints[:, [5, 6], 2].min(axis=1))


def test_a_joint_is_lost_with_one_of_its_parts() -> None:
    joints = joints_of(COCO17)
    joints[1, 5] = 0
    mapped = map_joints(COCO17, OPENPOSE18)(joints)
    neck = mapped[:, OPENPOSE18.joints.index("neck")]
    assert not neck[1].any()
    assert neck[[0, 2, 3]].all()
    assert not mapped[1, OPENPOSE18.joints.index("left_shoulder")].any()


def test_joints_without_counterpart_are_lost() -> None:
    mapping = map_joints(KINECT20, NTU25)
    assert mapping.lost == ("left_hand_tip", "left_thumb", "right_hand_tip", "right_thumb")
    mapped = mapping(joints_of(KINECT20))
    lost = [NTU25.joints.index(name) for name in mapping.lost]
    assert not mapped[:, lost].any()
    assert np.delete(mapped, lost, axis=1).all()


def test_every_pair_of_layouts_keeps_sides_and_roots() -> None:
    for source, target in itertools.permutations(LAYOUTS.values(), 2):
        if source.dims != target.dims:
            with pytest.raises(InputError, match="2-D and 3-D"):
                map_joints(source, target)
            continue
        mapping = map_joints(source, target)
        assert mapping.parts[target.root], (source.name, target.name)
        for name, parts in zip(target.joints, mapping.parts, strict=True):
            side = next((side for side in ("left_", "right_") if name.startswith(side)), None)
            if side:
                assert all(source.joints[part].startswith(side) for part in parts)


def test_layouts_with_nothing_in_common() -> None:
    bare = Skeleton("bare", ("joint_0", "joint_1"), ((1, 0),), 0)
    with pytest.raises(InputError, match="no joint"):
        map_joints(NTU25, bare)


def test_converted_clips_are_mapped(tmp_path: Path, tiny_dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    recordings = tiny_dataset.parent / "skeletons"
    meta = convert(recordings, tmp_path / "nite", to_skeleton="nite15")
    dataset = Dataset.open(tmp_path / "nite")
    assert meta.skeleton == NITE15
    recording = read_ntu(recordings / f"{dataset.names[3]}.skeleton")
    np.testing.assert_array_equal(dataset.clip(3).joints, map_joints(NTU25, NITE15)(recording.clip.joints))
    convert(recordings, tmp_path / "mediapipe", to_skeleton="mediapipe33")
    assert "left_heel" in caplog.text
    convert(recordings, tmp_path / "same", to_skeleton="ntu25")
    np.testing.assert_array_equal(Dataset.open(tmp_path / "same").xyz, Dataset.open(tiny_dataset).xyz)
    with pytest.raises(InputError, match="2-D and 3-D"):
        convert(recordings, tmp_path / "flat", to_skeleton="coco17")


def test_rows_without_any_joint_of_the_new_layout_are_dropped(tmp_path: Path) -> None:
    xyz = np.zeros((5, 25, 3), dtype=np.float32)
    xyz[:, NTU25.joints.index("left_thumb")] = 1
    xyz[:3, NTU25.joints.index("head")] = 2
    np.savez(tmp_path / "x.npz", xyz=xyz, lengths=[3, 2], labels=[0, 0], subjects=[1, 2], class_names=["a"])
    meta = convert(tmp_path / "x.npz", tmp_path / "out", skeleton="ntu25", to_skeleton="nite15")
    assert meta.clips == 1
    assert [entry.reason for entry in meta.skipped] == ["clip without any tracked body"]
