"""Hyperformer: a block written out in float64, the authors' body parts and distances, any tree, and what low rank finds."""

from __future__ import annotations

from collections import deque

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from padded_checks import (  # noqa: E402
    array,
    assert_close,
    assert_exports,
    assert_takes_odd_clips,
    config,
    naive_added,
    naive_convolution,
    naive_norm,
    packed,
    settled,
)

from runtime.errors import InputError  # noqa: E402
from runtime.skeleton import Skeleton, bones_towards_root  # noqa: E402
from star_edge.compression.low_rank import Matrix, candidates  # noqa: E402
from star_edge.models.blocks import Block  # noqa: E402
from star_edge.models.body_parts import body_parts, joint_distances  # noqa: E402
from star_edge.models.ctr_gcn import DilatedTemporalConvolution  # noqa: E402
from star_edge.models.hyperformer import Hyperformer, HypergraphAttention  # noqa: E402
from star_edge.models.registry import build_model, model_config  # noqa: E402
from star_edge.skeletons import COCO17, KINECT20, LAYOUTS, NITE15, NTU25  # noqa: E402

PAIR = Skeleton("pair", ("a", "b"), ((1, 0),), root=0).check()
CHAIN = Skeleton("chain", tuple("abcde"), bones_towards_root([(i, i + 1) for i in range(4)], 2, 5), root=2).check()
STAR = Skeleton("star", tuple("abcde"), ((1, 0), (2, 0), (3, 0), (4, 0)), root=0).check()
HAND = Skeleton(  # a wrist and five fingers
    "hand", tuple(map(str, range(21))), tuple((i, 0 if i % 4 == 1 else i - 1) for i in range(1, 21)), root=0
).check()


