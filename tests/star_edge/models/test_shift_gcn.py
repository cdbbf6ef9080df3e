"""Shift-GCN: the authors' parameter count, shifts and blocks written out in float64, gradients, odd clips, half weights, ONNX."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed")

from padded_checks import (  # noqa: E402
    array,
    assert_close,
    config,
    naive_added,
    naive_brought,
    naive_convolution,
    naive_norm,
    settled,
    shifted,
)

from star_edge.models.blocks import Block  # noqa: E402
from star_edge.models.shift_gcn import (  # noqa: E402
    ShiftGcn,
    SpatialShiftConvolution,
    TemporalShift,
    TemporalShiftConvolution,
    moved,
)
from star_edge.skeletons import NITE15  # noqa: E402


@pytest.mark.parametrize(("joints", "channels"), [(25, 3), (15, 16), (5, 7)])
def test_channels_move_over_joints_and_back(joints: int, channels: int) -> None:
    there, back = moved(joints, channels, 1), moved(joints, channels, -1)
    for joint in range(joints):
        for channel in range(channels):
            assert there[joint * channels + channel] == (joint + channel) % joints * channels + channel
    assert there[back].tolist() == list(range(joints * channels))


@given(
    frames=st.integers(1, 12),
    stride=st.integers(1, 2),
    shifts=st.lists(st.one_of(st.floats(-15, 15, width=32), st.integers(-15, 15)), min_size=1, max_size=4),
    training=st.booleans(),
)
def test_the_shift_in_time_equals_linear_interpolation(frames: int, stride: int, shifts: list[float], training: bool) -> None:
    layer = TemporalShift(len(shifts), stride, frames)
    with torch.no_grad():
        layer.shift.copy_(torch.tensor(shifts))
        layer.train(training)
        x = torch.randn(2, len(shifts), frames, 3, generator=torch.Generator().manual_seed(frames))
        found = layer(x)
    for one, y in zip(x, found, strict=True):
        np.testing.assert_allclose(y, naive_shift(layer, array(one)), atol=1e-5)


def test_the_gradient_of_a_shift_is_that_of_the_interpolation() -> None:
    layer = TemporalShift(3, 1, 9).double()
    with torch.no_grad():
        layer.shift.copy_(torch.tensor([-1.3, 0.4, 2.6]))
    x = torch.randn(1, 3, 9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer.train()(x).square().sum().backward()
    assert layer.shift.grad is not None
    for channel in range(3):
        sums = []
        for step in (-1e-6, 1e-6):
            moved_layer = TemporalShift(3, 1, 9).double()
            with torch.no_grad():
                moved_layer.shift.copy_(layer.shift)
                moved_layer.shift[channel] += step
            sums.append(np.square(naive_shift(moved_layer, array(x[0]))).sum())
        assert layer.shift.grad[channel].item() == pytest.approx((sums[1] - sums[0]) / 2e-6, rel=1e-5)


def test_loaded_shifts_are_taken_in_eval_mode() -> None:
    layer, other = TemporalShift(2, 1, 20).eval(), TemporalShift(2, 1, 20).eval()
    layer.load_state_dict({"shift": torch.tensor([-9.6, 9.2])})
    other.shift.data.copy_(layer.shift)
    x = torch.randn(1, 2, 20, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(layer(x)[0], naive_shift(layer, array(x[0])), atol=1e-5)
        torch.testing.assert_close(layer(x), other.eval()(x))


def test_a_shift_beyond_all_frames_costs_no_more_than_the_frames() -> None:
    layer = TemporalShift(2, 1, 4)
    with torch.no_grad():
        layer.shift.copy_(torch.tensor([1e30, -5.0]))
        assert layer.eval()(torch.ones(1, 2, 4, 1)).eq(0).all()
        assert layer.taps.shape == (2, 1, 9, 1)
        layer.shift[0] = math.nan  # of a training that failed, which the loss tells
        assert layer.eval()(torch.ones(1, 2, 4, 1)).isnan().any()


@pytest.mark.parametrize("frames", [1, 2, 13])
@pytest.mark.parametrize("block", [0, 1, 4])  # from the coordinates, of one width, of growing width over half the frames
def test_a_block_equals_the_equations(block: int, frames: int) -> None:
    chosen = shifted(settled(ShiftGcn(config(NITE15, dim=16)))).blocks[block]
    x = torch.randn(2, 3 if block == 0 else 16, frames, 15, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = chosen(x)
    expected = np.stack([naive_block(chosen, array(one)) for one in x])
    assert expected.shape[2] == (frames + 1) // 2 if block == 4 else frames
    assert_close(found, expected, 1e-5)


def naive_block(block: Block, x: np.ndarray) -> np.ndarray:
    """x [C, T, V] -> [D, T', V]."""
    return naive_added(block, x, naive_temporal(block.temporal, naive_spatial(block.spatial, x)))


def naive_spatial(layer: SpatialShiftConvolution, x: np.ndarray) -> np.ndarray:
    channels, frames, joints = x.shape
    mask, weight, bias = np.tanh(array(layer.mask)) + 1, array(layer.mix.weight), array(layer.mix.bias)
    gain, mean = (
        array(layer.norm.weight) / np.sqrt(array(layer.norm.running_var) + layer.norm.eps),
        array(layer.norm.running_mean),
    )
    y = np.zeros((len(bias), frames, joints))
    for t in range(frames):
        mixed = np.zeros((joints, len(bias)))
        for joint in range(joints):
            there = [x[channel, t, (joint + channel) % joints] * mask[joint, channel] for channel in range(channels)]
            mixed[joint] = weight @ np.array(there) + bias
        for joint in range(joints):
            for channel in range(len(bias)):
                at = joint * len(bias) + channel
                back = mixed[(joint - channel) % joints, channel]
                y[channel, t, joint] = (back - mean[at]) * gain[at] + array(layer.norm.bias)[at]
    down = naive_brought(layer.down, x)
    return np.maximum(y + down, 0)


def naive_temporal(layer: TemporalShiftConvolution, x: np.ndarray) -> np.ndarray:
    y = naive_convolution(layer.mix, naive_shift(layer.shift_in, naive_norm(layer.norm_in, x)))
    return naive_norm(layer.norm_out, naive_shift(layer.shift_out, np.maximum(y, 0)))


def naive_shift(layer: TemporalShift, x: np.ndarray) -> np.ndarray:
    """x [C, T, V] -> [C, T', V], between the two frames on either side."""
    channels, frames, joints = x.shape
    y = np.zeros((channels, -(-frames // layer.stride), joints))
    for channel, shift in enumerate(array(layer.shift) + (0.5 if layer.stride == 2 else 0)):
        low = math.floor(shift)
        for t in range(y.shape[1]):
            for at, share in ((layer.stride * t + low, 1 - (shift - low)), (layer.stride * t + low + 1, shift - low)):
                if 0 <= at < frames:
                    y[channel, t] += share * x[channel, at]
    return y
