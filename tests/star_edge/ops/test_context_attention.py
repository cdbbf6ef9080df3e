"""Every torch form of StarContextAttention against the naive reference."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.packing import cu_seqlens_of
from star_edge.ops.context_attention import TOLERANCE
from star_edge.ops.context_attention.naive import context_attention as naive
from star_edge.ops.context_attention.packed import context_attention as packed

JOINTS, DIM = 3, 8


def make_inputs(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, JOINTS, DIM)), rng.normal(scale=DIM**-0.5, size=(DIM, DIM))


@pytest.mark.parametrize("dtype", ["float64", "fp32", "fp16", "bf16"])
def test_packed(dtype, cu_seqlens, rounded, close, tolerance_of):
    x, weight = rounded(dtype, *make_inputs(cu_seqlens[-1]))
    out = packed(x, weight, torch.from_numpy(cu_seqlens))
    assert out.dtype == x.dtype
    close(out, naive(x.double().numpy(), weight.double().numpy(), cu_seqlens), tolerance_of(TOLERANCE, dtype))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_onnx_body(dtype, cu_seqlens, rounded, close, run_body):
    x, weight = rounded(dtype, *make_inputs(cu_seqlens[-1]))
    out = run_body("StarContextAttention", JOINTS, DIM, x=x, weight=weight, cu_seqlens=cu_seqlens)
    close(out, naive(x.double().numpy(), weight.double().numpy(), cu_seqlens), TOLERANCE[dtype])


def test_pyg(cu_seqlens, rounded, close):
    pytest.importorskip("torch_scatter", reason="the [pyg] extra is not installed")
    from star_edge.ops.context_attention.pyg import context_attention as pyg

    x, weight = rounded("fp32", *make_inputs(cu_seqlens[-1]))
    close(pyg(x, weight, torch.from_numpy(cu_seqlens)), naive(x.double().numpy(), weight.double().numpy(), cu_seqlens), 1e-5)


def test_a_zero_weight_halves_the_mean():
    x, _ = make_inputs(6)
    out = packed(torch.from_numpy(x), torch.zeros(DIM, DIM, dtype=torch.float64), torch.tensor([0, 2, 6], dtype=torch.int32))
    np.testing.assert_allclose(out[0], x[:2].mean(0) / 2)
    np.testing.assert_allclose(out[1], x[2:].mean(0) / 2)


@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(0, 9), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_a_clip_does_not_depend_on_its_batch(lengths, seed):
    cu_seqlens = cu_seqlens_of(lengths)
    x, weight = (torch.from_numpy(array).float() for array in make_inputs(cu_seqlens[-1], seed))
    together = packed(x, weight, torch.from_numpy(cu_seqlens))
    for clip, (start, stop) in enumerate(pairwise(cu_seqlens)):
        alone = packed(x[start:stop], weight, torch.tensor([0, stop - start], dtype=torch.int32))
        torch.testing.assert_close(together[clip], alone[0], rtol=0, atol=1e-5)
