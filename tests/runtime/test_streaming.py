"""Streams: each result equals recognising the last frames, and memory stays flat."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import star_edge
from runtime.clip import Clip
from runtime.errors import InputError
from runtime.recognizer import Recognizer
from runtime.streaming import Stream

Frame = list[tuple[int, np.ndarray]]


@pytest.fixture
def recognizer(tiny_bundle: Path) -> Recognizer:
    return star_edge.load(tiny_bundle, engine="onnxruntime", threads=1)


def joints(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(15, 3)).astype(np.float32)


def clip_of(frames: list[Frame]) -> Clip | None:
    """The clip of a list of frames, from the definition: persons in order of their first tracked row."""
    order: list[int] = []
    for frame in frames:
        order += [identity for identity, rows in frame if identity not in order and rows.any()]
    persons = [np.stack([rows for frame in frames for i, rows in frame if i == identity]) for identity in order]
    return Clip.from_persons(persons) if persons else None


# the recogniser has no state, so one serves all examples
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.lists(st.integers(0, 3), max_size=3, unique=True), max_size=40),
    lost=st.sets(st.integers(0, 120)),
    window=st.integers(1, 12),
    hop=st.integers(1, 7),
)
def test_each_result_equals_recognising_the_window(
    recognizer: Recognizer, ids: list[list[int]], lost: set[int], window: int, hop: int
) -> None:
    stream = Stream(recognizer, window, hop)
    frames: list[Frame] = []
    for step, present in enumerate(ids):
        seeds = [3 * step + place for place in range(len(present))]
        rows = [np.zeros((15, 3), np.float32) if seed in lost else joints(seed) for seed in seeds]
        frames.append(list(zip(present, rows, strict=True)))
        result = stream.push(frames[-1])
        assert (result is not None) == (len(frames) % hop == 0)
        if result is None:
            continue
        expected = clip_of(frames[-window:])
        assert result.frame == len(frames)
        if expected is None:
            assert result.prediction is None
            assert result.persons == ()
        else:
            assert result.prediction is not None
            assert result.rows == len(expected)
            assert len(result.persons) == len(expected.person_lengths)
            np.testing.assert_array_equal(result.prediction.logits, recognizer.logits(expected)[0])


def test_first_result_after_one_hop_then_the_window_fills(recognizer: Recognizer) -> None:
    stream = Stream(recognizer)
    rows = []
    for step in range(128):
        result = stream.push([(7, joints(step))])
        if result:
            rows.append((result.frame, result.rows))
    assert rows == [(16, 16), (32, 32), (48, 48), (64, 64), (80, 64), (96, 64), (112, 64), (128, 64)]


def test_person_who_leaves_the_window_is_forgotten(recognizer: Recognizer) -> None:
    stream = Stream(recognizer, window=4, hop=1)
    stream.push([(1, joints(0)), (2, joints(1))])
    for step in range(3):
        assert stream.push([(2, joints(step))]).persons == (1, 2)  # type: ignore[union-attr]
    assert stream.push([(1, joints(9)), (2, joints(8))]).persons == (2, 1)  # type: ignore[union-attr]


def test_nobody_there(recognizer: Recognizer) -> None:
    stream = Stream(recognizer, window=2, hop=1)
    assert stream.push([(1, joints(0))]).prediction is not None  # type: ignore[union-attr]
    assert stream.push([]).prediction is not None  # type: ignore[union-attr]
    empty = stream.push([(1, np.zeros((15, 3)))])
    assert empty is not None
    assert (empty.prediction, empty.persons, empty.rows) == (None, (), 0)
    assert stream.window() is None


def test_the_caller_may_reuse_its_buffer(recognizer: Recognizer) -> None:
    stream, buffer = Stream(recognizer, window=4, hop=4), np.empty((15, 3), np.float32)
    for step in range(3):
        buffer[:] = joints(step)
        stream.push([(1, buffer)])
    clip = stream.window()
    assert clip is not None
    np.testing.assert_array_equal(clip.joints, np.stack([joints(step) for step in range(3)]))


def test_memory_is_flat_over_many_frames_and_ids(recognizer: Recognizer) -> None:
    stream = Stream(recognizer, window=8, hop=500)
    skeleton = joints(0)

    def push(first: int, count: int) -> int:
        for step in range(first, first + count):
            stream.push([(step, skeleton), (-step - 1, skeleton)])  # nobody is ever seen twice
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        early = push(0, 2_000)
        late = push(2_000, 18_000)
    finally:
        tracemalloc.stop()
    # other threads of the test run allocate a little too; one number kept for each frame or person would be over a megabyte
    assert late - early < 200_000


@pytest.mark.parametrize(
    ("persons", "message"),
    [
        ([(1, np.zeros((14, 3)))], "wrong joint count"),
        ([(1, np.full((15, 3), np.nan))], "NaN or infinity"),
        ([(1, [[0, 0, 0]] * 14 + [[0]])], "no array of numbers"),
        ([(1, np.ones((15, 3))), (1, np.ones((15, 3)))], "appears twice"),
    ],
)
def test_bad_frame_is_refused_and_not_taken(recognizer: Recognizer, persons: list, message: str) -> None:
    stream = Stream(recognizer, window=4, hop=2)
    stream.push([(1, joints(0))])
    with pytest.raises(InputError, match=message):
        stream.push(persons)
    result = stream.push([(1, joints(1))])
    assert result is not None
    assert (result.frame, result.rows) == (2, 2)


@pytest.mark.parametrize("arguments", [{"window": 0}, {"hop": 0}, {"hop": -1}])
def test_window_and_hop_must_hold_frames(recognizer: Recognizer, arguments: dict) -> None:
    with pytest.raises(InputError, match="without frames"):
        Stream(recognizer, **arguments)
