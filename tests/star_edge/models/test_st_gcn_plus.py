"""ST-GCN++: the authors' parameter count, a block written out in float64, odd clips, other depths, half weights, ONNX."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from padded_checks import (  # noqa: E402
    array,
    assert_close,
    assert_exports,
    assert_takes_odd_clips,
    assert_works_in_half,
    config,
    naive_convolution,
    naive_norm,
    packed,
    settled,
)

from runtime.skeleton import Skeleton  # noqa: E402
from star_edge.models.st_gcn_plus import Block, LearnedGraphConvolution, MultiScaleTemporalConvolution, StGcnPlus  # noqa: E402
from star_edge.skeletons import COCO17, KINECT20, NITE15, NTU25  # noqa: E402


@pytest.mark.parametrize(("classes", "parameters"), [(60, 1_403_144), (120, 1_418_564)])
def test_parameter_count_equals_the_authors_model(classes: int, parameters: int) -> None:
    model = StGcnPlus(config(NTU25, dim=64, classes=classes))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


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


def test_odd_clips() -> None:
    assert_takes_odd_clips(settled(StGcnPlus(config(NTU25))))


@pytest.mark.parametrize("skeleton", [KINECT20, NITE15, COCO17], ids=lambda skeleton: skeleton.name)
@pytest.mark.parametrize("frames", [1, 6])
def test_other_skeletons_and_lengths(skeleton: Skeleton, frames: int) -> None:
    model = settled(StGcnPlus(config(skeleton, frames)))
    with torch.no_grad():
        logits = model(*packed(model.config, [[3], [2, 9]]))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_half_weights() -> None:
    assert_works_in_half(settled(StGcnPlus(config(NTU25, frames=64))))


@pytest.mark.slow
def test_export(tmp_path: Path) -> None:
    assert_exports(settled(StGcnPlus(config(NTU25))), tmp_path / "st_gcn_plus.onnx")


def naive_block(block: Block, x: np.ndarray) -> np.ndarray:
    """x [C, T, V] -> [D, T', V]."""
    y = naive_temporal(block.temporal, naive_spatial(block.spatial, x))
    if isinstance(block.residual, torch.nn.Identity):
        y = y + x
    elif block.residual is not None:
        y = y + naive_point(block.residual, x)
    return np.maximum(y, 0)


def naive_point(layer: torch.nn.Sequential, x: np.ndarray) -> np.ndarray:
    """Convolution and BatchNorm."""
    return naive_norm(layer[1], naive_convolution(layer[0], x))


def naive_spatial(layer: LearnedGraphConvolution, x: np.ndarray) -> np.ndarray:
    graph = array(layer.graph)
    values = naive_convolution(layer.gather.values, x).reshape(len(graph), -1, *x.shape[1:])
    y = np.zeros(values.shape[1:])
    for k, v, w in np.argwhere(graph):
        y[..., w] += values[k, ..., v] * graph[k, v, w]
    down = x if isinstance(layer.down, torch.nn.Identity) else naive_point(layer.down, x)
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
