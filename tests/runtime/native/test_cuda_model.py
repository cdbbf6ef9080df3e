"""The whole STAR-64 by CUDA kernels beside the naive float64 model: odd batches, tails, guard bands, streams, graphs.

On a GPU, and on any machine in the emulator, which leaves out what takes it minutes. Needs torch, numpy and pytest, nvcc for a
GPU and a C++ compiler for the emulator; star-edge need not be installed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cuda_devices import KINDS, Device, Guarded, open_device

from runtime.native.cuda import library as cuda
from runtime.native.cuda.star_weights import pack_weights
from star_edge.models.naive import star

TOLERANCE = 5e-3  # of fp16, relative to the largest logit: the design's
CLASSES, HIDDEN, LAYERS, CHANNELS = 7, 128, 5, 9


@pytest.fixture(scope="module", params=KINDS)
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Device:
    return open_device(request.param, cuda.MODEL, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def gpu(device: Device) -> Device:
    """For what the emulator has not, or not the time for."""
    if device.memory == "cpu":
        pytest.skip("on a GPU alone: streams, graphs, or too many frames for the emulator")
    return device


def skeleton(joints: int) -> tuple[tuple[int, int], ...]:
    """A chain, each joint with those up to three away."""
    return tuple((i, j) for i in range(joints) for j in range(joints) if abs(i - j) <= 3)


def state_dict(joints: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def linear(path: str, outputs: int, inputs: int, bias: bool = True) -> dict[str, np.ndarray]:
        entries = {f"{path}.weight": rng.normal(0, inputs**-0.5, (outputs, inputs))}
        return {**entries, f"{path}.bias": rng.normal(0, 0.1, outputs)} if bias else entries

    def norm(path: str) -> dict[str, np.ndarray]:
        return {f"{path}.weight": rng.uniform(0.5, 1.5, 64), f"{path}.bias": rng.normal(0, 0.1, 64)}

    inputs = joints * CHANNELS
    state = {
        "input_norm.weight": rng.uniform(0.5, 1.5, inputs),
        "input_norm.bias": rng.normal(0, 0.1, inputs),
        "input_norm.running_mean": rng.normal(0, 0.1, inputs),
        "input_norm.running_var": rng.uniform(0.5, 1.5, inputs),
        **linear("embedding", 64, CHANNELS),
        "context.weight": rng.normal(0, 0.1, (64, 64)),
        **linear("head.hidden", HIDDEN, joints * 64),
        **linear("head.output", CLASSES, HIDDEN),
    }
    for layer, branch in itertools.product(range(LAYERS), ("spatial", "temporal")):
        path = f"layers.{layer}.{branch}"
        state |= linear(f"{path}.qkv", 192, 64, bias=False) | norm(f"{path}.norm1") | norm(f"{path}.norm2")
        state |= linear(f"{path}.linear1", 64, 64) | linear(f"{path}.linear2", 64, 64)
    return state


class Model:
    """Weights on the device, and runs in guarded memory."""

    def __init__(self, device: Device, joints: int) -> None:
        self.device, self.joints, self.edges = device, joints, skeleton(joints)
        self.state = state_dict(joints)
        self._naive: dict[tuple[bytes, tuple[int, ...]], np.ndarray] = {}  # slow, and asked for again for each size of tiles
        self._packed = Guarded.of(pack_weights(device.library, self.sizes(1, 1), self.state, self.edges), device.memory)
        self.weights = cuda.Weights()
        device.library.star_cuda_place_weights(self.sizes(1, 1), self._packed.address, self.weights)

    def sizes(self, frames: int, clips: int, tile_rows: int = 0) -> cuda.Sizes:
        return cuda.Sizes(self.joints, CHANNELS, CLASSES, LAYERS, HIDDEN, len(self.edges), frames, clips, tile_rows)

    def prepare(self, features: np.ndarray, lengths: Sequence[int], tail: int = 0, tile_rows: int = 0) -> SimpleNamespace:
        """Buffers with room for ``tail`` more frames; all that is not given holds NaN."""
        sizes, memory = self.sizes(len(features) + tail, len(lengths), tile_rows), self.device.memory
        run = SimpleNamespace(sizes=sizes)
        run.features = Guarded.of(features, memory, (len(features) + tail) * self.joints * CHANNELS)
        run.cu_seqlens = Guarded.of(np.cumsum([0, *lengths], dtype=np.int32), memory)
        run.workspace = Guarded(self.device.library.star_cuda_workspace(sizes), torch.uint8, memory)
        run.logits = Guarded(len(lengths) * CLASSES, torch.float32, memory)
        return run

    def launch(self, run: SimpleNamespace, stream: int | None = None) -> None:
        self.device.call(
            "run", run.sizes, self.weights, run.features.address, run.cu_seqlens.address, run.workspace.address,
            run.logits.address, stream,
        )  # fmt: skip

    def logits(self, features: np.ndarray, lengths: Sequence[int], tail: int = 0, tile_rows: int = 0) -> np.ndarray:
        run = self.prepare(features, lengths, tail, tile_rows)
        self.device.synchronize()
        self.launch(run)
        self.device.synchronize()
        for part in (run.features, run.cu_seqlens, run.workspace, run.logits):
            part.check()
        return run.logits.values.view(len(lengths), CLASSES).cpu().numpy()

    def naive(self, features: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        key = (features.tobytes(), tuple(lengths))
        if key not in self._naive:
            self._naive[key] = star(self.config(), self.state, features, np.cumsum([0, *lengths]))
        return self._naive[key]

    def config(self) -> SimpleNamespace:
        """As StarConfig, which needs packages that a bare machine lacks."""
        return SimpleNamespace(
            joints=self.joints,
            channels=CHANNELS,
            classes=CLASSES,
            edges=self.edges,
            dim=64,
            heads=8,
            layers=LAYERS,
            hidden=HIDDEN,
        )


@pytest.fixture(scope="module")
def model(device: Device) -> Model:
    return Model(device, 25)


def features_of(frames: int, joints: int, seed: int = 1) -> np.ndarray:
    """A body that moves round a pose, which it keeps: what averages to nothing over a clip would have logits of nothing but error."""
    rng = np.random.default_rng(seed)
    pose = rng.normal(0, 1, (joints, CHANNELS))
    return (pose + rng.normal(0, 0.3, (frames, joints, CHANNELS))).astype(np.float32)


def check_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("tile_rows", [128, 192])
@pytest.mark.parametrize(
    "lengths", [[1], [5], [6], [7], [10], [11], [16], [1, 1, 1], [0, 7, 0, 0, 13, 0], [3, 40, 21]], ids=str
)
def test_equals_the_naive_model(model: Model, lengths: list[int], tile_rows: int) -> None:
    features = features_of(sum(lengths), 25)
    found = model.logits(features, lengths, tile_rows=tile_rows)
    check_close(found, model.naive(features, lengths))


def test_nothing_but_empty_clips(model: Model) -> None:
    found = model.logits(features_of(0, 25), [0, 0], tail=1)  # there is room for a frame at least
    expected = model.naive(features_of(1, 25), [0, 1])[0]  # the reference takes at least one row
    check_close(found, np.stack([expected, expected]))


@pytest.mark.parametrize("joints", [1, 2, 15, 17, 20, 33, 64])
def test_other_skeletons(device: Device, joints: int) -> None:
    other = Model(device, joints)
    features = features_of(12, joints)
    check_close(other.logits(features, [9, 3]), other.naive(features, [9, 3]))


@pytest.mark.usefixtures("gpu")
def test_a_long_clip(model: Model) -> None:
    features = features_of(300, 25)
    check_close(model.logits(features, [300]), model.naive(features, [300]))


@pytest.mark.parametrize("tile_rows", [128, 192])
def test_a_clip_has_the_same_bits_in_any_batch(model: Model, tile_rows: int) -> None:
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
def test_many_clips_and_many_frames(model: Model) -> None:
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, 40, 1024).tolist()
    features = features_of(sum(lengths), 25)
    together = model.logits(features, lengths)
    for clip in (0, 500, 1023):
        end = int(np.sum(lengths[: clip + 1]))
        if lengths[clip]:
            assert (
                model.logits(features[end - lengths[clip] : end], [lengths[clip]], tile_rows=192)[0] == together[clip]
            ).all()
    assert np.isfinite(model.logits(features_of(100_000, 25), [100_000])).all()


@pytest.mark.usefixtures("gpu")
def test_two_streams_at_once(model: Model) -> None:
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
def test_a_captured_run_is_replayed_on_new_clips(model: Model) -> None:
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


def test_sizes_that_cannot_be_run_are_refused(model: Model) -> None:
    run = model.prepare(features_of(5, 25), [5])
    for field, value in [("joints", 0), ("joints", 65), ("clips", 0), ("frames", 0), ("layers", 0), ("tile_rows", 100)]:
        sizes = model.sizes(5, 1)
        setattr(sizes, field, value)
        with pytest.raises(AssertionError):
            model.launch(SimpleNamespace(**{**vars(run), "sizes": sizes}))
    assert model.device.library.star_cuda_workspace(model.sizes(0, 1)) == 0
