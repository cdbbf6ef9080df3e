"""The data reader ModelOpt and ONNX Runtime are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.reader import ClipReader
from runtime.errors import InputError
from runtime.features import FeatureRecipe, compute_features
from star_edge.data import Dataset


def test_one_clip_at_a_time_with_its_own_offsets(small_data: Path):
    dataset = Dataset.open(small_data)
    reader = ClipReader(dataset, np.array([4, 0, 9]), FeatureRecipe())
    assert reader.get_next() is None  # no pass has begun
    passes = [list(reader.start("one")), list(reader.start("two"))]
    assert reader.get_next() is None
    for inputs in passes:
        assert [len(entry["features"]) for entry in inputs] == dataset.lengths[[4, 0, 9]].tolist()
        for entry in inputs:
            assert entry["features"].dtype == np.float32
            assert entry["cu_seqlens"].dtype == np.int32
            assert entry["cu_seqlens"].tolist() == [0, len(entry["features"])]
    assert reader.names == ("clip004", "clip000", "clip009")
    assert len(reader) == 3


def test_persons_of_a_clip_are_kept_apart(small_data: Path):
    dataset = Dataset.open(small_data)
    clip = dataset.clip(4)
    assert len(clip.person_lengths) == 2
    found = ClipReader(dataset, np.array([4]), FeatureRecipe()).get_first()["features"]
    expected = compute_features(clip.joints, np.array([clip.person_lengths]), dataset.meta.skeleton)
    assert np.array_equal(found, expected)
    as_one = compute_features(clip.joints, np.array([[len(clip)]]), dataset.meta.skeleton)
    assert not np.array_equal(found, as_one)


def test_first_clip_does_not_move_the_pass(reader: ClipReader):
    reader.rewind()
    first = reader.get_first()
    assert np.array_equal(first["features"], next(iter(reader))["features"])
    assert len(list(reader)) == len(reader) - 1
    reader.rewind()
    assert len(list(reader)) == len(reader)


def test_it_is_the_reader_onnxruntime_expects(reader: ClipReader):
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate", reason="onnxruntime is not installed")
    assert isinstance(reader, calibrate.CalibrationDataReader)


def test_progress_counts_every_pass(small_data: Path):
    seen = []

    def track(items, description, total):
        seen.append((description, total))
        return items

    reader = ClipReader(Dataset.open(small_data), np.arange(5), FeatureRecipe(), track)
    list(reader.start("maxima"))
    list(reader.start("histograms"))
    assert seen == [("maxima", 5), ("histograms", 5)]


def test_a_clip_that_is_not_finite_is_named(writable_data: Path):
    joints = np.load(writable_data / "xyz.npy", mmap_mode="r+")
    joints[5, 3, 1] = np.nan
    joints.flush()
    reader = ClipReader(Dataset.open(writable_data), np.arange(6), FeatureRecipe())
    with pytest.raises(InputError, match="NaN or infinity") as caught:
        list(reader.start("all"))
    assert "clip clip00" in (caught.value.where or "")
