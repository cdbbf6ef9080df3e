"""STAR of other widths and precisions by CUDA kernels, layer by layer, beside the naive float64 model.

On a GPU, and on any machine in the emulator. Needs torch, numpy and pytest, nvcc for a GPU and a C++ compiler for the emulator;
star-edge need not be installed.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cuda_devices import KINDS, Device, open_device
from cuda_models import TOLERANCES, LayeredModel, check_close, config_of, features_of

from runtime.native.cuda import library as cuda


@pytest.fixture(scope="module", params=KINDS)
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Device:
    return open_device(request.param, cuda.LAYERED, tmp_path_factory.mktemp(request.param))


CONFIGS = [
    config_of(64, 8),
    config_of(128, 8),
    config_of(24, 3, 5, 1, 12, 3),
    config_of(64, 1, 17, 1),
    config_of(4, 1, 3, 1, 4, 2),
]
# int8 with ranges that nobody calibrated: of wide models alone, whose many channels average its errors. tests/test_cuda.cpp of
# the native runtime compares every width with a reference on the same levels
CASES = [(precision, config) for config in CONFIGS for precision in TOLERANCES if precision != "int8" or config.joints == 25]


@pytest.mark.parametrize(
    ("precision", "config"),
    CASES,
    ids=[f"{precision}, {config.dim} wide, {config.heads} heads, {config.joints} joints" for precision, config in CASES],
)
def test_equals_the_naive_model(device: Device, config: SimpleNamespace, precision: str) -> None:
    model, lengths = LayeredModel(device, config, precision), [3, 0, 5]
    features = features_of(8, config.joints)
    check_close(model.logits(features, lengths, tail=2)[[0, 2]], model.naive(features, [3, 5]), TOLERANCES[precision])


@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_clip_has_the_same_bits_in_any_batch(device: Device, precision: str) -> None:
    model, lengths = LayeredModel(device, config_of(16, 2, 5, 2, 8, 4), precision), [70, 1, 0, 9]
    features = features_of(80, 5)
    together = model.logits(features, lengths, tail=5)
    assert (model.logits(features[:70], [70])[0] == together[0]).all()
    assert (model.logits(features[71:], [9])[0] == together[3]).all()


def test_what_cannot_be_run_is_refused(device: Device) -> None:
    model = LayeredModel(device, config_of(8, 2, 3, 1, 4, 2), "fp32")
    run = model.prepare(features_of(4, 3), [4])
    library = device.library
    for field, value in [("joints", 65), ("heads", 3), ("hidden", 0), ("classes", 0), ("activations", 2), ("layers", -1)]:
        layered = cuda.Layered.from_buffer_copy(model.weights.layered)
        setattr(layered, field, value)
        assert library.star_cuda_layered_workspace(layered, 4, 1) == 0
        arguments = (run.features.address, run.cu_seqlens.address, run.workspace.address, run.logits.address)
        assert library.star_cuda_layered_run(layered, 4, 1, *arguments, None) == 1
    assert library.star_cuda_layered_workspace(model.weights.layered, -1, 1) == 0


def test_a_graph_replayed_on_other_clips(device: Device) -> None:
    if device.memory == "cpu":
        pytest.skip("the emulator has no graphs")
    model = LayeredModel(device, config_of(64, 8), "fp16")
    run, graph = model.prepare(features_of(200, 25), [120, 80]), torch.cuda.CUDAGraph()
    device.synchronize()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        model.launch(run, torch.cuda.current_stream().cuda_stream)
    for lengths in ([120, 80], [33, 0], [1, 199]):
        features = features_of(sum(lengths), 25, seed=sum(lengths))
        run.features.values[: features.size].copy_(torch.from_numpy(features.ravel()))
        run.cu_seqlens.values.copy_(torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)))
        graph.replay()
        device.synchronize()
        assert (run.logits.values.view(2, -1).cpu().numpy() == model.logits(features, lengths)).all()
