"""Which way is up, what a clip was after some frames, and the probabilities along it."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.clip import Clip
from runtime.engines.onnxruntime import open_engine
from runtime.errors import GateError
from runtime.recognizer import Recognizer
from star_edge.report.clips import Shown
from star_edge.report.motion import make_motions, prefix, turned, upward
from star_edge.skeletons import LAYOUTS

UPPER, LOWER = ("head", "nose", "eye", "ear"), ("ankle", "foot", "heel")


def standing(layout: str, axis: int, sign: int, rows: int = 12) -> np.ndarray:
    """Joints [rows, V, 3] of a body that stands along an axis: heads 1.7 m and feet 0 m above the floor."""
    skeleton = LAYOUTS[layout]
    rng = np.random.default_rng(0)
    heights = [
        1.7 if any(p in name for p in UPPER) else 0.05 if any(p in name for p in LOWER) else 1.0 for name in skeleton.joints
    ]
    joints = rng.normal(scale=0.05, size=(rows, skeleton.num_joints, 3)) + 0.3
    joints[..., axis] += sign * np.array(heights)
    if skeleton.dims == 2:
        joints[..., 2] = 0.9
    return joints.astype(np.float32)


@pytest.mark.parametrize(
    ("layout", "axis", "sign"),
    [(name, axis, sign) for name in LAYOUTS for axis in (1, 2) if axis < LAYOUTS[name].dims for sign in (1, -1)],
)
def test_a_person_stands_upright_in_every_layout(layout, axis, sign):
    skeleton = LAYOUTS[layout]
    joints = standing(layout, axis, sign)
    joints[:4] = 0  # lost joints are at no height
    up = upward(skeleton, [joints])
    assert up == (axis, sign)
    heights = turned(joints[4:], up, skeleton.dims)[..., 1].mean(0)
    names = list(skeleton.joints)
    head = next(i for i, name in enumerate(names) if any(part in name for part in UPPER))
    foot = next(i for i, name in enumerate(names) if any(part in name for part in LOWER))
    assert heights[head] > heights[foot] + 1


@pytest.mark.parametrize("up", [(1, 1), (1, -1), (2, 1), (2, -1)])
def test_turning_a_body_does_not_mirror_it(up):
    axes = turned(np.eye(3, dtype=np.float32)[None], up, 3)[0]
    assert np.linalg.det(axes) == pytest.approx(1)
    assert (turned(np.ones((1, 1, 3)), (1, -1), 2) == [[[1, -1, 1]]]).all()  # an image: the score stays


def test_a_layout_without_heads_or_feet_keeps_y_up(tiny_bundle):
    skeleton = Bundle.open(tiny_bundle).manifest.skeleton
    unnamed = type(skeleton)("own", tuple(f"joint {i}" for i in range(15)), skeleton.bones, skeleton.root)
    assert upward(unnamed, [standing("nite15", 1, -1)]) == (1, 1)


def test_nothing_tracked_has_no_direction():
    assert upward(LAYOUTS["nite15"], [np.zeros((3, 15, 3), dtype=np.float32)]) == (1, 1)


def test_a_prefix_takes_as_many_rows_of_each_person():
    joints = np.arange(8 * 15 * 3, dtype=np.float32).reshape(8, 15, 3) + 1
    clip = Clip(joints, (5, 3), "two")
    cut = prefix(clip, 4)
    assert cut.person_lengths == (4, 3)
    assert (cut.joints == joints[[0, 1, 2, 3, 5, 6, 7]]).all()
    assert prefix(clip, 5).person_lengths == (5, 3)


@pytest.fixture
def recognizer(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    return Recognizer(bundle, open_engine(bundle, threads=1))


def test_the_last_step_is_the_answer_to_the_whole_clip(recognizer):
    joints = np.random.default_rng(2).normal(size=(9, 15, 3)).astype(np.float32)
    joints[4, 3] = 0
    clip = Clip(joints, (6, 3), "two persons")
    (motion,) = make_motions(recognizer, [Shown(clip, 2, "wrong")], None)
    prediction = recognizer(clip)[0]
    assert (motion.answer, motion.truth, motion.why) == (prediction.name, "bow", "wrong")
    assert motion.confidence == pytest.approx(prediction.confidence, abs=1e-4)
    assert motion.steps == (1, 2, 3, 4, 5, 6)
    assert (motion.frames, motion.fps, motion.every) == (6, 30.0, 1)
    assert [len(person) for person in motion.persons] == [6, 3]
    assert motion.persons[0][4][3] is None
    assert sum(joint is None for person in motion.persons for row in person for joint in row) == 1
    assert motion.lines[0].truth
    assert {line.name for line in motion.lines} == set(recognizer.class_names)  # four of four
    third = recognizer(prefix(clip, 3))[0]
    assert dict(third.top(4)) == pytest.approx({line.name: line.values[2] for line in motion.lines}, abs=1e-3)


def test_one_frame_and_a_very_long_clip(recognizer):
    joints = np.random.default_rng(2).normal(size=(1501, 15, 3)).astype(np.float32)
    one, long = make_motions(
        recognizer, [Shown(Clip(joints[:1], (1,), "one"), None, ""), Shown(Clip(joints, (1501,), "long"), 0, "")], 15.0
    )
    assert (one.frames, one.steps, one.truth) == (1, (1,), "")
    assert (long.every, long.frames, long.fps) == (3, 501, 5.0)
    assert len(long.steps) == 40
    assert long.steps[-1] == 1501


def test_an_engine_without_an_answer_still_plays(recognizer, monkeypatch):
    def overflow(_):
        raise GateError("the engine's answer is not finite")

    monkeypatch.setattr(recognizer, "logits", overflow)
    (motion,) = make_motions(recognizer, [Shown(Clip(np.ones((2, 15, 3), dtype=np.float32), (2,), "x"), 0, "")], None)
    assert (motion.lines, motion.answer, motion.note) == ((), "", "the engine's answer is not finite")
    assert motion.frames == 2
