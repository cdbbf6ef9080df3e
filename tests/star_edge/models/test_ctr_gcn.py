"""CTR-GCN: the authors' parameter count, a block written out in float64, odd clips, other skeletons, half weights, ONNX."""

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
    settled,
)

from star_edge.models.blocks import Block  # noqa: E402
from star_edge.models.ctr_gcn import CtrGcn, DilatedTemporalConvolution, TopologyRefinement  # noqa: E402
from star_edge.skeletons import NITE15, NTU25  # noqa: E402


def test_at_first_a_joint_takes_the_sum_of_its_children_and_a_share_of_its_parent() -> None:
    itself, children, parent = array(CtrGcn(config(NTU25)).blocks[0].spatial.graph)
    np.testing.assert_array_equal(itself, np.eye(25))
    for child, above in NTU25.bones:
        assert children[above, child] == 1
        siblings = sum(other == above for _, other in NTU25.bones)
        assert parent[child, above] == pytest.approx(1 / siblings)
    assert np.count_nonzero(children) == np.count_nonzero(parent) == len(NTU25.bones)


@pytest.mark.parametrize("frames", [1, 2, 13])
@pytest.mark.parametrize("block", [0, 1, 4])  # from the coordinates, of one width, of growing width over half the frames
def test_a_block_equals_the_equations(block: int, frames: int) -> None:
    chosen = settled(CtrGcn(config(NITE15, dim=16))).blocks[block]
    channels = 3 if block == 0 else 16
    x = torch.randn(2, channels, frames, 15, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = chosen(x)
    assert_close(found, np.stack([naive_block(chosen, array(one)) for one in x]), 1e-5)


def naive_block(block: Block, x: np.ndarray) -> np.ndarray:
    """x [C, T, V] -> [D, T', V]."""
    return naive_added(block, x, naive_temporal(block.temporal, naive_spatial(block.spatial, x)))


def naive_spatial(layer: TopologyRefinement, x: np.ndarray) -> np.ndarray:
    _, frames, joints = x.shape
    graph, alpha = array(layer.graph), array(layer.alpha).item()
    partitions, channels = len(graph), layer.norm.num_features
    values = naive_convolution(layer.values, x).reshape(partitions, channels, frames, joints)
    # an embedding of every frame, then their mean: the order of the paper
    embedded = np.einsum("ec,ctv->etv", array(layer.embedding.weight)[..., 0], x) + array(layer.embedding.bias)[:, None, None]
    a, b = embedded.mean(1).reshape(2, partitions, -1, joints)
    refinement = array(layer.refinement.weight)[..., 0, 0].reshape(partitions, channels, -1)
    bias = array(layer.refinement.bias).reshape(partitions, channels)
    y = np.zeros((channels, frames, joints))
    for k in range(partitions):
        for u in range(joints):
            for v in range(joints):
                own = refinement[k] @ np.tanh(a[k, :, u] - b[k, :, v]) + bias[k]
                y[:, :, u] += (graph[k, u, v] + alpha * own)[:, None] * values[k, :, :, v]
    down = naive_brought(layer.down, x)
    return np.maximum(naive_norm(layer.norm, y) + down, 0)


def naive_temporal(layer: DilatedTemporalConvolution, x: np.ndarray) -> np.ndarray:
    narrow, stride = x.shape[0] // 4, layer.point.stride[0]
    reduced = np.maximum(naive_norm(layer.reduce[1], naive_convolution(layer.reduce[0], x)), 0)
    assert [convolution.dilation[0] for convolution in layer.dilated] == [1, 2]
    branches = [naive_convolution(layer.dilated[i], reduced[i * narrow : (i + 1) * narrow]) for i in range(2)]
    last = reduced[2 * narrow :]
    branches.append(np.stack([last[:, max(t - 1, 0) : t + 2].max(1) for t in range(0, x.shape[1], stride)], 1))
    return naive_norm(layer.norm, np.concatenate([*branches, naive_convolution(layer.point, x)]))
