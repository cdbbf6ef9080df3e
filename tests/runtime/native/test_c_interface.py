"""The C interface itself, called through ctypes: what the Python engine never hands it, features, and streams."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator
from ctypes import POINTER, byref, c_int32, c_int64, c_void_p
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import star_edge
from runtime.errors import InputError
from runtime.features import compute_features
from runtime.manifest import CALIBRATION, PRECISIONS, WEIGHTS
from runtime.native import library as native
from runtime.streaming import Stream

_FOUND = tuple(entry.split()[0] for entry in native.instruction_sets(native.load_library()).split(", "))
INSTRUCTION_SETS = tuple(name for name in _FOUND if name != "cuda")  # of the processor


class Person(ctypes.Structure):
    """``star_person``."""

    _fields_ = (("id", c_int64), ("joints", c_void_p))


class Result(ctypes.Structure):
    """``star_stream_result``."""

    _fields_ = (("frame", c_int64), ("rows", c_int64), ("persons", c_int64), ("label", c_int64))


class Interface:
    """One model and one context of a bundle."""

    def __init__(self, made: Any, precision: str = "fp32", isa: str = "auto", threads: int = 2) -> None:
        self.made, self.library = made, ctypes.CDLL(native.load_library()._name)
        for name, (result, arguments) in native._DECLARATIONS.items():
            function = getattr(self.library, name)
            function.restype, function.argtypes = result, arguments
        self.library.star_features.argtypes = (c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_void_p)
        self.library.star_stream_create.argtypes = (c_void_p, c_int64, c_int64, POINTER(c_void_p))
        self.library.star_stream_push.argtypes = (
            c_void_p, POINTER(Person), c_int64, POINTER(Result), c_void_p, POINTER(c_int32))  # fmt: skip
        self.library.star_stream_persons.argtypes = (c_void_p, c_void_p)
        self.library.star_stream_free.argtypes, self.library.star_stream_free.restype = (c_void_p,), None
        bundle = made.bundle
        files = (bundle.manifest.to_bytes(), bundle.read(WEIGHTS), bundle.read(CALIBRATION))
        self.model, self.context = c_void_p(), c_void_p()
        numbers = native.PRECISIONS.index(precision), native.INSTRUCTION_SETS.index(isa)
        self.check(self.library.star_model_load_bytes(*map(native.Bytes.of, files), *numbers, byref(self.model)))
        self.check(self.library.star_context_create(self.model, threads, byref(self.context)))

    def check(self, status: int) -> None:
        native.check(self.library, status)

    def run(self, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """Logits, with the memory after them seen to be left alone."""
        offsets = cu_seqlens.astype(np.int64)
        logits = np.full((len(offsets), len(self.made.bundle.class_names)), 7, dtype=np.float32)
        self.check(
            self.library.star_run(
                self.context, features.ctypes.data, offsets.ctypes.data, len(offsets) - 1, logits.ctypes.data
            )
        )
        assert (logits[-1] == 7).all()
        return logits[:-1]

    def features(self, joints: np.ndarray, person_lengths: np.ndarray) -> np.ndarray:
        lengths = person_lengths.astype(np.int64)
        channels = self.made.bundle.manifest.features.channels
        features = np.empty((len(joints), joints.shape[1], channels), dtype=np.float32)
        self.check(
            self.library.star_features(
                self.model, joints.ctypes.data, lengths.ctypes.data, *lengths.shape, features.ctypes.data
            )
        )
        return features

    def close(self) -> None:
        self.library.star_model_free(self.model)  # contexts keep their model alive
        self.library.star_context_free(self.context)


@pytest.fixture
def interface() -> Iterator[Callable[..., Interface]]:
    """(bundle, precision, isa, threads) -> Interface, freed after the test."""
    opened: list[Interface] = []

    def open_interface(*arguments: Any) -> Interface:
        opened.append(Interface(*arguments))
        return opened[-1]

    yield open_interface
    for one in opened:
        one.close()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_what_is_not_finite_stays_in_its_clip(
    small: Any, interface: Callable[..., Interface], isa: str, precision: str
) -> None:
    """Neither lanes beside a clip's last rows nor memory that an earlier run has left may carry it over."""
    lengths = [5, 1, 33, 2, 70, 3]
    rows, cu_seqlens = small.batch(*lengths)
    fresh = interface(small, precision, isa).run(rows, cu_seqlens)
    used = interface(small, precision, isa)
    for bad, value in itertools.product(((0, 2, 4), (1, 3, 5)), (np.nan, np.inf, -np.inf, 3e38)):
        spoilt = rows.copy()
        for clip in bad:
            spoilt[cu_seqlens[clip] : cu_seqlens[clip + 1]] = value
        good = [clip for clip in range(len(lengths)) if clip not in bad]
        np.testing.assert_array_equal(used.run(spoilt, cu_seqlens)[good], fresh[good])
        used.run(np.full_like(rows, value), cu_seqlens)
        np.testing.assert_array_equal(used.run(rows, cu_seqlens), fresh)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_memory_around_the_rows_is_not_used(small: Any, interface: Callable[..., Interface], isa: str, precision: str) -> None:
    opened = interface(small, precision, isa)
    for rows_of_clip in (1, 2, 3, 4, 5, 31):
        rows, cu_seqlens = small.batch(rows_of_clip)
        around = np.full((rows_of_clip + 16, *rows.shape[1:]), np.nan, dtype=np.float32)
        around[8:-8] = rows
        np.testing.assert_array_equal(opened.run(around[8:-8], cu_seqlens), opened.run(rows, cu_seqlens))


