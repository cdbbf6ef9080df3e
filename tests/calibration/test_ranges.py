"""Activations over clips: order of clips, a graph without the tensor, an overflow."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration.ranges import collect_histograms, largest_magnitudes, open_session
from calibration.reader import ClipReader
from runtime.bundle import Bundle
from runtime.errors import InputError, MismatchError
from runtime.features import FeatureRecipe
from star_edge.data import Dataset


def test_collecting_does_not_depend_on_the_order(small_bundle: Bundle, small_data, reader: ClipReader):
    model = onnx.load_model_from_string(small_bundle.read("model.fp32.onnx"))
    tensors = ["context.out", "input_norm.out", "layers.0.temporal.attention.out"]
    dataset = Dataset.open(small_data)
    backwards = ClipReader(dataset, dataset.indices("xsub", "train")[::-1], FeatureRecipe())
    amax = largest_magnitudes(model, tensors, reader)
    assert largest_magnitudes(model, tensors, backwards) == amax
    one, two = (collect_histograms(model, amax, order).counts for order in (reader, backwards))
    assert all((one[name] == two[name]).all() for name in tensors)
    session = open_session(model, tensors)
    seen = [dict(zip(tensors, session.run(tensors, inputs), strict=True)) for inputs in reader.start("again")]
    assert amax == {name: max(float(np.abs(clip[name]).max()) for clip in seen) for name in sorted(tensors)}


def test_a_graph_without_the_tensor_is_refused(small_bundle: Bundle, reader: ClipReader):
    model = onnx.load_model_from_string(small_bundle.read("model.fp32.onnx"))
    with pytest.raises(MismatchError, match="lacks a tensor") as caught:
        largest_magnitudes(model, ["layers.9.out"], reader)
    assert caught.value.expected == "layers.9.out"


def test_an_overflow_names_clip_and_tensor(make_bundle, reader: ClipReader):
    def blow_up(weights):
        weights["embedding.weight"][:] = 3e38

    model = onnx.load_model_from_string(Bundle.open(make_bundle(blow_up)).read("model.fp32.onnx"))
    with pytest.raises(InputError, match="overflows") as caught:
        largest_magnitudes(model, ["embedding.out"], reader)
    assert "clip clip0" in (caught.value.where or "")
    assert "embedding.out" in (caught.value.where or "")


def test_memory_does_not_grow_with_the_clips(small_bundle: Bundle, small_data):
    """Both passes over 512 and over 8,192 clips: the Python peak and the process's anonymous memory."""
    model = onnx.load_model_from_string(small_bundle.read("model.fp32.onnx"))
    dataset = Dataset.open(small_data)
    tensors = ["context.out", "layers.0.temporal.attention.out"]

    def passes(clips: int) -> tuple[int, int]:
        reader = ClipReader(dataset, np.resize(dataset.indices("xsub", "train"), clips), FeatureRecipe())
        tracemalloc.start()
        collect_histograms(model, largest_magnitudes(model, tensors, reader), reader)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, anonymous_memory()

    passes(64)  # what is loaded once is not counted
    few, many = passes(512), passes(8192)
    assert many[0] - few[0] < 256 * 1024  # the indices of the clips alone are 64 kB
    assert many[1] - few[1] < 16 * 1024  # kB


def anonymous_memory() -> int:
    """RssAnon of this process, kB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1])
