"""DG-STGCN: the authors' parameter count, a block written out in float64, odd clips, other skeletons, half weights, ONNX."""

from __future__ import annotations

from pathlib import Path

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
from star_edge.models.dg_stgcn import Block, DgStGcn, DynamicGroupGcn, DynamicGroupTcn  # noqa: E402
from star_edge.skeletons import COCO17, KINECT20, NITE15, NTU25  # noqa: E402

# alpha and beta have an entry per group in each of the authors' ten blocks, of which their configuration reads the first
UNREAD = 10 * 2 * (8 - 1)


@pytest.mark.parametrize(("classes", "parameters"), [(60, 1_701_172), (120, 1_716_592)])
def test_parameter_count_equals_the_authors_model_but_for_what_nothing_reads(classes: int, parameters: int) -> None:
    model = DgStGcn(config(NTU25, dim=64, classes=classes))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters - UNREAD


@pytest.mark.parametrize("frames", [1, 2, 13])
@pytest.mark.parametrize("block", [0, 1, 4])  # from the coordinates, of one width, of growing width over half the frames
def test_a_block_equals_the_equations(block: int, frames: int) -> None:
    chosen = settled(DgStGcn(config(NITE15, dim=16))).blocks[block]
    channels = 3 if block == 0 else 16
    x = torch.randn(2, channels, frames, 15, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = chosen(x)
    assert_close(found, np.stack([naive_block(chosen, array(one)) for one in x]), 1e-5)


@pytest.mark.parametrize(("frames", "left"), [(1, 1), (2, 1), (13, 4), (64, 16)])
def test_two_blocks_halve_the_frames_and_double_the_channels(frames: int, left: int) -> None:
    with torch.no_grad():
        assert DgStGcn(config(NITE15)).eval().encode(torch.randn(3, 3, frames, 15)).shape == (3, 4 * 8, left, 15)


def test_odd_clips() -> None:
    assert_takes_odd_clips(settled(DgStGcn(config(NTU25))))


@pytest.mark.parametrize("skeleton", [KINECT20, NITE15, COCO17], ids=lambda skeleton: skeleton.name)
@pytest.mark.parametrize("frames", [1, 6])
def test_other_skeletons_and_lengths(skeleton: Skeleton, frames: int) -> None:
    model = settled(DgStGcn(config(skeleton, frames)))
    with torch.no_grad():
        logits = model(*packed(model.config, [[3], [2, 9]]))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_half_weights() -> None:
    assert_works_in_half(settled(DgStGcn(config(NTU25, frames=64))))


def test_graphs_stay_finite_where_half_products_overflow() -> None:
    spatial = settled(DgStGcn(config(NITE15, dim=64))).blocks[1].spatial
    x = torch.randn(1, 64, 5, 15, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        spatial.embedding.weight.mul_(2000)
        assert spatial.half().embedding(x.half().mean(2)).isfinite().all()
        a, b = spatial.embedding(x.half().mean(2)).unflatten(1, (2, 8, -1)).unbind(1)
        assert (a.transpose(-1, -2) @ b).isinf().any()
        assert spatial.graphs(x.half()).isfinite().all()


@pytest.mark.slow
def test_export(tmp_path: Path) -> None:
    assert_exports(settled(DgStGcn(config(NTU25))), tmp_path / "dg_stgcn.onnx")


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
    down = x if isinstance(layer.down, torch.nn.Identity) else naive_point(layer.down, x)
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