def test_a_smaller_run_after_a_larger_one(small: Any, interface: Callable[..., Interface]) -> None:
    opened = interface(small)
    little = small.batch(3, 0, 1)
    alone = opened.run(*little)
    opened.run(*small.batch(400, 30))
    np.testing.assert_array_equal(opened.run(*little), alone)


def test_products_are_named_for_every_precision_that_can_run() -> None:
    library = native.load_library()
    for isa, precision in itertools.product(range(len(native.INSTRUCTION_SETS)), range(-1, len(native.PRECISIONS) + 1)):
        name = native.INSTRUCTION_SETS[isa]
        runs = (name == "auto" or name in INSTRUCTION_SETS) and 1 <= precision < len(native.PRECISIONS)
        found = library.star_products(precision, isa)
        assert (found is not None) == runs, (name, precision)
        assert found is None or name == "auto" or found.decode().startswith(name)
    assert library.star_products(1, 99) is None


def test_bad_arguments_are_named(small: Any, interface: Callable[..., Interface]) -> None:
    opened = interface(small)
    rows, _ = small.batch(3, 3)
    for message, batch in {
        "cu_seqlens descends": (rows, np.array([0, 4, 2, 6])),
        "cu_seqlens must start at 0": (rows, np.array([1, 6])),
        "more rows than memory can hold": (rows, np.array([0, 2**62])),
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            opened.run(*batch)
        assert caught.value.found


@pytest.mark.parametrize(
    ("skeleton", "channels", "centre"),
    [("nite15", 9, "root"), ("nite15", 3, "none"), ("coco17", 9, "root"), ("coco17", 3, "root"), ("mediapipe33", 9, "none")],
)
@pytest.mark.hypothesis
def test_features_are_those_of_python(
    make: Callable[..., Any], interface: Callable[..., Interface], skeleton: str, channels: int, centre: str
) -> None:
    made = make(skeleton=skeleton, channels=channels, centre=centre, dim=4, heads=1, layers=1, hidden=2)
    opened = interface(made)
    layout, recipe = made.bundle.manifest.skeleton, made.bundle.manifest.features

    @settings(deadline=None, max_examples=30)
    @given(
        st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), min_size=1, max_size=5),
        st.integers(0, 10_000),
        st.floats(0, 0.9),
        st.sampled_from([1e-3, 1.0, 1e4]),
    )
    def check(lengths: list[list[int]], seed: int, lost: float, scale: float) -> None:
        rng = np.random.default_rng(seed)
        person_lengths = np.array(lengths)
        joints = rng.normal(size=(person_lengths.sum(), layout.num_joints, 3), scale=scale).astype(np.float32)
        joints[rng.random(joints.shape[:2]) < lost] = 0
        expected = compute_features(joints, person_lengths, layout, recipe)
        np.testing.assert_allclose(opened.features(joints, person_lengths), expected, rtol=0, atol=1e-6 * scale)

    check()


