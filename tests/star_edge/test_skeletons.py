"""Named layouts and layouts from files."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from runtime.errors import InputError
from star_edge.skeletons import KINECT20, LAYOUTS, MSR20, NITE15, NTU25, get_skeleton

COUNTS = {"ntu25": 25, "kinect20": 20, "msr20": 20, "nite15": 15, "coco17": 17, "openpose18": 18, "mediapipe33": 33}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_trees_with_mirrored_bones(name: str) -> None:
    skeleton = LAYOUTS[name].check()
    assert skeleton.num_joints == COUNTS[name] == len(set(skeleton.joints))
    assert len(skeleton.bones) == skeleton.num_joints - 1
    np.testing.assert_array_equal(skeleton.mirror[skeleton.mirror], np.arange(skeleton.num_joints))
    for left, right in skeleton.pairs:
        assert skeleton.joints[left].replace("left", "right") == skeleton.joints[right]


def test_edges_of_three_hops_are_the_papers() -> None:
    edges = NTU25.edges()
    assert len(edges) == len(set(edges)) == 187
    assert len(NTU25.edges(hops=1)) == 48
    assert {(j, j) for j in range(25)} <= set(edges)
    assert set(edges) == {(j, i) for i, j in edges}


@pytest.mark.parametrize(
    ("file", "skeleton"),
    [("nw_ucla", KINECT20), ("msr_action3d", MSR20), ("sbu_interaction", NITE15)],
    ids=lambda x: str(x)[:12],
)
def test_bones_equal_those_of_the_recordings(real_data: Path, file: str, skeleton) -> None:
    with np.load(real_data / f"{file}.npz", allow_pickle=False) as arrays:
        edges = arrays["edges"].tolist()
    assert {frozenset(edge) for edge in edges} == {frozenset(bone) for bone in skeleton.bones}


def test_a_layout_from_a_file_equals_the_named_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(msgspec.json.encode(NTU25))
    assert get_skeleton(str(path)) == NTU25


@pytest.mark.parametrize(
    "change",
    [
        {"bones": [[1, 0]]},
        {"bones": [[c, p] for c, p in NTU25.bones[:-1]] + [[24, 99]]},
        {"root": 25},
        {"dims": 4},
        {"joints": 3},
        {"bones": [[1, 2], [2, 1]] + [[j, 0] for j in range(3, 25)]},
    ],
)
def test_a_bad_layout_file_is_refused(tmp_path: Path, change: dict) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**msgspec.to_builtins(NTU25), **change}))
    with pytest.raises(InputError, match=r"layout"):
        get_skeleton(str(path))


def test_an_unknown_layout_lists_the_known() -> None:
    with pytest.raises(InputError, match="ntu25"):
        get_skeleton("ntu26")
