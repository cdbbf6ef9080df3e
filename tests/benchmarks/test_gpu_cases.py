"""The models, clips and answers that benchmarks/gpu.py compares with: PyTorch's forms, and ST-GCN, compute them, too."""

from __future__ import annotations

import gpu_cases
import numpy as np
import pytest
import torch
from cuda_models import TOLERANCES
from gpu_cases import Case, StGcnCase, open_case, star_config
from gpu_time import measure

from star_edge.models.naive import star


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu_cases.WORKLOADS, "mix8", [9, 1, 14])
    monkeypatch.setitem(gpu_cases.WORKLOADS, gpu_cases.TWO_PERSONS, [16])


@pytest.mark.usefixtures("small")
def test_what_is_expected_is_the_naive_models_answer() -> None:
    case = Case("cpu", "star-64", "mix8")
    expected = star(case.config, case.state, case.features, np.cumsum([0, *case.lengths]))
    torch.testing.assert_close(case.expected, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("small")
def test_ranges_are_the_largest_inputs_of_all_clips() -> None:
    case = Case("cpu", "star-64", "mix8")
    peer, features = case._peer("dense", torch.float64, case.lengths), case._placed(torch.float64, case.features)
    peer.amax = {}
    peer(features)
    embedding = peer.amax.pop("embedding")
    assert embedding > 0
    assert case.ranges == pytest.approx({f"{path}.in": amax for path, amax in peer.amax.items()})


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("model", gpu_cases.WIDTHS)
@pytest.mark.parametrize("precision", gpu_cases.TYPES)
@pytest.mark.parametrize("form", ["scatter", "dense"])
def test_forms_of_torch_are_right(model: str, precision: str, form: str) -> None:
    case = Case("cpu", model, "mix8")
    peer, features = case.peer(form, precision)
    with torch.no_grad():
        error = (peer(features).double() - case.expected).abs().max() / case.expected.abs().max()
    assert error <= TOLERANCES[precision]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("precision", gpu_cases.TYPES)
def test_stgcn_is_right(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_time.time_ms", lambda call: {"median_ms": 1.0})
    case = open_case("cpu", gpu_cases.ST_GCN, gpu_cases.TWO_PERSONS)
    assert isinstance(case, StGcnCase)
    assert case.features.shape == (1, 3, 8, 25, 2)
    model, features = case.peer(precision)
    assert features.dtype == gpu_cases.TYPES[precision]
    row = measure(lambda: lambda: model(features), case.expected, TOLERANCES[precision])
    assert "median_ms" in row, row


@pytest.mark.usefixtures("small")
def test_weights_are_the_same_in_fp16() -> None:
    state = Case("cpu", "star-64", "mix8").state
    assert all((value.astype(np.float16) == value).all() for value in state.values())


def test_stgcns_answer_depends_on_the_clip() -> None:
    torch.manual_seed(0)
    model = gpu_cases.stgcn_with_weights()
    clips = torch.randn(2, 3, 6, 25, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = model(clips)
    assert (first - second).abs().max() > 10 * TOLERANCES["fp16"] * first.abs().max()


def test_the_models_are_the_papers() -> None:
    assert [len(star_config(model).edges) for model in gpu_cases.WIDTHS] == [187, 187]
    assert gpu_cases.WORKLOADS["mix8"] == [32, 60, 90, 120, 150, 200, 250, 300]
    clips = gpu_cases.WORKLOADS["64 clips"]
    assert (len(clips), min(clips) >= 32, max(clips) <= 300) == (64, True, True)
