"""Every torch form of StarSparseAttention against the naive reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from star_edge.ops.sparse_attention import TOLERANCE
from star_edge.ops.sparse_attention.naive import sparse_attention as naive
from star_edge.ops.sparse_attention.packed import edge_mask
from star_edge.ops.sparse_attention.packed import sparse_attention as packed
from star_edge.skeletons import get_skeleton

HEADS, DIM = 2, 8
SKELETON = get_skeleton("nite15")
JOINTS = SKELETON.num_joints
EDGES = {
    "three hops": SKELETON.edges(),
    "full": tuple((i, j) for i in range(JOINTS) for j in range(JOINTS)),
    "self only": tuple((i, i) for i in range(JOINTS)),
}


def make_qkv(frames: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=(frames, JOINTS, 3 * DIM))


@pytest.fixture(params=EDGES.values(), ids=EDGES.keys())
def edges(request):
    return request.param


@pytest.fixture(params=[0, 1, 9], ids=lambda frames: f"{frames} frames")
def frames(request):
    return request.param


@pytest.mark.parametrize("dtype", ["float64", "fp32", "fp16", "bf16"])
def test_packed(dtype, edges, frames, rounded, close, tolerance_of):
    (qkv,) = rounded(dtype, make_qkv(frames))
    out = packed(qkv, edge_mask(edges, JOINTS), HEADS)
    assert out.dtype == qkv.dtype
    close(out, naive(qkv.double().numpy(), edges, HEADS), tolerance_of(TOLERANCE, dtype))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_onnx_body(dtype, edges, frames, rounded, close, run_body):
    (qkv,) = rounded(dtype, make_qkv(frames))
    out = run_body("StarSparseAttention", JOINTS, DIM, HEADS, edges, qkv=qkv)
    close(out, naive(qkv.double().numpy(), edges, HEADS), TOLERANCE[dtype])


def test_pyg(edges, frames, rounded, close):
    pytest.importorskip("torch_scatter", reason="the [pyg] extra is not installed")
    pytest.importorskip("torch_sparse", reason="the [pyg] extra is not installed")
    from star_edge.ops.sparse_attention.pyg import sparse_attention as pyg

    (qkv,) = rounded("fp32", make_qkv(frames))
    close(pyg(qkv, torch.tensor(edges).T, HEADS), naive(qkv.double().numpy(), edges, HEADS), 1e-5)


def test_large_scores_stay_finite(close):
    qkv = make_qkv(2, scale=30.0)  # scores in the thousands: exp() without the row's maximum is infinite
    edges = EDGES["three hops"]
    out = packed(torch.from_numpy(qkv).float(), edge_mask(edges, JOINTS), HEADS)
    close(out, naive(qkv.astype(np.float32), edges, HEADS), 1e-3)


def test_self_attention_only_returns_the_values():
    qkv = torch.from_numpy(make_qkv(3))
    torch.testing.assert_close(packed(qkv, edge_mask(EDGES["self only"], JOINTS).double(), HEADS), qkv[..., 2 * DIM :])


def test_a_joint_does_not_see_others_than_its_neighbours():
    edges, qkv = EDGES["three hops"], torch.from_numpy(make_qkv(1)).float()
    mask = edge_mask(edges, JOINTS)
    before = packed(qkv, mask, HEADS)
    changed = qkv.clone()
    changed[:, 8] += 100.0  # the right hand
    after = packed(changed, mask, HEADS)
    strangers = [i for i in range(JOINTS) if i != 8 and (i, 8) not in edges]
    assert strangers
    torch.testing.assert_close(after[:, strangers], before[:, strangers], rtol=0, atol=0)


@settings(deadline=None, max_examples=20)
@given(frames=st.integers(2, 12), seed=st.integers(0, 99))
def test_a_frame_does_not_depend_on_the_others(frames, seed):
    qkv, mask = torch.from_numpy(make_qkv(frames, seed)).float(), edge_mask(EDGES["three hops"], JOINTS)
    together = packed(qkv, mask, HEADS)
    alone = torch.cat([packed(frame, mask, HEADS) for frame in qkv.split(1)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
