"""JSON clips of two formats: joints as they stand there, persons in order, and damage that is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InputError
from runtime.readers import read_clips
from runtime.readers.clip_json import parse_kinetics, parse_nw_ucla, read_clip_json


def ucla(frames: int = 4, seed: int = 0, **changes: Any) -> dict[str, Any]:
    joints = np.random.default_rng(seed).normal(size=(frames, 20, 3)).astype(np.float32)
    return {"file_name": "a01_s01_e00_v01", "skeletons": joints.tolist(), "label": 1} | changes


def body(x: float = 0.25, y: float = 0.75, score: float = 0.5) -> dict[str, Any]:
    return {"pose": [x, y] * 18, "score": [score] * 18}


def kinetics(*frames: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    data = [{"frame_index": i + 1, "skeleton": bodies} for i, bodies in enumerate(frames)]
    return {"data": data, "label": "yoga", "label_index": 3} | changes


def dump(content: Any) -> bytes:
    return json.dumps(content).encode()


def test_nw_ucla_joints_are_those_of_the_file() -> None:
    content = ucla()
    recording = parse_nw_ucla(dump(content), name="clip")
    np.testing.assert_array_equal(recording.clip.joints, np.array(content["skeletons"], dtype=np.float32))
    assert (recording.label, recording.frames, recording.persons, recording.clip.name) == (1, 4, 1, "clip")


def test_nw_ucla_lost_rows_are_dropped() -> None:
    content = ucla()
    content["skeletons"][1] = [[0, 0, 0]] * 20
    clip = parse_nw_ucla(dump(content)).clip
    assert (clip.person_lengths, clip.dropped) == ((3,), 1)


def test_kinetics_coordinates_from_the_middle_upwards() -> None:
    clip = parse_kinetics(dump(kinetics([body(0.25, 0.75, 0.5)], [body(1, 0, 1)]))).clip
    np.testing.assert_array_equal(clip.joints[0], np.tile(np.float32([-0.25, -0.25, 0.5]), (18, 1)))
    np.testing.assert_array_equal(clip.joints[1], np.tile(np.float32([0.5, 0.5, 1]), (18, 1)))


def test_kinetics_class_and_order_of_frames() -> None:
    content = kinetics([body(0.1)], [body(0.2)], [body(0.3)])
    content["data"].reverse()
    recording = parse_kinetics(dump(content))
    assert (recording.label, recording.class_name, recording.frames) == (3, "yoga", 3)
    np.testing.assert_allclose(recording.clip.joints[:, 0, 0], [-0.4, -0.3, -0.2], atol=1e-6)


def test_kinetics_lost_joints_and_frames() -> None:
    lost = body()
    lost["score"][4] = 0
    clip = parse_kinetics(dump(kinetics([lost], [], [body(0, 0, 0)], [body()]))).clip
    assert (clip.person_lengths, clip.dropped) == ((2,), 2)
    assert not clip.joints[0, 4].any()


def test_kinetics_two_best_scores_of_three() -> None:
    frames = [[body(0.1, score=0.2), body(0.2, score=0.9), body(0.3, score=0.5)]] * 3 + [[body(0.1, score=0.2)]]
    recording = parse_kinetics(dump(kinetics(*frames)))
    assert (recording.persons, recording.clip.person_lengths, recording.clip.dropped) == (3, (3, 3), 2)
    np.testing.assert_allclose(recording.clip.joints[[0, 3], 0, 2], [0.9, 0.5], atol=1e-6)


def test_many_bodies_in_one_of_many_frames_take_little_memory() -> None:
    import tracemalloc

    content = dump(kinetics([body()] * 300, *[[] for _ in range(5000)]))
    tracemalloc.start()
    parse_kinetics(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


UCLA_BAD: dict[str, tuple[Any, str]] = {
    "19 joints": (ucla(skeletons=[[[0, 0, 1]] * 19]), "wrong joint count"),
    "two coordinates": (ucla(skeletons=[[[0, 1]] * 20]), "cannot read"),
    "text": (ucla(skeletons=[[["a", "b", "c"]] * 20]), "cannot read"),
    "null": (ucla(skeletons=None), "cannot read"),
    "no frames": (ucla(skeletons=[]), "no body"),
    "nobody": (ucla(skeletons=[[[0, 0, 0]] * 20]), "no body"),
    "too large": (ucla(skeletons=[[[1e300, 0, 0]] * 20]), "too large"),
    "a label of text": (ucla(label="one"), "cannot read"),
    "a list": ([1], "cannot read"),
}
KINETICS_BAD: dict[str, tuple[Any, str]] = {
    "17 joints": (kinetics([{"pose": [0.5] * 34, "score": [1] * 17}]), "wrong joint count"),
    "half a joint": (kinetics([{"pose": [0.5] * 35, "score": [1] * 18}]), "wrong joint count"),
    "other scores": (kinetics([{"pose": [0.5] * 36, "score": [1] * 17}]), "wrong joint count"),
    "text": (kinetics([{"pose": ["x"] * 36, "score": [1] * 18}]), "cannot read"),
    "no score": (kinetics([{"pose": [0.5] * 36}]), "cannot read"),
    "a frame twice": (kinetics(data=[{"frame_index": 1, "skeleton": []}] * 2), "twice"),
    "too many bodies": (kinetics([body()] * 1001), "too many"),
    "too large": (kinetics([body(1e300)]), "too large"),
    "nobody": (kinetics([], []), "no body"),
    "no frames": (kinetics(), "no body"),
    "a list": ([1], "cannot read"),
}


@pytest.mark.parametrize("bad", UCLA_BAD)
def test_bad_nw_ucla_files(bad: str) -> None:
    content, what = UCLA_BAD[bad]
    with pytest.raises(InputError, match=what) as caught:
        parse_nw_ucla(dump(content), "f.json")
    assert str(caught.value.where).startswith("f.json")
    assert caught.value.expected


@pytest.mark.parametrize("bad", KINETICS_BAD)
def test_bad_kinetics_files(bad: str) -> None:
    content, what = KINETICS_BAD[bad]
    with pytest.raises(InputError, match=what) as caught:
        parse_kinetics(dump(content), "f.json")
    assert str(caught.value.where).startswith("f.json")
    assert caught.value.expected


def test_a_file_is_told_by_its_fields(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(dump(ucla()))
    (tmp_path / "b.json").write_bytes(dump(kinetics([body()])))
    (one,), (other,) = read_clips(tmp_path / "a.json"), read_clips(tmp_path / "b.json")
    assert (one.name, one.joints.shape, other.name, other.joints.shape) == ("a", (4, 20, 3), "b", (1, 18, 3))
    for text in ("{}", "[]", "", "null", '{"data": null}', '{"name": "x"}', "[" * 100_000):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(InputError) as caught:
            read_clips(tmp_path / "c.json")
        assert str(caught.value.where).startswith(str(tmp_path / "c.json"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["skeletons", "label", "data", "label_index", "frame_index", "skeleton", "pose", "score"]), JSON)
def test_fields_of_any_kind_are_read_or_refused(name: str, value: Any) -> None:
    frame: dict[str, Any] = {"frame_index": 1, "skeleton": [body()]}
    person = body() | {name: value}
    contents = [
        kinetics([body()]) | {name: value},
        kinetics(data=[frame | {name: value}]),
        kinetics([person]),
        ucla() | {name: value},
    ]
    for content in contents:
        for parse in (parse_kinetics, parse_nw_ucla):
            try:
                clip = parse(dump(content)).clip
            except InputError:
                continue
            assert np.isfinite(clip.joints).all()


GOOD = [dump(ucla(frames=2)), dump(kinetics([body(), body(0.1)], [body()]))]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(GOOD), st.data())
def test_mutated_files_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, good: bytes, data: st.DataObject) -> None:
    mutated = bytearray(good)
    if data.draw(st.booleans()):
        del mutated[data.draw(st.integers(0, len(mutated))) :]
    for _ in range(data.draw(st.integers(0, 4))):
        start = data.draw(st.integers(0, len(mutated)))
        mutated[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    path.write_bytes(mutated)
    try:
        clip = read_clip_json(path).clip
    except InputError:
        return
    assert np.isfinite(clip.joints).all()


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(GOOD), st.data())
def test_truncated_files_are_refused(good: bytes, data: st.DataObject) -> None:
    cut = good[: data.draw(st.integers(0, len(good) - 1))]
    for parse in (parse_kinetics, parse_nw_ucla):
        with pytest.raises(InputError):
            parse(cut)
