"""Every torch form of StarSegmentedLinearAttention against the naive reference."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.packing import cu_seqlens_of
from star_edge.ops.segmented_linear_attention import TOLERANCE
from star_edge.ops.segmented_linear_attention.naive import segmented_linear_attention as naive
from star_edge.ops.segmented_linear_attention.packed import segmented_linear_attention as packed

JOINTS, HEADS, DIM = 3, 2, 8


def make_qkv(rows: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=(rows, JOINTS, 3 * DIM))


@pytest.mark.parametrize("dtype", ["float64", "fp32", "fp16", "bf16"])
def test_packed(dtype, cu_seqlens, rounded, close, tolerance_of):
    (qkv,) = rounded(dtype, make_qkv(cu_seqlens[-1]))
    out = packed(qkv, torch.from_numpy(cu_seqlens), HEADS)
    assert out.dtype == qkv.dtype
    close(out, naive(qkv.double().numpy(), cu_seqlens, HEADS), tolerance_of(TOLERANCE, dtype))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_onnx_body(dtype, cu_seqlens, rounded, close, run_body):
    if cu_seqlens[-1] == 0:
        pytest.skip("the body takes at least one row; the engine puts one beside a batch without rows")
    (qkv,) = rounded(dtype, make_qkv(cu_seqlens[-1]))
    out = run_body("StarSegmentedLinearAttention", JOINTS, DIM, HEADS, qkv=qkv, cu_seqlens=cu_seqlens)
    close(out, naive(qkv.double().numpy(), cu_seqlens, HEADS), TOLERANCE[dtype])


def test_pyg(cu_seqlens, rounded, close):
    pytest.importorskip("torch_scatter", reason="the [pyg] extra is not installed")
    from star_edge.ops.segmented_linear_attention.pyg import segmented_linear_attention as pyg

    (qkv,) = rounded("fp32", make_qkv(cu_seqlens[-1]))
    close(pyg(qkv, torch.from_numpy(cu_seqlens), HEADS), naive(qkv.double().numpy(), cu_seqlens, HEADS), 1e-5)


def test_constant_keys_average_the_values():
    qkv = make_qkv(6)
    qkv[:, :, DIM : 2 * DIM] = 0.3  # equal keys weigh all rows of a clip alike, whatever the query
    out = packed(torch.from_numpy(qkv), torch.tensor([0, 4, 6], dtype=torch.int32), HEADS).numpy()
    values = qkv[..., 2 * DIM :]
    np.testing.assert_allclose(out[:4], np.broadcast_to(values[:4].mean(0), (4, JOINTS, DIM)), rtol=1e-5)
    np.testing.assert_allclose(out[4:], np.broadcast_to(values[4:].mean(0), (2, JOINTS, DIM)), rtol=1e-5)


@pytest.mark.parametrize("form", ["packed", "pyg", "onnx body"])
def test_one_row_whose_keys_are_very_negative(form, close, run_body):
    qkv = torch.from_numpy(make_qkv(1)).float()
    qkv[..., : 2 * DIM] -= 16  # phi is about 1e-5 for q and k: exp(u) - 1 + 1 has two digits left
    offsets = torch.tensor([0, 1], dtype=torch.int32)
    if form == "pyg":
        pytest.importorskip("torch_scatter", reason="the [pyg] extra is not installed")
        from star_edge.ops.segmented_linear_attention.pyg import segmented_linear_attention as pyg

        out = pyg(qkv, offsets, HEADS)
    elif form == "packed":
        out = packed(qkv, offsets, HEADS)
    else:
        out = run_body("StarSegmentedLinearAttention", JOINTS, DIM, HEADS, qkv=qkv, cu_seqlens=offsets)
    close(out, naive(qkv.double().numpy(), offsets.numpy(), HEADS), TOLERANCE["fp32"])


def test_half_precision_sums_do_not_overflow():
    rows = 3000  # the key sums pass 65504 / 16
    qkv = torch.full((rows, 1, 3 * DIM), 6.0, dtype=torch.float16)
    out = packed(qkv, torch.tensor([0, rows], dtype=torch.int32), HEADS)
    torch.testing.assert_close(out, torch.full_like(out, 6.0), rtol=2e-3, atol=0)


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=2, max_size=5), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 1, 5])
)
def test_a_clip_does_not_depend_on_its_batch(lengths, seed, scale):
    cu_seqlens = cu_seqlens_of(lengths)
    qkv = torch.from_numpy(make_qkv(cu_seqlens[-1], seed, scale)).float()
    together = packed(qkv, torch.from_numpy(cu_seqlens), HEADS)
    for start, stop in pairwise(cu_seqlens):
        alone = packed(qkv[start:stop], torch.tensor([0, stop - start], dtype=torch.int32), HEADS)
        torch.testing.assert_close(together[start:stop], alone, rtol=0, atol=1e-5 * 5 * scale)
