"""Recognition: what goes in, what is refused and by which name, threads, the self-test."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

import star_edge
from runtime.bundle import Bundle, BundleWriter
from runtime.clip import Clip, pack_clips
from runtime.errors import GateError, InputError, MissingDependencyError
from runtime.features import compute_features
from runtime.recognizer import Prediction, Recognizer


@pytest.fixture
def recognizer(tiny_bundle: Path) -> Recognizer:
    return star_edge.load(tiny_bundle, engine="onnxruntime", threads=1)


def person(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 15, 3)).astype(np.float32)


def test_logits_are_those_of_the_features(recognizer: Recognizer) -> None:
    clips = [Clip.from_persons([person(4), person(6, 1)], "two"), Clip.from_persons([person(1, 2)], "one row")]
    joints, cu_seqlens, person_lengths = pack_clips(clips)
    manifest = recognizer.bundle.manifest
    features = compute_features(joints, person_lengths, manifest.skeleton, manifest.features)
    np.testing.assert_array_equal(recognizer.logits(clips), recognizer.engine.run(features, cu_seqlens))


def test_one_clip_and_many_in_every_form(recognizer: Recognizer, tmp_path: Path) -> None:
    array = person(5)
    clip = Clip.from_persons([array], "a")
    alone = recognizer.logits(clip)
    assert alone.shape == (1, 4)
    assert alone.dtype == np.float32
    np.testing.assert_array_equal(recognizer.logits([array, clip, person(3, 1)])[:2], np.repeat(alone, 2, axis=0))
    np.testing.assert_array_equal(recognizer.logits(array.astype(np.float64)), alone)
    predictions = recognizer(array)
    assert len(predictions) == 1
    assert predictions[0].label == int(np.argmax(alone))
    assert predictions[0].name == recognizer.class_names[predictions[0].label]


def test_lost_rows_of_an_array_are_dropped(recognizer: Recognizer) -> None:
    array = person(5)
    with_gap = np.insert(array, 2, 0, axis=0)
    np.testing.assert_array_equal(recognizer.logits(with_gap), recognizer.logits(array))


def test_prediction_top_and_confidence() -> None:
    prediction = Prediction.of(np.array([0.0, 2.0, 2.0, -1e4], dtype=np.float32), ("a", "b", "c", "d"))
    assert (prediction.label, prediction.name) == (1, "b")
    assert [name for name, _ in prediction.top(5)] == ["b", "c", "a", "d"]
    assert prediction.top(1) == [("b", prediction.confidence)]
    assert prediction.confidence == pytest.approx(1 / (2 + np.exp(-2)))
    assert sum(p for _, p in prediction.top(4)) == pytest.approx(1)


def test_large_logits_do_not_overflow() -> None:
    assert Prediction.of(np.array([1e4, 0], dtype=np.float32), ("a", "b")).confidence == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_joints_that_are_not_finite_name_clip_row_and_joint(recognizer: Recognizer, value: float) -> None:
    bad = person(6)
    bad[3, 7, 1] = value
    with pytest.raises(InputError, match="NaN or infinity") as caught:
        recognizer([person(2), Clip(bad, (6,), "bad.skeleton")])
    assert caught.value.where == "bad.skeleton"
    assert caught.value.found == "row 3, joint 7"


def test_bad_clips_are_named(recognizer: Recognizer) -> None:
    good = person(2)
    cases: list[tuple[object, str, str]] = [
        ([good, person(2)[:, :14]], "wrong joint count", "clip 1"),
        ([good, good[:0]], "empty clip", "clip 1"),
        ([Clip(good[:0], (), "hollow")], "empty clip", "hollow"),
        ([good, np.zeros((3, 15, 3))], "without any tracked body", "clip 1"),
        ([good, good[0]], "an array is no clip", "clip 1"),
        ([good, good.astype(str)], "an array is no clip", "clip 1"),
        ([good[..., :2]], "wrong number of coordinates", "clip 0"),
        ([good, 3], "not a clip", "clip 1"),
    ]
    for clips, message, where in cases:
        with pytest.raises(InputError, match=message) as caught:
            recognizer(clips)  # type: ignore[arg-type]
        assert caught.value.where == where
    with pytest.raises(InputError, match="no clips"):
        recognizer([])
    with pytest.raises(InputError, match="no such file"):
        recognizer("absent.skeleton")


def test_answer_that_is_not_finite_is_no_answer(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognizer.engine, "run", lambda *_: np.array([[1, np.nan, 0, 0]], dtype=np.float32))
    with pytest.raises(GateError, match="not finite"):
        recognizer(person(2))


def test_self_test_passes_and_notices_other_answers(tiny_bundle: Path) -> None:
    result = star_edge.load(tiny_bundle, engine="onnxruntime", threads=1).self_test()
    assert (result.precision, result.clips) == ("fp32", 2)
    assert result.error <= result.tolerance == 1e-5
    bundle = Bundle.open(tiny_bundle)
    golden = bundle.golden()
    golden.logits[1, 2] += 1e-3
    writer = BundleWriter(tiny_bundle, base=bundle)
    writer.add("golden.npz", golden.to_bytes())
    writer.commit(bundle.manifest)
    with pytest.raises(GateError, match="golden clips give other logits"):
        star_edge.load(tiny_bundle, engine="onnxruntime", threads=1).self_test()


def test_two_recognizers_and_many_threads(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    writer = BundleWriter(tmp_path / "other.star")
    for name in bundle.manifest.files:
        writer.add(name, bundle.read(name))
    writer.commit(msgspec.structs.replace(bundle.manifest, class_names=("1", "2", "3", "4")))
    pair = [star_edge.load(path, engine="onnxruntime", threads=1) for path in (tiny_bundle, tmp_path / "other.star")]
    clips = [person(n, n) for n in range(1, 13)]
    expected = [recognizer(clip)[0].name for clip in clips for recognizer in pair]
    jobs = [(recognizer, clip) for clip in clips for recognizer in pair]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda job: job[0](job[1])[0].name, jobs)) == expected


def test_unknown_engine(tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match="no engine 'tensorrt-rtx'"):
        star_edge.load(tiny_bundle, engine="tensorrt-rtx")


def test_engine_whose_library_is_missing_names_the_extra(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "star_edge.torch_engine", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError) as caught:
        star_edge.load(tiny_bundle, engine="torch")
    assert caught.value.expected == "torch"
    assert caught.value.hint == "pip install 'star-edge[export]'"
