"""Torch form of the segmented sinusoidal positions."""

from __future__ import annotations

import torch
from torch import Tensor

from star_edge.ops.segments import clip_of_row, is_one_clip


def segmented_positions(x: Tensor, cu_seqlens: Tensor) -> Tensor:
    """x [F, V, C] + positions [F, 1, C]; computed in float32 whatever the dtype of x (see naive.py for the formula)."""
    rows, _, channels = x.shape
    index = torch.arange(rows, device=x.device)
    if not is_one_clip(cu_seqlens):
        index = index - cu_seqlens[:-1].long()[clip_of_row(cu_seqlens, rows)]
    dtype = torch.promote_types(x.dtype, torch.float32)
    exponent = torch.arange(channels, device=x.device, dtype=dtype) / channels
    phase = (index.to(dtype) / 1e4)[:, None] ** exponent
    even = torch.arange(channels, device=x.device) % 2 == 0
    positions = torch.where(even, phase.sin(), phase.cos())
    return (x + positions[:, None]).to(x.dtype)
