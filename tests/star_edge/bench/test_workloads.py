"""Workload names and the clips they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import InputError
from runtime.features import FeatureRecipe
from star_edge.bench.workloads import DEFAULT_WORKLOADS, parse_workload
from star_edge.skeletons import get_skeleton


@pytest.mark.parametrize(
    ("name", "rows", "persons"),
    [
        ("1x300", (300,), 1),
        ("1x1", (1,), 1),
        ("4x17", (17,) * 4, 1),
        ("1x300:2p", (600,), 2),
        ("2x10:3p", (30, 30), 3),
        ("mix8", (32, 60, 90, 120, 150, 200, 250, 300), 1),
    ],
)
def test_names(name, rows, persons):
    workload = parse_workload(name)
    assert (workload.name, workload.rows, workload.persons, workload.clips) == (name, rows, persons, len(rows))


@pytest.mark.parametrize(
    "name", ["", "300", "0x300", "1x0", "1x300:0p", "1x300:5p", "1x300p", "mix", "mix9", "1 x 3", "-1x3", "1x99999999"]
)
def test_unknown_names(name):
    with pytest.raises(InputError, match="unknown workload"):
        parse_workload(name)


@pytest.mark.parametrize("name", DEFAULT_WORKLOADS)
def test_clips_have_exactly_the_named_rows_and_are_the_same_in_every_process(name):
    workload, skeleton, recipe = parse_workload(name), get_skeleton("ntu25"), FeatureRecipe()
    features, cu_seqlens = workload.make(skeleton, recipe)
    assert features.shape == (sum(workload.rows), 25, 9)
    assert features.dtype == np.float32
    assert tuple(np.diff(cu_seqlens)) == workload.rows
    assert np.isfinite(features).all()
    again, _ = workload.make(skeleton, recipe)
    assert np.array_equal(features, again)


def test_two_dimensional_layouts_work_too():
    features, _ = parse_workload("1x5").make(get_skeleton("coco17"), FeatureRecipe())
    assert features.shape == (5, 17, 9)
