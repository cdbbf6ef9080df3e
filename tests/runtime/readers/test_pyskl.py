"""PYSKL annotations: what they hold, how pixels become coordinates, and damage that is named."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InputError
from runtime.readers.ntu import Recording
from runtime.readers.pyskl import Annotation, load_pyskl, read_annotation

HEIGHT, WIDTH = 480, 640


def annotation(persons: int = 1, frames: int = 6, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A 2-D clip; the later a person stands, the more it moves. A change to None takes a field away."""
    rng = np.random.default_rng(seed)
    where = rng.uniform(50, 400, (persons, 1, 17, 2)) + np.cumsum(rng.normal(size=(persons, frames, 17, 2)), axis=1)
    where *= 1 + 0.1 * np.arange(persons)[:, None, None, None]
    fields = {
        "frame_dir": "clip",
        "label": 1,
        "img_shape": (HEIGHT, WIDTH),
        "original_shape": (HEIGHT, WIDTH),
        "total_frames": frames,
        "keypoint": where.astype(np.float16),
        "keypoint_score": rng.uniform(0.1, 1, (persons, frames, 17)).astype(np.float16),
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}


def write(path: Path, *annotations: Any, split: Any = None, protocol: int = 4) -> Path:
    content = {"split": split or {}, "annotations": list(annotations)}
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def read(path: Path, dims: int = 2) -> Recording:
    (entry,) = load_pyskl(path).entries
    if isinstance(entry, InputError):
        raise entry
    assert isinstance(entry, Annotation)
    return read_annotation(entry, dims)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_pixels_become_shares_of_the_longer_side(tmp_path: Path, protocol: int, kind: type) -> None:
    fields = annotation()
    fields["keypoint"] = fields["keypoint"].astype(kind)
    recording = read(write(tmp_path / "x.pkl", fields, protocol=protocol))
    pixels, score = fields["keypoint"][0].astype(np.float32), fields["keypoint_score"][0].astype(np.float32)
    expected = np.stack([(pixels[..., 0] - 320) / 640, (240 - pixels[..., 1]) / 640, score], axis=-1)
    np.testing.assert_allclose(recording.clip.joints, expected, atol=1e-6)
    assert (recording.frames, recording.persons, recording.clip.name) == (6, 1, "clip")


def test_limbs_keep_their_proportions_in_an_image_of_any_shape(tmp_path: Path) -> None:
    keypoint = np.zeros((1, 1, 17, 2)) + 100.0
    keypoint[0, 0, 1], keypoint[0, 0, 2] = (110, 100), (100, 110)
    for shape in ((480, 640), (1080, 600)):
        fields = annotation(frames=1, keypoint=keypoint, img_shape=shape, keypoint_score=np.ones((1, 1, 17)))
        nose, right, below = read(write(tmp_path / "x.pkl", fields)).clip.joints[0, :3, :2].astype(np.float64)
        assert right[0] - nose[0] == pytest.approx(nose[1] - below[1], rel=1e-4)
        assert right[0] - nose[0] == pytest.approx(10 / max(shape), rel=1e-4)


def test_three_coordinates_stay_metres(tmp_path: Path) -> None:
    joints = np.random.default_rng(0).normal(size=(1, 5, 25, 3)).astype(np.float32)
    fields = annotation(keypoint=joints, keypoint_score=None, img_shape=None, original_shape=None, total_frames=5)
    np.testing.assert_array_equal(read(write(tmp_path / "x.pkl", fields), dims=3).clip.joints, joints[0])


def test_three_coordinates_of_a_flat_layout_are_x_y_score(tmp_path: Path) -> None:
    fields = annotation()
    score = fields.pop("keypoint_score")
    merged = fields | {"keypoint": np.concatenate([fields["keypoint"], score[..., None]], axis=-1)}
    expected = read(write(tmp_path / "x.pkl", fields | {"keypoint_score": score})).clip.joints
    np.testing.assert_array_equal(read(write(tmp_path / "y.pkl", merged)).clip.joints, expected)
    with pytest.raises(InputError, match="two scores"):
        read(write(tmp_path / "z.pkl", merged | {"keypoint_score": score}))


def test_without_scores_every_joint_that_is_there_has_one(tmp_path: Path) -> None:
    fields = annotation(keypoint_score=None)
    fields["keypoint"][0, 2, 3] = 0
    score = read(write(tmp_path / "x.pkl", fields)).clip.joints[..., 2]
    assert score[2, 3] == 0
    assert score.sum() == score.size - 1


def test_lost_joints_and_rows(tmp_path: Path) -> None:
    fields = annotation()
    fields["keypoint_score"][0, 1, 4] = 0
    fields["keypoint"][0, 2] = 0
    clip = read(write(tmp_path / "x.pkl", fields)).clip
    assert not clip.joints[1, 4].any()
    assert (clip.person_lengths, clip.dropped) == ((5,), 1)


def test_the_two_that_move_most_of_three(tmp_path: Path) -> None:
    fields = annotation(persons=4)
    fields["keypoint"][2] = 0  # a place nobody takes
    recording = read(write(tmp_path / "x.pkl", fields))
    assert (recording.persons, recording.clip.person_lengths) == (3, (6, 6))
    moved = fields["keypoint"].astype(np.float32).std(axis=(1, 2)).sum(-1)
    order = [person for person in np.argsort(-moved).tolist() if person != 2][:2]
    score = fields["keypoint_score"][order].astype(np.float32).reshape(-1, 17)
    np.testing.assert_array_equal(recording.clip.joints[..., 2], score)


