"""Ranges: the entropy method beside its definition, order of clips, odd tensors."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.ranges import (
    AMAX_FLOOR,
    BINS,
    Histograms,
    entropy_ranges,
    largest_magnitudes,
    least_divergent_cut,
    open_session,
)
from calibration.reader import ClipReader
from runtime.bundle import Bundle
from runtime.errors import InputError, MismatchError


def naive_cut(counts: np.ndarray) -> int:
    """The loops of NVIDIA's pytorch-quantization and modelopt.torch (``_compute_amax_entropy``), stride 8, 8 bits."""
    bins = [float(count) for count in counts]
    bins[0] = bins[1]
    best, least = 0, float("inf")
    for cut in range(128, BINS + 1, 8):
        level_of = [number * 128 // cut for number in range(cut)]
        sums, sizes = [0.0] * 128, [0] * 128
        for number in range(cut):
            if bins[number]:
                sums[level_of[number]] += bins[number]
                sizes[level_of[number]] += 1
        q = [sums[level_of[n]] / sizes[level_of[n]] if bins[n] else 0.0 for n in range(cut)]
        p = bins[:cut]
        p[-1] += sum(bins[cut:])
        total_p, total_q, divergence = sum(p), sum(q), 0.0
        for own, other in zip(p, q, strict=True):
            if own and not other:
                divergence = float("inf")
            elif own:
                divergence += own / total_p * math.log(own / total_p * total_q / other)
        if divergence <= least:
            best, least = cut, divergence
    return best


@pytest.mark.parametrize("kind", ["normal", "heavy tail", "gaps"])
def test_cut_equals_the_definition(kind: str):
    rng = np.random.default_rng(0)
    values = {
        "normal": np.abs(rng.normal(size=20_000)),
        "heavy tail": np.abs(rng.standard_t(3, size=20_000)),
        "gaps": np.concatenate([rng.uniform(0, 0.2, 5000), rng.uniform(0.9, 1, 50)]),
    }[kind]
    counts = np.histogram(values, BINS, (0, values.max()))[0]
    assert least_divergent_cut(counts) == naive_cut(counts)


def test_entropy_cuts_an_outlier_and_keeps_what_is_even():
    rng = np.random.default_rng(0)
    values = np.append(np.abs(rng.normal(size=50_000)), 40.0).astype(np.float32)
    histograms = Histograms({"outlier": 40.0, "even": 1.0})
    histograms.add("outlier", values)
    histograms.add("even", rng.uniform(-1, 1, 500_000).astype(np.float32))
    assert 2.5 < histograms.entropy_range("outlier") < 10
    assert histograms.entropy_range("even") > 0.98


@given(st.lists(st.lists(st.floats(-8, 8, width=32), max_size=20), min_size=1, max_size=6), st.data())
def test_histograms_add_up_in_any_order(clips, data):
    arrays = [np.array(clip, dtype=np.float32) for clip in clips]
    amax = max((float(np.abs(array).max(initial=0)) for array in arrays), default=0.0)
    one, two = Histograms({"x": amax}), Histograms({"x": amax})
    for array in arrays:
        one.add("x", array)
    for position in data.draw(st.permutations(range(len(arrays)))):
        two.add("x", arrays[position])
    assert (one.counts["x"] == two.counts["x"]).all()
    assert one.entropy_range("x") == two.entropy_range("x") <= amax
    if amax > AMAX_FLOOR:
        assert one.counts["x"].sum() == sum(len(array) for array in arrays)
        assert one.counts["x"][-1] >= 1  # the largest magnitude is in the last bin, not behind it


@pytest.mark.parametrize("amax", [0.0, AMAX_FLOOR, 1e-30])
def test_a_tensor_that_is_always_zero_keeps_its_range(amax: float):
    histograms = Histograms({"x": amax})
    histograms.add("x", np.full(100, amax, dtype=np.float32))
    assert histograms.entropy_range("x") == amax


def test_floor_is_the_smallest_scale_of_float16():
    assert np.float16(AMAX_FLOOR / 127) == np.finfo(np.float16).smallest_subnormal > 0


def test_collecting_does_not_depend_on_the_order(small_bundle: Bundle, small_data, reader: ClipReader):
    from runtime.features import FeatureRecipe
    from star_edge.data import Dataset

    model = onnx.load_model_from_string(small_bundle.read("model.fp32.onnx"))
    tensors = ["context.out", "input_norm.out", "layers.0.temporal.attention.out"]
    dataset = Dataset.open(small_data)
    backwards = ClipReader(dataset, dataset.indices("xsub", "train")[::-1], FeatureRecipe())
    amax = largest_magnitudes(model, tensors, reader)
    assert largest_magnitudes(model, tensors, backwards) == amax
    assert entropy_ranges(model, amax, backwards) == entropy_ranges(model, amax, reader)
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
