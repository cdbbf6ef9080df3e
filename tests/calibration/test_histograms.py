"""Histograms: each method beside its definition, order of clips, odd tensors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.histograms import (
    AMAX_FLOOR,
    BINS,
    METHODS,
    Histograms,
    Method,
    least_divergent_cut,
    least_error_cut,
    percentile_cut,
)


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


@pytest.mark.parametrize("kind", ["normal", "heavy tail", "even"])
def test_the_least_error_is_what_quantising_the_values_gives(kind: str):
    """Every cut is tried on the values themselves: round to amax / 127, clamp to 127."""
    rng = np.random.default_rng(0)
    values = np.abs(
        {
            "normal": rng.normal(size=20_000),
            "heavy tail": rng.standard_t(3, size=20_000),
            "even": rng.uniform(size=20_000),
        }[kind]
    )
    amax = values.max()
    errors = {}
    for cut in range(128, BINS + 1, 8):
        scale = amax * cut / BINS / 127
        errors[cut] = ((values - np.clip(np.round(values / scale), -127, 127) * scale) ** 2).mean()
    found = least_error_cut(np.histogram(values, BINS, (0, amax))[0])
    assert errors[found] <= 1.01 * min(errors.values())
    if kind == "heavy tail":
        assert found < BINS


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60).filter(any), st.floats(50, 100, exclude_min=True))
@settings(max_examples=20, deadline=None)
def test_a_percentile_keeps_its_share_in_the_fewest_bins(counts: list[int], percentile: float):
    array = np.array(counts)
    cut = percentile_cut(array, percentile)
    share = array.sum() * (percentile / 100)
    assert array[:cut].sum() >= share > array[: cut - 1].sum()


@pytest.mark.parametrize("method", METHODS)
def test_outliers_are_cut_except_by_max_and_what_is_even_is_kept(method: Method):
    rng = np.random.default_rng(0)
    values = np.append(np.abs(rng.normal(size=1_000_000)), 40.0).astype(np.float32)
    histograms = Histograms({"outlier": 40.0, "even": 1.0})
    histograms.add("outlier", values)
    histograms.add("even", rng.uniform(-1, 1, 500_000).astype(np.float32))
    found = histograms.range_by(method, "outlier")
    assert found == 40 if method == "max" else 2.5 < found < 10
    assert histograms.range_by(method, "even") > 0.98


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
    for method in METHODS:
        assert one.range_by(method, "x") == two.range_by(method, "x") <= amax
    if amax > AMAX_FLOOR:
        assert one.counts["x"].sum() == sum(len(array) for array in arrays)
        assert one.counts["x"][-1] >= 1  # the largest magnitude is in the last bin, not behind it


@pytest.mark.parametrize("amax", [0.0, AMAX_FLOOR, 1e-30])
def test_a_tensor_that_is_always_zero_keeps_its_range(amax: float):
    histograms = Histograms({"x": amax})
    histograms.add("x", np.full(100, amax, dtype=np.float32))
    assert {histograms.range_by(method, "x") for method in METHODS} == {amax}


def test_floor_is_the_smallest_scale_of_float16():
    assert np.float16(AMAX_FLOOR / 127) == np.finfo(np.float16).smallest_subnormal > 0
