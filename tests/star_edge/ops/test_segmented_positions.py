"""Every torch form of StarSegmentedPositions against the naive reference."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.packing import cu_seqlens_of
from star_edge.ops.segmented_positions import TOLERANCE
from star_edge.ops.segmented_positions.naive import segmented_positions as naive
from star_edge.ops.segmented_positions.packed import segmented_positions as packed

JOINTS = 3


def make_x(rows: int, channels: int = 7) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, JOINTS, channels))


@pytest.mark.parametrize("dtype", ["float64", "fp32", "fp16", "bf16"])
def test_packed(dtype, cu_seqlens, rounded, close, tolerance_of):
    (x,) = rounded(dtype, make_x(cu_seqlens[-1]))
    out = packed(x, torch.from_numpy(cu_seqlens))
    assert out.dtype == x.dtype
    close(out, naive(x.double().numpy(), cu_seqlens), tolerance_of(TOLERANCE, dtype))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_onnx_body(dtype, cu_seqlens, rounded, close, run_body):
    (x,) = rounded(dtype, make_x(cu_seqlens[-1]))
    out = run_body("StarSegmentedPositions", JOINTS, x.shape[-1], x=x, cu_seqlens=cu_seqlens)
    close(out, naive(x.double().numpy(), cu_seqlens), TOLERANCE[dtype])


def test_pyg(cu_seqlens, rounded, close):
    pytest.importorskip("torch_scatter", reason="the [pyg] extra is not installed")
    from star_edge.ops.segmented_positions.pyg import segmented_positions as pyg

    (x,) = rounded("fp32", make_x(cu_seqlens[-1]))
    close(pyg(x, torch.from_numpy(cu_seqlens)), naive(x.double().numpy(), cu_seqlens), 1e-5)


def test_first_row_of_every_clip_is_the_same_position():
    out = packed(torch.zeros(5, 1, 4), torch.tensor([0, 3, 5], dtype=torch.int32))
    expected = torch.tensor([np.sin(1.0), 1.0, 0.0, 1.0]).float()  # 0^0 = 1 in channel 0, then sin 0 and cos 0
    torch.testing.assert_close(out[0, 0], expected)
    torch.testing.assert_close(out[3], out[0])
    assert not torch.allclose(out[2], out[0])


@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(0, 40), min_size=2, max_size=5))
def test_a_clip_does_not_depend_on_its_batch(lengths):
    cu_seqlens = cu_seqlens_of(lengths)
    x = torch.from_numpy(make_x(cu_seqlens[-1])).float()
    together = packed(x, torch.from_numpy(cu_seqlens))
    for start, stop in pairwise(cu_seqlens):
        alone = packed(x[start:stop], torch.tensor([0, stop - start], dtype=torch.int32))
        torch.testing.assert_close(together[start:stop], alone, rtol=0, atol=1e-6)
