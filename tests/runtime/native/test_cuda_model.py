"""The whole STAR-64 by CUDA kernels beside the naive float64 model: odd batches, tails, guard bands, streams, graphs.

On a GPU, and on any machine in the emulator, which leaves out what takes it minutes. Needs torch, numpy and pytest, nvcc for a
GPU and a C++ compiler for the emulator; star-edge need not be installed.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cuda_devices import KINDS, Device, open_device
from cuda_models import TOLERANCES, FusedModel, config_of, features_of, state_dict
from cuda_models import check_close as check_close_to

from runtime.native.cuda import library as cuda
from star_edge.models.naive import star

CLASSES = 7


@pytest.fixture(scope="module", params=KINDS)
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Device:
    return open_device(request.param, cuda.MODEL, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def gpu(device: Device) -> Device:
    """For what the emulator has not, or not the time for."""
    if device.memory == "cpu":
        pytest.skip("on a GPU alone: streams, graphs, or too many frames for the emulator")
    return device


def model_of(device: Device, joints: int) -> FusedModel:
    return FusedModel(device, config_of(64, 8, joints, layers=5, classes=CLASSES))


@pytest.fixture(scope="module")
def model(device: Device) -> FusedModel:
    return model_of(device, 25)


@cache
def expected_of(lengths: tuple[int, ...], joints: int = 25) -> np.ndarray:
    """Of the naive model, which is slow and asked again for each size of tiles."""
    config = config_of(64, 8, joints, layers=5, classes=CLASSES)
    return star(config, state_dict(config), features_of(sum(lengths), joints), np.cumsum([0, *lengths]))


def check_close(found: np.ndarray, expected: np.ndarray) -> None:
    check_close_to(found, expected, TOLERANCES["fp16"])


@pytest.mark.parametrize("tile_rows", [128, 256])
@pytest.mark.parametrize(
    "lengths", [[1], [5], [6], [7], [10], [11], [16], [1, 1, 1], [0, 7, 0, 0, 13, 0], [3, 40, 21]], ids=str
)
def test_equals_the_naive_model(model: FusedModel, lengths: list[int], tile_rows: int) -> None:
    features = features_of(sum(lengths), 25)
    found = model.logits(features, lengths, tile_rows=tile_rows)
    check_close(found, expected_of(tuple(lengths)))


def test_nothing_but_empty_clips(model: FusedModel) -> None:
    found = model.logits(features_of(0, 25), [0, 0], tail=1)  # there is room for a frame at least
    expected = model.naive(features_of(1, 25), [0, 1])[0]  # the reference takes at least one row
    check_close(found, np.stack([expected, expected]))


@pytest.mark.parametrize("joints", [1, 2, 15, 17, 20, 33, 64])
def test_other_skeletons(device: Device, joints: int) -> None:
    other = model_of(device, joints)
    features = features_of(12, joints)
    check_close(other.logits(features, [9, 3]), other.naive(features, [9, 3]))


@pytest.mark.usefixtures("gpu")
def test_a_long_clip(model: FusedModel) -> None:
    features = features_of(300, 25)
    check_close(model.logits(features, [300]), model.naive(features, [300]))


@pytest.mark.parametrize("tile_rows", [128, 256])
def test_a_clip_has_the_same_bits_in_any_batch(model: FusedModel, tile_rows: int) -> None:
    lengths = [32, 1, 0, 300, 7, 64, 150] if model.device.memory == "cuda" else [6, 1, 0, 13]
    features = features_of(sum(lengths), 25)
    together = model.logits(features, lengths, tail=50, tile_rows=tile_rows)
    assert (together == model.logits(features, lengths, tile_rows=tile_rows)).all()
    ends = np.cumsum(lengths)
    for clip, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        if length:
            alone = model.logits(features[end - length : end], [length], tile_rows=tile_rows)
            assert (alone[0] == together[clip]).all(), clip


@pytest.mark.usefixtures("gpu")
def test_many_clips_and_many_frames(model: FusedModel) -> None:
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, 40, 1024).tolist()
    features = features_of(sum(lengths), 25)
    together = model.logits(features, lengths)
    for clip in (0, 500, 1023):
        end = int(np.sum(lengths[: clip + 1]))
        if lengths[clip]:
            assert (
                model.logits(features[end - lengths[clip] : end], [lengths[clip]], tile_rows=256)[0] == together[clip]
            ).all()
    assert np.isfinite(model.logits(features_of(100_000, 25), [100_000])).all()


@pytest.mark.usefixtures("gpu")
def test_two_streams_at_once(model: FusedModel) -> None:
    features = [features_of(120, 25, seed) for seed in (5, 6)]
    expected = [model.logits(part, [50, 70]) for part in features]
    runs = [model.prepare(part, [50, 70]) for part in features]
    streams = [torch.cuda.Stream() for _ in runs]
    torch.cuda.synchronize()
    for _ in range(20):
        for run, stream in zip(runs, streams, strict=True):
            model.launch(run, stream.cuda_stream)
    torch.cuda.synchronize()
    for run, logits in zip(runs, expected, strict=True):
        assert (run.logits.values.view(2, CLASSES).cpu().numpy() == logits).all()


@pytest.mark.usefixtures("gpu")
def test_a_captured_run_is_replayed_on_new_clips(model: FusedModel) -> None:
    """The same graph on other features and other, shorter clips in the same memory."""
    run = model.prepare(features_of(200, 25), [120, 80])
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        model.launch(run, torch.cuda.current_stream().cuda_stream)
    for lengths in ([120, 80], [33, 0], [1, 199]):
        features = features_of(sum(lengths), 25, seed=sum(lengths))
        run.features.values.fill_(float("nan"))
        run.features.values[: features.size].copy_(torch.from_numpy(features.ravel()))
        run.cu_seqlens.values.copy_(torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)))
        graph.replay()
        torch.cuda.synchronize()
        found = run.logits.values.view(2, CLASSES).cpu().numpy()
        assert (found == model.logits(features, lengths, tile_rows=run.sizes.tile_rows)).all()


def test_sizes_that_cannot_be_run_are_refused(model: FusedModel) -> None:
    run = model.prepare(features_of(5, 25), [5])
    for field, value in [("joints", 0), ("joints", 65), ("clips", 0), ("frames", 0), ("layers", 0), ("tile_rows", 100)]:
        sizes = model.sizes(5, 1)
        setattr(sizes, field, value)
        with pytest.raises(AssertionError):
            model.launch(SimpleNamespace(**{**vars(run), "sizes": sizes}))
    assert model.device.library.star_cuda_workspace(model.sizes(0, 1)) == 0