class NativeStream:
    """``star_stream`` with the results that :class:`runtime.streaming.Stream` gives."""

    def __init__(self, opened: Interface, window: int, hop: int) -> None:
        self.opened, self.handle = opened, c_void_p()
        opened.check(opened.library.star_stream_create(opened.context, window, hop, byref(self.handle)))

    def push(self, persons: dict[int, np.ndarray]) -> tuple[int, tuple[int, ...], int, int, np.ndarray] | None:
        """Frame, ids, rows, label and logits of a hop that is complete."""
        library = self.opened.library
        frame = (Person * len(persons))(*(Person(number, joints.ctypes.data) for number, joints in persons.items()))
        result, ready, logits = Result(), c_int32(), np.zeros(len(self.opened.made.bundle.class_names), dtype=np.float32)
        self.opened.check(
            library.star_stream_push(self.handle, frame, len(persons), byref(result), logits.ctypes.data, byref(ready))
        )
        if not ready.value:
            return None
        ids = np.zeros(max(result.persons, 1), dtype=np.int64)
        self.opened.check(library.star_stream_persons(self.handle, ids.ctypes.data))
        return result.frame, tuple(ids[: result.persons].tolist()), result.rows, result.label, logits

    def close(self) -> None:
        self.opened.library.star_stream_free(self.handle)


@pytest.mark.hypothesis
def test_streams_are_those_of_python(small: Any, interface: Callable[..., Interface]) -> None:
    opened = interface(small)
    recognizer = star_edge.load(small.bundle.path, threads=1)

    @settings(deadline=None, max_examples=25)
    @given(
        st.integers(1, 20),
        st.integers(1, 6),
        st.lists(st.lists(st.sampled_from([3, 1, -7, 2**62]), unique=True), max_size=40),
        st.integers(0, 99),
    )
    def check(window: int, hop: int, frames: list[list[int]], seed: int) -> None:
        rng = np.random.default_rng(seed)
        stream, beside = NativeStream(opened, window, hop), Stream(recognizer, window, hop)
        for persons in frames:
            frame = {person: rng.normal(size=(15, 3)).astype(np.float32) for person in persons}
            if seed % 3 == 0 and frame:
                frame[persons[0]][:] = 0  # lost
            found, expected = stream.push(frame), beside.push(frame.items())
            assert (found is None) == (expected is None)
            if found is None or expected is None:
                continue
            label = -1 if expected.prediction is None else expected.prediction.label
            assert found[:4] == (expected.frame, expected.persons, expected.rows, label)
            if expected.prediction is not None:
                np.testing.assert_allclose(found[4], expected.prediction.logits, rtol=0, atol=1e-5)
        stream.close()

    check()


def test_a_frame_that_is_refused_is_not_taken(small: Any, interface: Callable[..., Interface]) -> None:
    opened = interface(small)
    stream, frame = NativeStream(opened, 4, 2), np.ones((15, 3), dtype=np.float32)
    assert stream.push({1: frame}) is None
    with pytest.raises(InputError, match="NaN or infinity"):
        stream.push({1: np.full_like(frame, np.nan)})
    result = stream.push({1: frame})
    assert result is not None
    assert result[:3] == (2, (1,), 2)
    stream.close()
    with pytest.raises(InputError, match="window of a stream"):
        NativeStream(opened, 0, 1)
