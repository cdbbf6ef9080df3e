"""The paper's form of the segmented positions: the first row of each clip found by a scatter."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_scatter import scatter_min

from star_edge.ops.segments import clip_of_row


def segmented_positions(x: Tensor, cu_seqlens: Tensor) -> Tensor:
    """x [F, V, C] + positions [F, 1, C] (see naive.py for the formula)."""
    rows, _, channels = x.shape
    clip, row = clip_of_row(cu_seqlens, rows), torch.arange(rows, device=x.device)
    first, _ = scatter_min(row, clip, dim_size=len(cu_seqlens) - 1)
    exponent = torch.arange(channels, device=x.device, dtype=x.dtype) / channels
    phase = ((row - first[clip]).to(x.dtype) / 1e4)[:, None] ** exponent
    positions = torch.empty_like(phase)
    positions[:, 0::2], positions[:, 1::2] = phase[:, 0::2].sin(), phase[:, 1::2].cos()
    return x + positions[:, None]
