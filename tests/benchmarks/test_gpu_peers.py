"""What benchmarks/gpu.py sets beside the CUDA kernels: both forms equal Star in float64, and ST-GCN a model of plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gpu_peers import BONES, JOINTS, MIDDLE, Peer, StGcn, edges_within

from star_edge.models.registry import star_config
from star_edge.models.star import Star
from star_edge.skeletons import NTU25


@pytest.mark.parametrize("name", ["star-64", "star-128"])
@pytest.mark.parametrize("lengths", [[9], [1, 7, 4]], ids=str)
@pytest.mark.parametrize("form", ["scatter", "dense"])
def test_peers_compute_the_model(form: str, lengths: list[int], name: str) -> None:
    torch.manual_seed(0)
    config = star_config(name, NTU25, 9, 5)
    model = Star(config).double().eval()
    features = torch.randn(sum(lengths), 25, 9, dtype=torch.float64)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    peer = Peer(dict(model.state_dict()), config.edges, lengths, form, config.layers)
    assert peer.wide == torch.float64
    with torch.no_grad():
        expected = model(features, cu_seqlens)
        torch.testing.assert_close(peer(features), expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def test_the_skeleton_is_ntus() -> None:
    assert set(edges_within(3)) == set(NTU25.edges())
    assert len(edges_within(3)) == 187
    assert len(BONES) == JOINTS - 1


def test_stgcn_has_the_papers_parameters() -> None:
    assert sum(parameter.numel() for parameter in StGcn(60).parameters()) == 3_098_832


def with_statistics(model: StGcn) -> StGcn:
    """A model whose every number matters: normalisations, biases and importances of edges, too."""
    generator = torch.Generator().manual_seed(1)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if "partitions" not in name and value.is_floating_point() and value.dim() < 4:
            value.data.uniform_(0.5, 1.5, generator=generator)
    return model.double().eval()


def test_stgcn_equals_plain_loops() -> None:
    torch.manual_seed(0)
    model = with_statistics(StGcn(5))
    clip = np.random.default_rng(0).normal(size=(3, 7, JOINTS, 2))
    with torch.no_grad():
        found = model(torch.from_numpy(clip)[None])[0].numpy()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    expected = np.mean([pooled(state, clip[..., person]) for person in range(2)], 0)
    expected = state["output.weight"][:, :, 0, 0] @ expected + state["output.bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def pooled(state: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """One person's features [3, T, V] -> [256]."""
    flat = x.transpose(2, 0, 1).reshape(3 * JOINTS, -1)  # joint after joint, its channels together
    x = normalised(state, "input_norm", flat).reshape(JOINTS, 3, -1).transpose(1, 2, 0)
    for block, (_, _, stride) in enumerate(StGcn.BLOCKS):
        x = block_of(state, f"blocks.{block}", x, stride)
    return x.mean((1, 2))


def normalised(state: dict[str, np.ndarray], path: str, x: np.ndarray) -> np.ndarray:
    shape = (-1, *[1] * (x.ndim - 1))
    mean, var, weight, bias = (
        state[f"{path}.{name}"].reshape(shape) for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def block_of(state: dict[str, np.ndarray], path: str, x: np.ndarray, stride: int) -> np.ndarray:
    """Neighbours by three groups, then nine frames with zeros beyond the clip: [C, T, V] -> [D, T / stride, V]."""
    matrices = state[f"{path}.spatial.weight"][:, :, 0, 0]
    outputs, frames = len(matrices) // 3, x.shape[1]
    shares = neighbour_groups() * state[f"{path}.importance"]
    parts = [matrices[group * outputs : (group + 1) * outputs] for group in range(3)]
    biases = state[f"{path}.spatial.bias"].reshape(3, outputs)
    y = np.zeros((outputs, frames, JOINTS))
    for group, source, target in zip(*shares.nonzero(), strict=True):
        y[:, :, target] += shares[group, source, target] * (parts[group] @ x[:, :, source] + biases[group][:, None])
    y = np.maximum(normalised(state, f"{path}.temporal.0", y), 0)
    kernel, bias = state[f"{path}.temporal.2.weight"][..., 0], state[f"{path}.temporal.2.bias"]
    z = np.zeros((outputs, -(-frames // stride), JOINTS))
    for frame in range(z.shape[1]):
        z[:, frame] = bias[:, None]
        for step in range(9):
            if 0 <= (source := frame * stride + step - 4) < frames:
                z[:, frame] += kernel[:, :, step] @ y[:, source]
    z = normalised(state, f"{path}.temporal.3", z)
    if f"{path}.residual.0.weight" in state:
        projected = state[f"{path}.residual.0.weight"][:, :, 0, 0] @ x[:, ::stride].reshape(len(x), -1)
        projected = projected.reshape(z.shape) + state[f"{path}.residual.0.bias"][:, None, None]
        z += normalised(state, f"{path}.residual.1", projected)
    elif path != "blocks.0":
        z += x
    return np.maximum(z, 0)


def neighbour_groups() -> np.ndarray:
    """[3, V, V] by walking the bones: of each joint (last axis) its neighbours as far from the middle, nearer, farther."""
    neighbours = {joint: {joint} for joint in range(JOINTS)}
    for one, other in BONES:
        neighbours[one].add(other)
        neighbours[other].add(one)
    distance, ring = {MIDDLE: 0}, {MIDDLE}
    while ring:
        ring = {near for joint in ring for near in neighbours[joint] if near not in distance}
        distance |= dict.fromkeys(ring, max(distance.values()) + 1)
    groups = np.zeros((3, JOINTS, JOINTS), np.float32)  # as the model has them
    for joint, around in neighbours.items():
        for near in around:
            group = 0 if distance[near] == distance[joint] else 1 if distance[near] < distance[joint] else 2
            groups[group, near, joint] = 1 / len(around)
    return groups
