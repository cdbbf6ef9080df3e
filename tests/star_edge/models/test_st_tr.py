"""ST-TR: blocks written out in float64, what a stream is made of, the streams' sum, and what training leaves out."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from padded_checks import (  # noqa: E402
    array,
    assert_close,
    config,
    naive_brought,
    naive_convolution,
    naive_norm,
    naive_point,
    packed,
    settled,
)
from torch import nn  # noqa: E402

from runtime.errors import InputError  # noqa: E402
from runtime.skeleton import Skeleton  # noqa: E402
from star_edge.models.blocks import Block  # noqa: E402
from star_edge.models.st_tr import DropConnect, MaskedGraphConvolution, SelfAttention, STr, StTr, TTr  # noqa: E402
from star_edge.skeletons import KINECT20, NITE15, NTU25  # noqa: E402


@pytest.mark.parametrize("frames", [1, 2, 13])
@pytest.mark.parametrize("block", [0, 1, 4, 5])  # from coordinates, of one width, the first with attention, another one
@pytest.mark.parametrize("stream", [STr, TTr])
@pytest.mark.parametrize("skeleton", [NITE15, KINECT20], ids=lambda skeleton: skeleton.name)
def test_a_block_equals_the_equations(skeleton: Skeleton, stream: type[STr | TTr], block: int, frames: int) -> None:
    model = settled(stream(config(skeleton))).streams[0]
    chosen = [*model.convolving, *model.attending][block]
    channels = {0: 3, 1: 8, 4: 8 + 3, 5: 16}[block]
    x = torch.randn(2, channels, frames, skeleton.num_joints, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = chosen(x)
    assert_close(found, np.stack([naive_block(chosen, array(one)) for one in x]), 1e-5)


def test_attention_takes_the_place_of_one_convolution_where_blocks_widen() -> None:
    for stream, layer, other in ((STr, "spatial", "temporal"), (TTr, "temporal", "spatial")):
        model = stream(config(NITE15)).streams[0]
        assert (len(model.convolving), len(model.attending)) == (4, 6)
        assert all(isinstance(getattr(block, layer), SelfAttention) for block in model.attending)
        assert not any(isinstance(getattr(block, other), SelfAttention) for block in model.attending)


def test_the_graph_hangs_from_the_authors_centre() -> None:
    graph = TTr(config(NTU25)).streams[0].convolving[0].spatial.graph
    assert graph[1, :, 20].sum() == 0  # the neck has no parent,
    assert graph[1, 20, 1] == graph[1, 1, 0] == 1  # but is one of the spine's,
    assert_close(graph[2, [1, 2, 4, 8], 20], np.full(4, 0.25), 1e-6)  # and has four children


@torch.no_grad()
def test_the_logits_are_the_sum_of_both_streams() -> None:
    shape = config(NITE15)
    both = settled(StTr(shape))
    inputs = packed(shape, [[5], [9, 4]])
    expected = 0
    for i, single in enumerate((STr(shape), TTr(shape))):
        single.streams[0].load_state_dict(both.streams[i].state_dict())
        for name, values in both.input_norm.state_dict().items():  # per person, joint, stream and coordinate
            if values.dim():
                getattr(single.input_norm, name).copy_(values.view(2, 15, 2, 3)[:, :, i].flatten())
        single.output.weight.copy_(both.output.weight[:, 32 * i : 32 * (i + 1)])
        single.output.bias.copy_(both.output.bias / 2)
        expected = expected + single.eval()(*inputs)
    assert_close(both(*inputs), expected, 1e-5)


@torch.no_grad()
def test_coordinates_come_in_as_they_were_once_more() -> None:
    shape = config(NITE15)
    x = torch.randn(2, 2, 13, 15, 3)
    raw = settled(StTr(shape)).normalised(x)[:, -3:]
    assert_close(raw.unflatten(0, (2, 2)).permute(0, 1, 3, 4, 2), x, 0)


def test_training_leaves_out_columns_and_shares_their_weights() -> None:
    torch.manual_seed(0)
    weights = torch.rand(4, 7, 50).softmax(-1)
    layer = DropConnect(0.5)
    assert layer.eval()(weights) is weights
    kept = layer.train()(weights)
    there = kept > 0
    assert torch.equal(there.all(1), there.any(1))
    assert 0.3 < there.float().mean() < 0.7
    assert_close(kept.sum(-1), torch.ones(4, 7), 1e-5)
    assert_close(
        kept[0, 0, there[0, 0]] / kept[0, 0].max(), weights[0, 0, there[0, 0]] / weights[0, 0, there[0, 0]].max(), 1e-5
    )
    assert not DropConnect(1.0)(weights).any()


def test_it_has_to_widen() -> None:
    with pytest.raises(InputError, match="widen"):
        StTr(msgspec.structs.replace(config(NITE15), growth=(1, 1)))


def naive_block(block: Block, x: np.ndarray) -> np.ndarray:
    """x [C, T, V] -> [D, T', V]; there is no ReLU at its end."""
    y = naive_attention(block.spatial, x) if isinstance(block.spatial, SelfAttention) else naive_graph(block.spatial, x)
    if isinstance(block.temporal, SelfAttention):
        y = naive_attention(block.temporal, y)
    else:
        y = np.maximum(naive_point(block.temporal[1:], y), 0)
    return y if block.residual is None else y + naive_rectified(block.residual, x)


def naive_rectified(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    return x if isinstance(layer, nn.Identity) else np.maximum(naive_brought(layer, x), 0)


def naive_graph(layer: MaskedGraphConvolution, x: np.ndarray) -> np.ndarray:
    channels, frames, joints = x.shape
    graph, bias = array(layer.graph) * array(layer.mask), array(layer.bias)
    values = array(layer.gather.values.weight)[..., 0, 0].reshape(3, -1, channels)
    y = np.zeros((values.shape[1], frames, joints))
    for t in range(frames):
        for w in range(joints):
            for k in range(3):
                y[:, t, w] += values[k] @ sum(graph[k, v, w] * x[:, t, v] for v in range(joints)) + bias[k]
    return np.maximum(naive_norm(layer.norm, y), 0)


def naive_attention(layer: SelfAttention, x: np.ndarray) -> np.ndarray:
    channels, frames, joints = x.shape
    normed = np.empty_like(x)
    mean, variance, gain, shift = (
        array(tensor).reshape(channels, joints)
        for tensor in (layer.norm_in.running_mean, layer.norm_in.running_var, layer.norm_in.weight, layer.norm_in.bias)
    )
    for t in range(frames):
        normed[:, t] = (x[:, t] - mean) / np.sqrt(variance + layer.norm_in.eps) * gain + shift
    if frames % layer.stride:
        normed = np.concatenate([normed, np.zeros((channels, 1, joints))], 1)
    keys, _, width = layer.widths
    q, k, v = np.split(naive_convolution(layer.queries_keys_values, normed), [keys, 2 * keys])
    z = np.zeros_like(v)
    for h in range(8):
        own, mine = slice(h * keys // 8, (h + 1) * keys // 8), slice(h * width // 8, (h + 1) * width // 8)
        for t in range(v.shape[1]):
            for u in range(joints):
                others = [(t, j) for j in range(joints)] if layer.attended == "joints" else [(s, u) for s in range(v.shape[1])]
                logits = np.array([q[own, t, u] @ k[own, s, j] for s, j in others]) / np.sqrt(keys // 8)
                weights = np.exp(logits - logits.max())
                for (s, j), weight in zip(others, weights / weights.sum(), strict=True):
                    z[mine, t, u] += weight * v[mine, s, j]
    y = naive_convolution(layer.mix, z)
    if layer.skip is not None:
        y = y + naive_rectified(layer.skip, x)
    return np.maximum(naive_norm(layer.norm, y), 0)
