"""ST-GCN: the authors' parameter count and partitions, a block written out in float64, odd clips, half weights, ONNX."""

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
    naive_convolution,
    naive_norm,
    packed,
    settled,
)

from runtime.skeleton import Skeleton  # noqa: E402
from star_edge.models.st_gcn import PartitionedBlock, StGcn, middle  # noqa: E402
from star_edge.skeletons import NITE15, NTU25, OPENPOSE18  # noqa: E402


@pytest.mark.parametrize(
    ("skeleton", "centre"), [(NTU25, 20), (OPENPOSE18, 1), (NITE15, 1)], ids=["ntu25", "openpose18", "nite15"]
)
def test_the_middle_of_a_layout(skeleton: Skeleton, centre: int) -> None:
    assert middle(config(skeleton)) == centre


@pytest.mark.parametrize("frames", [1, 2, 13])
@pytest.mark.parametrize("block", [0, 1, 4])  # from the coordinates, of one width, of growing width over half the frames
def test_a_block_equals_the_equations(block: int, frames: int) -> None:
    model = settled(StGcn(config(NITE15, dim=16)))
    x = torch.randn(2, 3 if block == 0 else 16, frames, 15, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model.blocks[block](x)
    expected = np.stack([naive_block(model.blocks[block], array(one)) for one in x])
    assert expected.shape[2] == (frames + 1) // 2 if block == 4 else frames
    assert_close(found, expected, 1e-5)


def test_the_model_equals_its_blocks_written_out() -> None:
    model = settled(StGcn(msgspec.structs.replace(config(NITE15, frames=7, dim=8), growth=(1, 2), persons=2, time="pad")))
    features, cu_seqlens = packed(model.config, [[3, 5], [7]])
    bodies = np.zeros((2, 2, 7, 15, 3))
    for clip, person, start, rows in ((0, 0, 0, 3), (0, 1, 3, 5), (1, 0, 8, 7)):
        bodies[clip, person, :rows] = array(features)[start : start + rows, :, :3]
    norm = model.input_norm
    gain = (array(norm.weight) / np.sqrt(array(norm.running_var) + norm.eps)).reshape(15, 3)
    bodies = (bodies - array(norm.running_mean).reshape(15, 3)) * gain + array(norm.bias).reshape(15, 3)
    logits = np.zeros((2, 10))
    for clip in range(2):
        pooled = []
        for body in bodies[clip]:
            x = body.transpose(2, 0, 1)
            for block in model.blocks:
                x = naive_block(block, x)
            pooled.append(x.mean((1, 2)))
        logits[clip] = array(model.output.weight) @ np.mean(pooled, 0) + array(model.output.bias)
    with torch.no_grad():
        assert_close(model(features, cu_seqlens), logits, 1e-5)


def test_dropout_ends_each_block_but_the_first() -> None:
    model = StGcn(msgspec.structs.replace(config(NITE15), dropout=0.5))
    assert [block.temporal[-1].p for block in model.blocks] == [0.0] + 9 * [0.5]
    assert model.dropout.p == 0


def naive_block(block: PartitionedBlock, x: np.ndarray) -> np.ndarray:
    """x [C, T, V] -> [D, T', V]."""
    graph = array(block.partitions) * array(block.importance)
    values = naive_convolution(block.spatial.values, x).reshape(len(graph), -1, *x.shape[1:])
    y = np.zeros(values.shape[1:])
    for k, v, w in np.argwhere(graph):
        y[..., w] += values[k, ..., v] * graph[k, v, w]
    first, _, convolution, last, _ = block.temporal
    y = naive_norm(last, naive_convolution(convolution, np.maximum(naive_norm(first, y), 0)))
    return naive_added(block, x, y)
