"""Linear layers, LayerNorm and embedding by CUDA kernels beside numpy in float64: on a GPU, and on any machine in the emulator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cuda_devices import KINDS, Device, Guarded, open_device

from runtime.native.cuda import library as cuda

FP32, FP16, INT8 = range(3)
FLOATS = {FP32: np.float32, FP16: np.float16}
TOLERANCES = {FP32: 1e-5, FP16: 5e-3, INT8: 5e-3}  # relative to the largest; of int8 beside the same levels
TILE_OUTPUTS, TILE_BYTES = 64, 128


@pytest.fixture(scope="module", params=KINDS)
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Device:
    return open_device(request.param, cuda.LAYERS, tmp_path_factory.mktemp(request.param))


def check(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


class Linear:
    """A linear layer with random weights, padded as the kernel wants them, and what it should give."""

    def __init__(self, device: Device, kind: int, inputs: int, outputs: int, silu: bool) -> None:
        self.device, self.kind, self.outputs, self.silu = device, kind, outputs, silu
        rng = np.random.default_rng(inputs + outputs)
        self.weight = rng.normal(0, inputs**-0.5, (outputs, inputs))
        self.bias = rng.normal(size=outputs).astype(np.float32)
        self.input_scale = np.float32(0.02)
        stored, self.steps = self.weight.astype(FLOATS.get(kind, np.float32)), np.ones(outputs, np.float32)
        if kind == INT8:
            self.steps = (np.abs(self.weight).max(1) / 127).astype(np.float32)
            stored = np.rint(self.weight / self.steps[:, None]).astype(np.int8)
        self.stored = stored
        tile = TILE_BYTES // stored.itemsize
        rows, columns = (-(-size // tile) * tile for size, tile in ((outputs, TILE_OUTPUTS), (inputs, tile)))
        matrix = np.zeros((rows, columns), stored.dtype)
        matrix[:outputs, :inputs] = stored
        pad = (0, rows - outputs)
        scales = np.pad(self.steps * self.input_scale, pad).astype(np.float32)
        self._parts = [Guarded.of(part, device.memory) for part in (matrix, np.pad(self.bias, pad), scales)]
        addresses = [part.address for part in self._parts]
        self.layer = cuda.LinearLayer(kind, inputs, outputs, *addresses, float(self.input_scale), int(silu))

    def __call__(self, x: np.ndarray, out_type: int) -> np.ndarray:
        memory = Guarded.of(x, self.device.memory)
        dtype = torch.float32 if out_type == FP32 else torch.float16
        out = Guarded(len(x) * self.outputs, dtype, self.device.memory)
        x_type = FP32 if x.dtype == np.float32 else FP16
        self.device.call("linear", self.layer, len(x), x_type, memory.address, out_type, out.address, None)
        self.device.synchronize()
        for part in (memory, out, *self._parts):
            part.check()
        return out.values.cpu().numpy().reshape(len(x), self.outputs)

    def expected(self, x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        if self.kind == INT8:
            levels = np.clip(np.rint((x.astype(np.float32) / self.input_scale).astype(np.float64)), -127, 127)
            sums = levels @ self.stored.T.astype(np.float64) * (self.steps.astype(np.float64) * self.input_scale)
        else:
            sums = x @ self.stored.T.astype(np.float64)
        sums = sums + self.bias
        return sums / (1 + np.exp(-sums)) if self.silu else sums


SHAPES = [(1, 4, 1), (1, 64, 64), (3, 12, 5), (64, 64, 192), (65, 128, 65), (130, 1600, 128), (7, 132, 60), (200, 36, 100)]


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("silu", [False, True], ids=["plain", "silu"])
@pytest.mark.parametrize("kind", [FP32, FP16, INT8], ids=["fp32", "fp16", "int8"])
def test_linear(device: Device, kind: int, rows: int, inputs: int, outputs: int, silu: bool) -> None:
    linear = Linear(device, kind, inputs, outputs, silu)
    x = np.random.default_rng(rows).normal(size=(rows, inputs)).astype(FLOATS.get(kind, np.float16))
    for out_type in {FP32, FP32 if kind == FP32 else FP16}:
        check(linear(x, out_type), linear.expected(x), TOLERANCES[kind])


@pytest.mark.parametrize("kind", [FP32, FP16, INT8], ids=["fp32", "fp16", "int8"])
def test_a_row_has_the_same_bits_whatever_is_beside_it(device: Device, kind: int) -> None:
    linear = Linear(device, kind, 64, 64, False)
    x = np.random.default_rng(1).normal(size=(70, 64)).astype(FLOATS.get(kind, np.float16))
    together = linear(x, FP32)
    for row in (0, 15, 63, 64, 69):
        assert (linear(x[row : row + 1], FP32)[0] == together[row]).all()


@pytest.mark.parametrize("channels", [4, 60, 64, 128, 132, 512])
@pytest.mark.parametrize("kind", FLOATS, ids=["fp32", "fp16"])
def test_residual_norm(device: Device, kind: int, channels: int) -> None:
    rng = np.random.default_rng(channels)
    x, branch, added = (rng.normal(1, 2, (9, channels)).astype(FLOATS[kind]) for _ in range(3))
    weight, bias = (rng.normal(1, 0.3, channels).astype(np.float32) for _ in range(2))
    total = x.astype(np.float64) + branch
    centred = total - total.mean(1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * weight + bias
    parts = [Guarded.of(part, device.memory) for part in (x, branch, weight, bias, added)]
    addresses = [part.address for part in parts]
    for last, expected in ((None, normal), (addresses[4], normal + added)):
        out = Guarded(x.size, parts[0].values.dtype, device.memory)
        device.call("residual_norm", kind, 9, channels, *addresses[:4], last, out.address, None)
        device.synchronize()
        for part in (*parts, out):
            part.check()
        check(out.values.cpu().numpy().reshape(9, channels), expected, TOLERANCES[kind])
    device.call("residual_norm", kind, 9, channels, *addresses[:4], addresses[4], addresses[0], None)  # in place
    device.synchronize()
    check(parts[0].values.cpu().numpy().reshape(9, channels), normal + added, TOLERANCES[kind])


@pytest.mark.parametrize(("joints", "inputs", "channels"), [(1, 3, 4), (5, 9, 64), (25, 9, 128), (3, 1, 100)])
@pytest.mark.parametrize("kind", FLOATS, ids=["fp32", "fp16"])
def test_embed(device: Device, kind: int, joints: int, inputs: int, channels: int) -> None:
    rng = np.random.default_rng(inputs)
    shapes = [(11, joints, inputs), (joints, inputs), (joints, inputs), (inputs, channels), (channels,)]
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    features, scale, shift, matrix, bias = (array.astype(np.float64) for array in arrays)
    parts = [Guarded.of(array, device.memory) for array in arrays]
    out = Guarded(11 * joints * channels, torch.float32 if kind == FP32 else torch.float16, device.memory)
    device.call("embed", kind, 11, joints, inputs, channels, *(part.address for part in parts), out.address, None)
    device.synchronize()
    for part in (*parts, out):
        part.check()
    expected = (features * scale + shift) @ matrix + bias
    check(out.values.cpu().numpy().reshape(expected.shape), expected, TOLERANCES[kind])


def test_what_cannot_be_run_is_refused(device: Device) -> None:
    linear = Linear(device, FP16, 64, 64, False)
    some = Guarded(64, torch.float32, device.memory).address
    library = device.library

    def error(x_type: int = FP16, out_type: int = FP16, rows: int = 1, **fields: object) -> int:
        layer = cuda.LinearLayer.from_buffer_copy(linear.layer)
        for name, value in fields.items():
            setattr(layer, name, value)
        return library.star_cuda_linear(layer, rows, x_type, some, out_type, some, None)

    assert error() == 0
    assert {error(x_type=FP32), error(x_type=INT8), error(out_type=INT8), error(rows=-1)} == {1}
    assert {error(inputs=0), error(inputs=66), error(outputs=0), error(type=7), error(matrix=None), error(bias=None)} == {1}
    assert {error(type=INT8, input_scale=0), error(type=INT8, scales=None), error(type=FP32)} == {1}
    assert error(type=FP32, x_type=FP32) == 1  # out is FP16
    assert error(rows=0) == 0
    norm = library.star_cuda_residual_norm
    assert norm(FP16, 0, 64, some, some, some, some, None, some, None) == 0
    assert {norm(INT8, 1, 64, some, some, some, some, None, some, None), norm(FP16, 1, 66, *[some] * 4, None, some, None),
            norm(FP16, -1, 64, *[some] * 4, None, some, None), norm(FP16, 1, 64, *[None] * 6, None)} == {1}  # fmt: skip
    embed = library.star_cuda_embed
    assert embed(FP32, 0, 3, 3, 4, *[some] * 6, None) == 0
    assert {embed(INT8, 1, 3, 3, 4, *[some] * 6, None), embed(FP32, 1, 0, 3, 4, *[some] * 6, None),
            embed(FP32, 1, 65, 3, 4, *[some] * 6, None), embed(FP32, 1, 3, 0, 4, *[some] * 6, None),
            embed(FP32, 1, 3, 3, 6, *[some] * 6, None), embed(FP32, 1, 3, 3, 4, *[None] * 6, None)} == {1}  # fmt: skip
