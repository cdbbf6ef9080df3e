"""Sums over the clips of a packed batch, shared by the torch forms of the ops."""

from __future__ import annotations

import torch
from torch import Tensor


def is_one_clip(cu_seqlens: Tensor) -> bool:
    """True when the batch holds one clip: then no op needs segment indices and the model can be traced and exported."""
    return cu_seqlens.shape[0] == 2


def clip_of_row(cu_seqlens: Tensor, rows: int) -> Tensor:
    """int64 [F]: the clip each row belongs to."""
    lengths = cu_seqlens.diff().long()
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths, output_size=rows)


def segment_mean(x: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Mean over each clip's rows, in float32 at least: [F, ...] -> [B, ...]; zero for an empty clip."""
    x = x if x.dtype == torch.float64 else x.float()
    if is_one_clip(cu_seqlens):
        return x.sum(0, keepdim=True) / max(x.shape[0], 1)
    sums = x.new_zeros(len(cu_seqlens) - 1, *x.shape[1:]).index_add(0, clip_of_row(cu_seqlens, len(x)), x)
    counts = cu_seqlens.diff().clamp(min=1).to(x.dtype)
    return sums / counts.view(-1, *[1] * (x.ndim - 1))