def test_the_size_of_the_image_may_be_numbers_of_numpy(tmp_path: Path) -> None:
    expected = read(write(tmp_path / "x.pkl", annotation())).clip.joints
    shapes: list[Any] = [np.array([HEIGHT, WIDTH]), [np.int64(HEIGHT), np.int64(WIDTH)], None]
    for shape in shapes:
        clip = read(write(tmp_path / "y.pkl", annotation(img_shape=shape))).clip
        np.testing.assert_array_equal(clip.joints, expected)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"frame_dir": None}, "without a name"),
    "a number as name": ({"frame_dir": 7}, "without a name"),
    "a name without end": ({"frame_dir": "x" * 1000}, "without a name"),
    "a name in two lines": ({"frame_dir": "a\nb"}, "without a name"),
    "no class": ({"label": None}, "without a class"),
    "a negative class": ({"label": -1}, "without a class"),
    "a class without end": ({"label": 10**9}, "without a class"),
    "text as class": ({"label": "wave"}, "without a class"),
    "no joints": ({"keypoint": None}, "without joints"),
    "a list as joints": ({"keypoint": [[1.0]]}, "without joints"),
    "three axes": ({"keypoint": np.ones((6, 17, 2))}, "not usable"),
    "one coordinate": ({"keypoint": np.ones((1, 6, 17, 1))}, "other coordinates"),
    "four coordinates": ({"keypoint": np.ones((1, 6, 17, 4))}, "other coordinates"),
    "other frames": ({"total_frames": 7}, "does not fit the frames"),
    "NaN": ({"keypoint": np.full((1, 6, 17, 2), np.nan)}, "NaN"),
    "too large": ({"keypoint": np.full((1, 6, 17, 2), 1e300)}, "NaN"),
    "scores of others": ({"keypoint_score": np.ones((1, 6, 16))}, "does not fit"),
    "scores with a tail": ({"keypoint_score": np.ones((1, 6, 17, 1))}, "not usable"),
    "scores as list": ({"keypoint_score": [1.0]}, "not usable"),
    "a score of NaN": ({"keypoint_score": np.full((1, 6, 17), np.nan)}, "NaN"),
    "no image": ({"img_shape": None, "original_shape": None}, "size of its image"),
    "an image of no size": ({"img_shape": (0, 640)}, "size of its image"),
    "an image of three sizes": ({"img_shape": (480, 640, 3)}, "size of its image"),
    "an image of text": ({"img_shape": "480x640"}, "size of its image"),
    "nobody": ({"keypoint": np.zeros((1, 6, 17, 2))}, "without any tracked body"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_annotations_are_named(tmp_path: Path, bad: str) -> None:
    changes, what = BAD[bad]
    with pytest.raises(InputError, match=what) as caught:
        read(write(tmp_path / "x.pkl", annotation(**changes)))
    assert caught.value.where
    assert caught.value.where.startswith(f"{tmp_path / 'x.pkl'}, annotation 0")
    assert caught.value.expected


def test_flat_joints_are_no_solid_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="other coordinates"):
        read(write(tmp_path / "x.pkl", annotation()), dims=3)


CONTENTS: dict[str, tuple[Any, str]] = {
    "a list": ([annotation()], "not a PYSKL file"),
    "no annotations": ({"split": {}}, "not a PYSKL file"),
    "annotations of another kind": ({"annotations": {}}, "not a PYSKL file"),
    "split of another kind": ({"annotations": [], "split": ["a"]}, "split lists are damaged"),
    "a split list of another kind": ({"annotations": [], "split": {"train": "abc"}}, "split list is damaged"),
    "names of another kind": ({"annotations": [], "split": {"train": [1]}}, "split list is damaged"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_other_contents_are_refused(tmp_path: Path, name: str) -> None:
    content, what = CONTENTS[name]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, 4))
    with pytest.raises(InputError, match=what):
        load_pyskl(tmp_path / "x.pkl")


def test_an_annotation_that_is_no_dict_is_named(tmp_path: Path) -> None:
    entries = load_pyskl(write(tmp_path / "x.pkl", annotation(), "text", None)).entries
    assert [type(entry) for entry in entries] == [Annotation, InputError, InputError]


def test_one_array_for_many_clips_is_refused(tmp_path: Path) -> None:
    first = annotation()
    with pytest.raises(InputError, match="one array"):
        load_pyskl(write(tmp_path / "x.pkl", first, first | {"frame_dir": "other"}))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
    | st.builds(np.zeros, st.lists(st.integers(1, 3), max_size=5)) | st.builds(np.float32, st.floats(width=32)),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
FIELDS = ("frame_dir", "label", "total_frames", "keypoint", "keypoint_score", "img_shape")


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3), st.sampled_from([2, 3]))
def test_fields_of_any_kind_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any], dims: int
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "fields.pkl", annotation() | changes)
    try:
        clip = read(path, dims).clip
    except InputError:
        return
    assert np.isfinite(clip.joints).all()


@settings(deadline=None, max_examples=100)
@given(VALUES)
def test_contents_of_any_kind_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "contents.pkl"
    for whole in (content, {"annotations": content}, {"annotations": [content]}, {"annotations": [], "split": content}):
        path.write_bytes(pickle.dumps(whole, 4))
        with contextlib.suppress(InputError):
            load_pyskl(path)


GOOD = pickle.dumps({"split": {"train": ["clip"]}, "annotations": [annotation(frames=2)]}, 4)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_mutated_files_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    mutated = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(mutated)))
        mutated[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path = tmp_path_factory.getbasetemp() / "mutated.pkl"
    path.write_bytes(mutated)
    with contextlib.suppress(InputError):
        for entry in load_pyskl(path).entries:
            if isinstance(entry, Annotation):
                assert np.isfinite(read_annotation(entry, 2).clip.joints).all()
