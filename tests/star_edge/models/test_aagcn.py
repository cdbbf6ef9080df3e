"""AAGCN: the authors' parameter count, a block written out in float64, odd clips, other skeletons, half weights, ONNX."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from padded_checks import (  # noqa: E402
    array,
    assert_close,
    config,
    naive_added,
    naive_brought,
    naive_convolution,
    naive_norm,
    naive_point,
    naive_sigmoid,
    settled,
)

from runtime.skeleton import Skeleton  # noqa: E402
from star_edge.models.aagcn import Aagcn, AdaptiveGraphConvolution, Attention, AttentiveBlock  # noqa: E402
from star_edge.skeletons import KINECT20, NITE15  # noqa: E402


@pytest.mark.parametrize("frames", [1, 2, 13])
@pytest.mark.parametrize("block", [0, 1, 4])  # from the coordinates, of one width, of growing width over half the frames
@pytest.mark.parametrize("skeleton", [NITE15, KINECT20], ids=lambda skeleton: skeleton.name)  # odd and even numbers of joints
def test_a_block_equals_the_equations(skeleton: Skeleton, block: int, frames: int) -> None:
    chosen = settled(Aagcn(config(skeleton))).blocks[block]
    channels = 3 if block == 0 else 8
    x = torch.randn(2, channels, frames, skeleton.num_joints, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = chosen(x)
    assert_close(found, np.stack([naive_block(chosen, array(one)) for one in x]), 1e-5)


def test_a_new_block_hands_on_its_input() -> None:
    block = Aagcn(config(NITE15)).eval().blocks[1]
    x = torch.rand(2, 8, 5, 15)
    with torch.no_grad():
        assert_close(block.spatial(x), x, 1e-4)
        attended = block.attention(x)
        gate = 1 + torch.sigmoid(block.attention.joints(x.mean(2)))[:, :, None]
    assert_close(attended, x * gate * 1.5 * 1.5, 1e-5)


def naive_block(block: AttentiveBlock, x: np.ndarray) -> np.ndarray:
    """x [C, T, V] -> [D, T', V]."""
    return naive_added(
        block, x, naive_point(block.temporal, naive_attention(block.attention, naive_spatial(block.spatial, x)))
    )


def naive_spatial(layer: AdaptiveGraphConvolution, x: np.ndarray) -> np.ndarray:
    channels, frames, joints = x.shape
    embedded = naive_convolution(layer.embedding, x).reshape(2, 3, -1, frames, joints)
    width = embedded.shape[2]
    values, bias = array(layer.values.weight)[..., 0, 0].reshape(-1, 3, channels), array(layer.bias)
    y = np.zeros((values.shape[0], frames, joints))
    for k in range(3):
        graph = array(layer.graph)[k]
        for v in range(joints):
            for w in range(joints):
                alike = np.sum(embedded[0, k, :, :, v] * embedded[1, k, :, :, w]) / (width * frames)
                graph[v, w] += array(layer.alpha).item() * np.tanh(alike)
        for t in range(frames):
            for w in range(joints):
                gathered = sum(graph[v, w] * x[:, t, v] for v in range(joints))
                y[:, t, w] += values[:, k] @ gathered + bias[k]
    down = naive_brought(layer.down, x)
    return np.maximum(naive_norm(layer.norm, y) + down, 0)


def naive_attention(layer: Attention, y: np.ndarray) -> np.ndarray:
    y = y * (1 + naive_sigmoid(naive_row(layer.joints, y.mean(1))))[None, None, :]
    y = y * (1 + naive_sigmoid(naive_row(layer.frames, y.mean(2))))[None, :, None]
    hidden = np.maximum(array(layer.squeeze.weight) @ y.mean((1, 2)) + array(layer.squeeze.bias), 0)
    gate = naive_sigmoid(array(layer.channels.weight) @ hidden + array(layer.channels.bias))
    return y * (1 + gate)[:, None, None]


def naive_row(layer: torch.nn.Conv1d, x: np.ndarray) -> np.ndarray:
    """x [C, L] -> [L], with as many zeros on both sides as keep the length."""
    weight = array(layer.weight)[0]
    kernel, length = weight.shape[1], x.shape[1]
    beside = np.pad(x, ((0, 0), (kernel // 2, kernel // 2)))
    return np.array([np.sum(weight * beside[:, i : i + kernel]) for i in range(length)]) + array(layer.bias)