@pytest.mark.parametrize("frames", [1, 2, 13])
@pytest.mark.parametrize("block", [0, 1, 4])  # from the coordinates, of one width, over half the frames
@pytest.mark.parametrize("skeleton", [NITE15, NTU25, PAIR], ids=lambda skeleton: skeleton.name)
def test_a_block_equals_the_equations(skeleton: Skeleton, block: int, frames: int) -> None:
    shape = config(skeleton, dim=48)
    chosen = settled(Hyperformer(shape)).blocks[block]
    channels = 3 if block == 0 else 48
    x = torch.randn(2, channels, frames, skeleton.num_joints, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = chosen(x)
    parts, far = body_parts(shape), naive_distances(shape.joints, authors_bones(skeleton))
    assert_close(found, np.stack([naive_block(chosen, array(one), parts, far) for one in x]), 1e-5)


def test_a_new_model_attends_to_each_joint_alone() -> None:
    spatial = Hyperformer(config(NITE15, dim=24)).blocks[1].spatial
    x = torch.randn(2, 24, 5, 15)
    with torch.no_grad():
        _, values = spatial.keys_values(spatial.norm(x.permute(0, 2, 3, 1))).chunk(2, -1)
        assert_close(spatial(x), x + spatial.project(values.permute(0, 3, 1, 2)), 1e-5)


def test_ntu25_and_kinect20_are_divided_as_the_authors_do() -> None:
    ntu = [0, 4, 2, 2, 2, 2, 1, 1, 2, 2, 1, 1, 2, 3, 3, 3, 2, 3, 3, 3, 1, 0, 1, 0, 1]
    assert list(body_parts(config(NTU25))) == ntu
    assert list(body_parts(config(KINECT20))) == 4 * [0] + 8 * [1] + 8 * [2]


def test_the_tips_of_ntu25s_hands_are_as_far_as_the_authors_have_them() -> None:
    found = joint_distances(config(NTU25))
    assert (found[21, 7], found[21, 22], found[23, 11]) == (1, 2, 1)
    assert found.max() == 11


@pytest.mark.parametrize(
    ("skeleton", "expected"),
    [
        (NITE15, (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4)),  # trunk and head, arms, legs
        (COCO17, (0, 1, 2, 1, 2, 0, 0, 3, 4, 3, 4, 5, 6, 5, 6, 5, 6)),  # eyes and ears of either side too
        (HAND, (0, *(finger for finger in range(1, 6) for _ in range(4)))),
        (PAIR, (0, 0)),
        (CHAIN, (0, 0, 0, 0, 0)),
        (STAR, (0, 0, 0, 0, 0)),
    ],
    ids=lambda value: value.name if isinstance(value, Skeleton) else "",
)
def test_limbs_of_other_trees(skeleton: Skeleton, expected: tuple[int, ...]) -> None:
    assert body_parts(config(skeleton)) == expected


@pytest.mark.parametrize("skeleton", [*LAYOUTS.values(), PAIR, CHAIN, STAR, HAND], ids=lambda skeleton: skeleton.name)
def test_every_skeleton_has_parts_without_gaps_alike_on_both_sides(skeleton: Skeleton) -> None:
    parts = body_parts(config(skeleton))
    assert len(parts) == skeleton.num_joints
    assert set(parts) == set(range(max(parts) + 1))
    left = [(parts[a], parts[b]) for a, b in skeleton.pairs]
    assert len(set(left)) == len({a for a, _ in left}) == len({b for _, b in left})


@pytest.mark.parametrize("skeleton", [PAIR, HAND], ids=lambda skeleton: skeleton.name)
def test_custom_skeletons(skeleton: Skeleton) -> None:
    assert_takes_odd_clips(settled(Hyperformer(config(skeleton, dim=24))))


@pytest.mark.slow
def test_export_of_a_pair_in_half() -> None:
    assert_exports(settled(Hyperformer(config(PAIR, dim=24))), "fp16", 2e-2)


def test_queries_keys_values_and_hyperedges_can_be_of_low_rank() -> None:
    shape = model_config("hyperformer", NTU25, channels=4, classes=60)
    found = candidates(build_model("hyperformer", shape))
    assert found["blocks.1.spatial.queries"] == found["blocks.1.spatial.hyperedges"] == Matrix(216, 216)
    assert found["blocks.1.spatial.keys_values"] == Matrix(432, 216)
    assert found["blocks.1.spatial.project"] == Matrix(36, 36, 6)
    small = msgspec.structs.replace(
        config(NITE15, dim=24), ranks={"blocks.1.spatial.keys_values": 4, "blocks.1.spatial.project": 1}
    )
    model = build_model("hyperformer", small).eval()
    with torch.no_grad():
        assert model(*packed(small, [[3], [2, 9]])).isfinite().all()


@pytest.mark.parametrize(("field", "value"), [("dim", 64), ("growth", (1, 2))])
def test_widths_that_it_cannot_have(field: str, value: object) -> None:
    with pytest.raises(InputError, match="Hyperformer"):
        Hyperformer(msgspec.structs.replace(config(NITE15, dim=24), **{field: value}))


def authors_bones(skeleton: Skeleton) -> list[tuple[int, int]]:
    """Those of the authors' ntu_rgb_d graph have either tip of a hand at the hand."""
    if skeleton is not NTU25:
        return list(skeleton.bones)
    return [*(bone for bone in skeleton.bones if bone[0] not in (21, 23)), (21, 7), (23, 11)]


def naive_distances(joints: int, bones: list[tuple[int, int]]) -> list[list[int]]:
    """By walking from each joint."""
    rows = []
    for start in range(joints):
        far, queue = {start: 0}, deque([start])
        while queue:
            joint = queue.popleft()
            for a, b in bones:
                for here, there in ((a, b), (b, a)):
                    if here == joint and there not in far:
                        far[there] = far[joint] + 1
                        queue.append(there)
        rows.append([far[joint] for joint in range(joints)])
    return rows


def naive_block(block: Block, x: np.ndarray, parts: tuple[int, ...], far: list[list[int]]) -> np.ndarray:
    """x [C, T, V] -> [D, T', V]."""
    return naive_added(block, x, naive_temporal(block.temporal, naive_attention(block.spatial, x, parts, far)))


def naive_attention(layer: HypergraphAttention, x: np.ndarray, parts: tuple[int, ...], far: list[list[int]]) -> np.ndarray:
    channels, frames, joints = x.shape
    queries, (keys, values) = array(layer.queries.weight), np.split(array(layer.keys_values.weight), 2)
    hyperedges, relative = array(layer.hyperedges.weight), array(layer.relative)
    gain, bias = array(layer.norm.weight), array(layer.norm.bias)
    width = len(queries)
    y = np.zeros((width, frames, joints))
    for t in range(frames):
        normed = []
        for j in range(joints):
            centred = x[:, t, j] - x[:, t, j].mean()
            normed.append(centred / np.sqrt((centred**2).mean() + layer.norm.eps) * gain + bias)
        means = [np.mean([x[:, t, i] for i in range(joints) if parts[i] == parts[j]], 0) for j in range(joints)]
        for h in range(width // 24):
            head = slice(24 * h, 24 * (h + 1))
            w, outer = array(layer.hyperedge_bias)[h], array(layer.outer)[h]
            for i in range(joints):
                q = queries[head] @ normed[i]
                logits = []
                for j in range(joints):
                    k, e, r = keys[head] @ normed[j], hyperedges[head] @ means[j], relative[far[i][j], head]
                    logits.append((q @ k + q @ r + q @ e + w @ e) / 24**0.5)
                softmax = np.exp(np.array(logits) - max(logits))
                softmax /= softmax.sum()
                for j in range(joints):
                    y[head, t, i] += (array(layer.alpha).item() * softmax[j] + outer[i, j]) * (values[head] @ normed[j])
    mixed = np.zeros_like(y)
    weight, sixth = array(layer.project.weight)[:, :, 0, 0], width // 6
    for group in range(6):
        own = slice(group * sixth, (group + 1) * sixth)
        mixed[own] = np.tensordot(weight[own], y[own], 1) + array(layer.project.bias)[own, None, None]
    if channels == width:
        return x + mixed
    return np.tensordot(array(layer.skip.weight)[:, :, 0, 0], x, 1) + mixed


def naive_temporal(layer: DilatedTemporalConvolution, x: np.ndarray) -> np.ndarray:
    """As CTR-GCN's."""
    reduced = np.maximum(naive_norm(layer.reduce[1], naive_convolution(layer.reduce[0], x)), 0)
    narrow, stride = len(x) // 4, layer.point.stride[0]
    assert [(branch.kernel_size[0], branch.dilation[0]) for branch in layer.dilated] == [(5, 1), (5, 2)]
    branches = [naive_convolution(layer.dilated[i], reduced[i * narrow : (i + 1) * narrow]) for i in range(2)]
    last = reduced[2 * narrow :]
    branches.append(np.stack([last[:, max(t - 1, 0) : t + 2].max(1) for t in range(0, x.shape[1], stride)], 1))
    return naive_norm(layer.norm, np.concatenate([*branches, naive_convolution(layer.point, x)]))
