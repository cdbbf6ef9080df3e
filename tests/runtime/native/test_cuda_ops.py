"""The Star ops' CUDA kernels beside the naive float64 references: on a GPU, and on any machine in the emulator.

Needs torch, numpy and pytest, nvcc for a GPU and a C++ compiler for the emulator; star-edge need not be installed.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from cuda_devices import KINDS, Device, Guarded, open_device

from runtime.native.cuda import library as cuda
from star_edge.ops import context_attention, segmented_linear_attention, sparse_attention
from star_edge.ops.context_attention.naive import context_attention as naive_context
from star_edge.ops.segmented_linear_attention import EPS
from star_edge.ops.segmented_linear_attention.naive import segmented_linear_attention as naive_linear
from star_edge.ops.segmented_positions import TOLERANCE as POSITIONS_TOLERANCE
from star_edge.ops.segmented_positions.naive import segmented_positions as naive_positions
from star_edge.ops.sparse_attention.naive import sparse_attention as naive_sparse

TYPES = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}
BATCHES = [[1], [7], [64], [65], [100], [0, 5, 3], [4, 0, 0, 6], [3, 2, 0], [0, 0], [1, 31, 2, 17], [63, 1, 130]]
HEAD_DIMS = [4, 8, 16, 32, 64]


@pytest.fixture(scope="module", params=KINDS)
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Device:
    return open_device(request.param, cuda.OPS, tmp_path_factory.mktemp(request.param))


@pytest.fixture(params=[False, True], ids=["in order", "backwards"])
def order(request: pytest.FixtureRequest, device: Device) -> Iterator[None]:
    """Threads in the emulator take turns in either order: what depends on it is a race."""
    if device.memory == "cuda":
        if request.param:
            pytest.skip("a GPU orders its threads itself")
        yield
        return
    device.library.star_emulator_backwards(int(request.param))
    yield
    device.library.star_emulator_backwards(0)


class Case:
    """A batch in a type, with room for more frames, and what was run on it."""

    def __init__(
        self, device: Device, kind: str, lengths: Sequence[int], joints: int, channels: int, heads: int = 1, tail: int = 3
    ) -> None:
        self.device, self.kind, self.joints, self.channels, self.heads = device, kind, joints, channels, heads
        self.frames, self.clips = int(sum(lengths)), len(lengths)
        self.cu_seqlens = np.cumsum([0, *lengths], dtype=np.int32)
        self.shape = cuda.Shape(self.frames + tail, self.clips, joints, channels, heads)
        self.input_scale, self.output_scale = (0.03, 0.02) if kind == "int8" else (0.0, 0.0)
        self.format = cuda.Format(cuda.TYPES.index(kind), self.input_scale, self.output_scale)
        self._offsets = Guarded.of(self.cu_seqlens, device.memory)
        self._parts = [self._offsets]

    def random(self, width: int, seed: int = 0) -> np.ndarray:
        """Values [F, V, width] as the type holds them, in float64, and beside them what is stored."""
        values = np.random.default_rng(seed).normal(size=(self.frames, self.joints, width))
        if self.kind != "int8":
            return values.astype(TYPES[self.kind])
        return np.clip(np.rint(values / self.input_scale), -127, 127).astype(np.int8)

    def value(self, stored: np.ndarray, scale: float) -> np.ndarray:
        return stored.astype(np.float64) * (np.float64(np.float32(scale)) if self.kind == "int8" else 1)

    def memory(self, stored: np.ndarray, width: int) -> Guarded:
        part = Guarded.of(stored, self.device.memory, self.shape.frames * self.joints * width)
        self._parts.append(part)
        return part

    def room(self, count: int, dtype: torch.dtype) -> Guarded:
        part = Guarded(count, dtype, self.device.memory)
        self._parts.append(part)
        return part

    def output(self, rows: int) -> Guarded:
        dtype = torch.from_numpy(np.zeros(0, TYPES[self.kind])).dtype
        return self.room(rows * self.joints * self.channels, dtype)

    def result(self, out: Guarded, rows: int, untouched: bool) -> np.ndarray:
        """What is stored in the first rows; the buffers' bands, and the rows behind where they must be as they were."""
        self.device.synchronize()
        for part in self._parts:
            part.check()
        count = rows * self.joints * self.channels
        if untouched:
            assert (out.values[count:].view(torch.uint8) == 0xFF).all(), "wrote behind the last clip"
        return out.values[:count].cpu().numpy().reshape(rows, self.joints, self.channels)

    def positions(self, x: np.ndarray) -> np.ndarray:
        out = self.output(self.shape.frames)
        self.device.call("segmented_positions", self.shape, self.format, self.memory(x, self.channels).address,
                         self._offsets.address, out.address, None)  # fmt: skip
        return self.result(out, self.frames, untouched=True)

    def sparse(self, qkv: np.ndarray, edges: Sequence[tuple[int, int]]) -> np.ndarray:
        out = self.output(self.shape.frames)
        self.device.call("sparse_attention", self.shape, self.format, words_of(edges, self.joints),
                         self.memory(qkv, 3 * self.channels).address, out.address, None)  # fmt: skip
        return self.result(out, self.frames, untouched=False)

    def linear(self, qkv: np.ndarray, eps: float = EPS) -> np.ndarray:
        out = self.output(self.shape.frames)
        workspace = self.room(self.device.library.star_cuda_segmented_linear_attention_workspace(self.shape), torch.uint8)
        self.device.call("segmented_linear_attention", self.shape, self.format, eps,
                         self.memory(qkv, 3 * self.channels).address, self._offsets.address, workspace.address,
                         out.address, None)  # fmt: skip
        return self.result(out, self.frames, untouched=True)

    def context(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        out = self.output(self.clips)
        weights = Guarded.of(weight, self.device.memory)
        self._parts.append(weights)
        kind = cuda.TYPES.index("fp16" if weight.dtype == np.float16 else "fp32")
        self.device.call("context_attention", self.shape, self.format, kind, self.memory(x, self.channels).address,
                         weights.address, self._offsets.address, out.address, None)  # fmt: skip
        return self.result(out, self.clips, untouched=True)

    def check(self, stored: np.ndarray, expected: np.ndarray, tolerances: dict[str, float]) -> None:
        """Within the op's tolerance; int8 within half a level of what float32 gives, which may lie on a level's edge."""
        if self.kind != "int8":
            assert np.isfinite(stored).all()
            largest = max(np.abs(expected).max(initial=0), 1e-3)
            assert np.abs(stored - expected).max(initial=0) <= tolerances[self.kind] * largest
            return
        levels = np.clip(expected / np.float64(np.float32(self.output_scale)), -127, 127)
        assert np.abs(stored - levels).max(initial=0) <= 0.5 + 1e-3


def words_of(edges: Sequence[tuple[int, int]], joints: int) -> ctypes.Array[ctypes.c_uint64]:
    words = [sum(1 << j for j in {j for i, j in edges if i == joint}) for joint in range(joints)]
    return (ctypes.c_uint64 * joints)(*words)


def chain(joints: int, reach: int = 2) -> list[tuple[int, int]]:
    return [(i, j) for i, j in itertools.product(range(joints), repeat=2) if abs(i - j) <= reach]


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("lengths", BATCHES, ids=str)
@pytest.mark.parametrize("kind", TYPES)
def test_every_op_on_odd_batches(device: Device, kind: str, lengths: list[int]) -> None:
    case = Case(device, kind, lengths, joints=5, channels=24, heads=3)
    x, qkv, weight = case.random(24), case.random(72), np.random.default_rng(1).normal(size=(24, 24)).astype(np.float32)
    inputs, values = case.value(qkv, case.input_scale), case.value(x, case.input_scale)
    case.check(case.positions(x), naive_positions(values, case.cu_seqlens), POSITIONS_TOLERANCE)
    case.check(case.sparse(qkv, chain(5)), naive_sparse(inputs, chain(5), 3), sparse_attention.TOLERANCE)
    case.check(case.linear(qkv), naive_linear(inputs, case.cu_seqlens, 3), segmented_linear_attention.TOLERANCE)
    found, expected = case.context(x, weight), naive_context(values, weight, case.cu_seqlens)
    case.check(found, expected, context_attention.TOLERANCE)
    assert (found[np.diff(case.cu_seqlens) == 0] == 0).all()


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("kind", TYPES)
def test_attention_of_any_head_width(device: Device, kind: str, head_dim: int) -> None:
    for heads in (1, 3):
        case = Case(device, kind, [40, 1, 70], joints=2, channels=heads * head_dim, heads=heads)
        qkv = case.random(3 * heads * head_dim)
        inputs = case.value(qkv, case.input_scale)
        case.check(case.sparse(qkv, chain(2)), naive_sparse(inputs, chain(2), heads), sparse_attention.TOLERANCE)
        expected = naive_linear(inputs, case.cu_seqlens, heads)
        case.check(case.linear(qkv), expected, segmented_linear_attention.TOLERANCE)


@pytest.mark.parametrize("joints", [1, 2, 17, 25, 33, 64])
def test_other_skeletons(device: Device, joints: int) -> None:
    case = Case(device, "fp16", [3, 5], joints, channels=16, heads=2)
    qkv, x, weight = case.random(48), case.random(16), np.random.default_rng(2).normal(size=(16, 16)).astype(np.float16)
    rng = np.random.default_rng(joints)
    edges = [(i, j) for i, j in itertools.product(range(joints), repeat=2) if i == j or rng.random() < 0.3]
    case.check(case.sparse(qkv, edges), naive_sparse(qkv.astype(float), edges, 2), sparse_attention.TOLERANCE)
    case.check(case.linear(qkv), naive_linear(qkv.astype(float), case.cu_seqlens, 2), segmented_linear_attention.TOLERANCE)
    expected = naive_context(x.astype(float), weight.astype(float), case.cu_seqlens)
    case.check(case.context(x, weight), expected, context_attention.TOLERANCE)


@pytest.mark.parametrize("channels", [4, 60, 64, 128, 512, 1024])
@pytest.mark.parametrize("kind", TYPES)
def test_pooling_of_any_width(device: Device, kind: str, channels: int) -> None:
    case = Case(device, kind, [130, 2], joints=2, channels=channels)
    x, rng = case.random(channels), np.random.default_rng(3)
    weight = rng.normal(scale=channels**-0.5, size=(channels, channels)).astype(np.float16)
    expected = naive_context(case.value(x, case.input_scale), weight.astype(float), case.cu_seqlens)
    case.check(case.context(x, weight), expected, context_attention.TOLERANCE)


def test_scores_and_queries_far_from_zero(device: Device) -> None:
    """Scores of hundreds, and phi of a few times 1e-5."""
    case = Case(device, "fp32", [5], joints=3, channels=8, heads=1)
    qkv = case.random(24)
    large = qkv * np.float32(30)
    case.check(case.sparse(large, chain(3)), naive_sparse(large, chain(3), 1), sparse_attention.TOLERANCE)
    low = qkv.copy()
    low[..., :16] -= 16
    case.check(case.linear(low), naive_linear(low, case.cu_seqlens, 1), segmented_linear_attention.TOLERANCE)


def test_a_long_clip(device: Device) -> None:
    """100,000 frames: positions beyond 10^4, sums of many chunks, and half-precision sums that would overflow."""
    frames = 100_000
    case = Case(device, "fp32", [frames], joints=1, channels=4, heads=1)
    x, qkv = case.random(4), np.random.default_rng(5).normal(1, 1, (frames, 1, 12)).astype(np.float32)
    case.check(case.positions(x), naive_positions(x.astype(float), case.cu_seqlens), POSITIONS_TOLERANCE)
    found = case.linear(qkv)
    keys, queries = (phi(qkv[:, 0, part] * 4**-0.25) for part in (slice(4, 8), slice(0, 4)))
    expected = queries @ (keys.T @ qkv[:, 0, 8:].astype(float)) / (queries @ keys.sum(0) + EPS)[:, None]
    case.check(found, expected[:, None], segmented_linear_attention.TOLERANCE)
    weight = np.eye(4, dtype=np.float32)
    case.check(case.context(x, weight), naive_context(x, weight, case.cu_seqlens), context_attention.TOLERANCE)
    half = Case(device, "fp16", [3000], joints=1, channels=8, heads=1)
    np.testing.assert_allclose(half.linear(np.full((3000, 1, 24), 6, np.float16)), 6, rtol=2e-3)


def phi(u: np.ndarray) -> np.ndarray:
    u = u.astype(float)
    return np.where(u > 0, u + 1, np.exp(np.minimum(u, 0)))


def test_a_clip_has_the_same_bits_in_any_batch(device: Device) -> None:
    lengths = [32, 1, 0, 150, 7, 64]
    whole = Case(device, "fp16", lengths, joints=3, channels=16, heads=2, tail=70)
    x, qkv, weight = whole.random(16), whole.random(48), np.eye(16, dtype=np.float16)
    together = whole.positions(x), whole.linear(qkv), whole.context(x, weight)
    for clip, (begin, end) in enumerate(itertools.pairwise(whole.cu_seqlens)):
        alone = Case(device, "fp16", [end - begin], joints=3, channels=16, heads=2, tail=0 if end > begin else 1)
        rows = slice(begin, end)
        assert (alone.positions(x[rows]) == together[0][rows]).all()
        assert (alone.linear(qkv[rows]) == together[1][rows]).all()
        assert (alone.context(x[rows], weight)[0] == together[2][clip]).all()


def test_a_thousand_clips(device: Device) -> None:
    lengths = np.random.default_rng(6).integers(0, 4, 1024).tolist()
    case = Case(device, "fp32", lengths, joints=1, channels=4, heads=1)
    x, qkv, weight = case.random(4), case.random(12), np.eye(4, dtype=np.float32)
    case.check(case.positions(x), naive_positions(x, case.cu_seqlens), POSITIONS_TOLERANCE)
    case.check(case.linear(qkv), naive_linear(qkv, case.cu_seqlens, 1), segmented_linear_attention.TOLERANCE)
    case.check(case.context(x, weight), naive_context(x, weight, case.cu_seqlens), context_attention.TOLERANCE)


def test_int8_levels_are_clamped_and_rounded_half_to_even(device: Device) -> None:
    """Frame 0 adds sin 1 to channel 0 and sin 0 = 0 to channel 2; cos 0 = 1 to 1 and 3."""
    case = Case(device, "int8", [1], joints=4, channels=4)
    case.format.input_scale, case.format.output_scale = 0.5, 1.0
    x = np.full((1, 4, 4), 127, np.int8)
    x[0, :, 2] = [1, 3, -1, -3]  # 0.5, 1.5, -0.5, -1.5
    case.format.output_scale = 1.0
    assert case.positions(x)[0, :, 2].tolist() == [0, 2, 0, -2]
    case.format.output_scale = 0.25
    assert (case.positions(x)[0, :, 0] == 127).all()
    assert (case.positions(-x)[0, :, 0] == -127).all()


def call_all(case: Case, change: Callable[[cuda.Shape, cuda.Format], None]) -> dict[str, int]:
    """Error of each op after a change of shape and format, with memory it must not touch."""
    shape, form = cuda.Shape.from_buffer_copy(case.shape), cuda.Format.from_buffer_copy(case.format)
    change(shape, form)
    words = words_of(chain(64, 1), 64) if shape.joints > 5 else words_of(chain(5), 5)
    library, some = case.device.library, case.room(16, torch.float32).address
    return {
        "positions": library.star_cuda_segmented_positions(shape, form, some, some, some, None),
        "sparse": library.star_cuda_sparse_attention(shape, form, words, some, some, None),
        "linear": library.star_cuda_segmented_linear_attention(shape, form, EPS, some, some, some, some, None),
        "context": library.star_cuda_context_attention(shape, form, 0, some, some, some, some, None),
    }


@pytest.mark.parametrize(
    ("field", "value", "refusing"),
    [
        ("joints", 0, "all"),
        ("joints", 65, "all"),
        ("channels", 0, "all"),
        ("channels", 18, "all"),
        ("frames", -1, "all"),
        ("frames", 2**30, "all"),
        ("clips", 0, ("positions", "linear", "context")),
        ("heads", 0, ("sparse", "linear")),
        ("heads", 5, ("sparse", "linear")),
        ("heads", 2, ("sparse", "linear")),  # 12 channels each
        ("channels", 1028, ("context", "sparse", "linear")),
        ("type", 7, "all"),
        ("type", 2, "all"),  # int8 without scales
    ],
    ids=str,
)
def test_what_cannot_be_run_is_refused(device: Device, field: str, value: int, refusing: str | tuple[str, ...]) -> None:
    case = Case(device, "fp32", [0], joints=5, channels=24, heads=3, tail=0)
    errors = call_all(case, lambda shape, form: setattr(form if field == "type" else shape, field, value))
    refused = {name for name, error in errors.items() if error == 1}
    assert refused == (set(errors) if refusing == "all" else set(refusing))
    if "linear" in refused and field != "type":
        shape = cuda.Shape.from_buffer_copy(case.shape)
        setattr(shape, field, value)
        assert case.device.library.star_cuda_segmented_linear_attention_workspace(shape) == 0


def test_a_joint_without_a_neighbour_gets_zeros(device: Device) -> None:
    case = Case(device, "fp32", [3], joints=3, channels=4)
    qkv, edges = case.random(12), [(0, 0), (0, 2), (2, 1)]
    found = case.sparse(qkv, edges)
    assert (found[:, 1] == 0).all()
    case.check(found[:, 2], qkv[:, 1, 8:].astype(float), sparse_attention.TOLERANCE)


def test_a_neighbour_beyond_the_skeleton_is_refused(device: Device) -> None:
    case = Case(device, "fp32", [1], joints=3, channels=4)
    some = case.room(64, torch.float32).address
    array = (ctypes.c_uint64 * 3)(1, 8, 1)
    assert device.library.star_cuda_sparse_attention(case.shape, case.format, array, some, some, None) == 1


@pytest.mark.parametrize(
    "offsets", [[0, 9, 3, 7], [5, 5, 5, 5], [-7, 4, 2**31 - 1, -(2**31)], [2**30, -1, 0, 2**30], [200, 130, 64, 0]]
)
def test_offsets_that_are_none_touch_nothing_beyond_the_tensors(device: Device, offsets: list[int]) -> None:
    """The bands are looked at with each result; a read far away would end the process."""
    case = Case(device, "fp16", [64, 64, 72], joints=5, channels=16, heads=2, tail=0)
    buffers = buffers_of(case, 3)
    buffers["offsets"].values.copy_(torch.tensor(offsets, dtype=torch.int32))
    launch_all(case, buffers, None)
    device.synchronize()
    for buffer in buffers.values():
        buffer.check()


def test_no_frames_at_all(device: Device) -> None:
    case = Case(device, "fp32", [0, 0], joints=2, channels=4, tail=0)
    assert case.positions(case.random(4)).shape == (0, 2, 4)
    assert case.sparse(case.random(12), chain(2)).shape == (0, 2, 4)
    assert case.linear(case.random(12)).shape == (0, 2, 4)
    assert (case.context(case.random(4), np.eye(4, dtype=np.float32)) == 0).all()


def launch_all(case: Case, buffers: dict[str, Guarded], stream: int | None) -> None:
    """Every op on the same memory, one after the other."""
    shape, form, call = case.shape, case.format, case.device.call
    at = {name: buffer.address for name, buffer in buffers.items()}
    call("segmented_positions", shape, form, at["x"], at["offsets"], at["positions"], stream)
    call("sparse_attention", shape, form, words_of(chain(5), 5), at["qkv"], at["sparse"], stream)
    call("segmented_linear_attention", shape, form, EPS, at["qkv"], at["offsets"], at["workspace"], at["linear"],
         stream)  # fmt: skip
    call("context_attention", shape, form, 1, at["x"], at["weight"], at["offsets"], at["context"], stream)


def buffers_of(case: Case, seed: int) -> dict[str, Guarded]:
    memory, outputs = case.device.memory, ("positions", "sparse", "linear")
    size = case.device.library.star_cuda_segmented_linear_attention_workspace(case.shape)
    return {
        "x": case.memory(case.random(16, seed), 16),
        "qkv": case.memory(case.random(48, seed), 48),
        "offsets": Guarded.of(case.cu_seqlens, memory),
        "weight": Guarded.of(np.eye(16, dtype=np.float16), memory),
        "workspace": case.room(size, torch.uint8),
        **{name: case.output(case.shape.frames) for name in outputs},
        "context": case.output(case.clips),
    }


def stored(buffers: dict[str, Guarded]) -> list[bytes]:
    names = ("positions", "sparse", "linear", "context")
    return [buffers[name].values.view(torch.uint8).cpu().numpy().tobytes() for name in names]


def test_two_streams_at_once_and_a_graph_replayed_on_other_clips(device: Device) -> None:
    if device.memory == "cpu":
        pytest.skip("the emulator has neither streams nor graphs")
    case = Case(device, "fp16", [50, 70], joints=5, channels=16, heads=2, tail=80)
    expected, runs = [], [buffers_of(case, seed) for seed in (7, 8)]
    for run in runs:
        launch_all(case, run, torch.cuda.current_stream().cuda_stream)
        device.synchronize()
        expected.append(stored(run))
    streams = [torch.cuda.Stream() for _ in runs]
    for _ in range(20):
        for run, stream in zip(runs, streams, strict=True):
            launch_all(case, run, stream.cuda_stream)
    device.synchronize()
    assert [stored(run) for run in runs] == expected

    run, graph = runs[0], torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=streams[0]):
        launch_all(case, run, torch.cuda.current_stream().cuda_stream)
    for lengths in ([50, 70], [33, 0], [1, 199]):
        run["offsets"].values.copy_(torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)))
        device.synchronize()
        graph.replay()
        device.synchronize()
        replayed = stored(run)
        launch_all(case, run, streams[1].cuda_stream)
        device.synchronize()
        assert stored(run) == replayed
