"""DG-STGCN: the authors' parameter count, a block written out in float64, odd clips, other skeletons, half weights, ONNX."""

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
    settled,
)

from star_edge.models.blocks import Block  # noqa: E402
from star_edge.models.dg_stgcn import DgStGcn, DynamicGroupGcn, DynamicGroupTcn  # noqa: E402
from star_edge.skeletons import NITE15  # noqa: E402


@pytest.mark.parametrize("frames", [1, 2, 13])
@pytest.mark.parametrize("block", [0, 1, 4])  # from the coordinates, of one width, of growing width over half the frames
def test_a_block_equals_the_equations(block: int, frames: int) -> None:
    chosen = settled(DgStGcn(config(NITE15, dim=16))).blocks[block]
    channels = 3 if block == 0 else 16
    x = torch.randn(2, channels, frames, 15, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = chosen(x)
    assert_close(found, np.stack([naive_block(chosen, array(one)) for one in x]), 1e-5)


def test_graphs_stay_finite_where_half_products_overflow() -> None:
    spatial = settled(DgStGcn(config(NITE15, dim=64))).blocks[1].spatial
    x = torch.randn(1, 64, 5, 15, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        spatial.embedding.weight.mul_(2000)
        assert spatial.half().embedding(x.half().mean(2)).isfinite().all()
        a, b = spatial.embedding(x.half().mean(2)).unflatten(1, (2, 8, -1)).unbind(1)
        assert (a.transpose(-1, -2) @ b).isinf().any()
        assert spatial.graphs(x.half()).isfinite().all()


def naive_block(block: Block, x: np.ndarray) -> np.ndarray:
    """x [C, T, V] -> [D, T', V]."""
    return naive_added(block, x, naive_temporal(block.temporal, naive_spatial(block.spatial, x)))


def naive_spatial(layer: DynamicGroupGcn, x: np.ndarray) -> np.ndarray:
    _, frames, joints = x.shape
    groups = layer.graph.shape[0]
    weight, bias = array(layer.embedding.weight)[..., 0], array(layer.embedding.bias)
    a, b = (weight @ x.mean(1) + bias[:, None]).reshape(2, groups, -1, joints)
    alpha, beta = array(layer.alpha).item(), array(layer.beta).item()
    values = np.maximum(naive_point(layer.values, x), 0).reshape(groups, -1, frames, joints)
    y = np.zeros_like(values)
    for k in range(groups):
        for w in range(joints):
            likeness = np.exp([a[k, :, v] @ b[k, :, w] for v in range(joints)])
            for v in range(joints):
                shared = array(layer.graph)[k, v, w] + beta * likeness[v] / likeness.sum()
                for c in range(values.shape[1]):
                    own = alpha * np.tanh(a[k, c, v] - b[k, c, w])
                    y[k, c, :, w] += (shared + own) * values[k, c, :, v]
    down = naive_brought(layer.down, x)
    return np.maximum(naive_point(layer.mix, y.reshape(-1, frames, joints)) + down, 0)


def naive_temporal(layer: DynamicGroupTcn, x: np.ndarray) -> np.ndarray:
    x = np.concatenate([x, x.mean(2, keepdims=True)], 2)
    reduced = np.maximum(naive_point(layer.reduce, x), 0)
    narrow = x.shape[0] // 6
    first = x.shape[0] - 5 * narrow
    starts = [0, first, first + narrow, first + 2 * narrow, first + 3 * narrow, first + 4 * narrow]
    branches = [
        naive_convolution(convolution, reduced[start:end])
        for convolution, start, end in zip(layer.dilated, starts[:-2], starts[1:-1], strict=True)
    ]
    assert [convolution.dilation[0] for convolution in layer.dilated] == [1, 2, 3, 4]
    last, stride = reduced[starts[-2] :], layer.point.stride[0]
    branches.append(np.stack([last[:, max(t - 1, 0) : t + 2].max(1) for t in range(0, x.shape[1], stride)], 1))
    y = np.concatenate([*branches, naive_convolution(layer.point, x)])
    fused = y[..., :-1] + y[..., -1:] * array(layer.share)
    return naive_point(layer.mix, np.maximum(naive_norm(layer.norm, fused), 0))
