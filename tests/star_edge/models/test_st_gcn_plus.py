"""ST-GCN++: the authors' parameter count, a block written out in float64, odd clips, other depths, half weights, ONNX."""

from __future__ import annotations

import msgspec
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

from star_edge.models.blocks import Block, MultiScaleTemporalConvolution  # noqa: E402
from star_edge.models.st_gcn_plus import LearnedGraphConvolution, StGcnPlus  # noqa: E402
from star_edge.skeletons import NITE15  # noqa: E402


def test_graphs_start_as_each_joint_itself_its_parent_and_its_children() -> None:
    graph = array(StGcnPlus(config(NITE15)).blocks[0].spatial.graph)
    head, neck, torso, shoulder = 0, 1, 2, 3  # the neck hangs from the torso, and three joints hang from the neck
    assert graph[0, neck, neck] == graph[1, neck, head] == graph[1, torso, neck] == 1
    np.testing.assert_allclose(graph[2, [head, shoulder, torso], neck], [1 / 3, 1 / 3, 0], rtol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 13])
@pytest.mark.parametrize("block", [0, 1, 4])  # from the coordinates, of one width, of growing width over half the frames
def test_a_block_equals_the_equations(block: int, frames: int) -> None:
    model = settled(StGcnPlus(config(NITE15, dim=16)))
    x = torch.randn(2, 3 if block == 0 else 16, frames, 15, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model.blocks[block](x)
    expected = np.stack([naive_block(model.blocks[block], array(one)) for one in x])
    assert expected.shape[2] == (frames + 1) // 2 if block == 4 else frames
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize(
    ("growth", "shape"), [((), (32, 4)), ((1, 1, 1, 1, 1, 2), (16, 7)), ((1,), (8, 13)), ((2, 2, 6), (48, 7))]
)
def test_depths(growth: tuple[int, ...], shape: tuple[int, int]) -> None:
    model = StGcnPlus(msgspec.structs.replace(config(NITE15), growth=growth)).eval()
    assert len(model.blocks) == (len(growth) or 10)
    with torch.no_grad():
        assert model.encode(torch.randn(3, 3, 13, 15)).shape == (3, *shape, 15)


def naive_block(block: Block, x: np.ndarray) -> np.ndarray:
    """x [C, T, V] -> [D, T', V]."""
    return naive_added(block, x, naive_temporal(block.temporal, naive_spatial(block.spatial, x)))


def naive_spatial(layer: LearnedGraphConvolution, x: np.ndarray) -> np.ndarray:
    graph = array(layer.graph)
    values = naive_convolution(layer.gather.values, x).reshape(len(graph), -1, *x.shape[1:])
    y = np.zeros(values.shape[1:])
    for k, v, w in np.argwhere(graph):
        y[..., w] += values[k, ..., v] * graph[k, v, w]
    down = naive_brought(layer.down, x)
    return np.maximum(naive_norm(layer.norm, y) + down, 0)


def naive_temporal(layer: MultiScaleTemporalConvolution, x: np.ndarray) -> np.ndarray:
    reduced = np.maximum(naive_point(layer.reduce, x), 0)
    narrow, stride = x.shape[0] // 6, layer.point.stride[0]
    first = x.shape[0] - 5 * narrow
    branches = []
    for i, convolution in enumerate(layer.dilated):
        assert convolution.dilation[0] == i + 1
        start = 0 if i == 0 else first + (i - 1) * narrow
        branches.append(naive_convolution(convolution, reduced[start : first + i * narrow]))
    last = reduced[first + 3 * narrow :]
    branches.append(np.stack([last[:, max(t - 1, 0) : t + 2].max(1) for t in range(0, x.shape[1], stride)], 1))
    y = np.concatenate([*branches, naive_convolution(layer.point, x)])
    return naive_point(layer.mix, np.maximum(naive_norm(layer.norm, y), 0))
