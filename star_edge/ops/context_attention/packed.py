"""Torch form of context attention."""

from __future__ import annotations

from torch import Tensor

from star_edge.ops.segments import clip_of_row, is_one_clip, segment_mean


def context_attention(x: Tensor, weight: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Gated mean over each clip's rows: x [F, V, C], weight [C, C] -> [B, V, C]. STAR, eq. 7 (see naive.py).

    Means are float32 at least; the result has the dtype of x.
    """
    context = (segment_mean(x, cu_seqlens).to(x.dtype) @ weight).tanh()  # [B, V, C]
    if not is_one_clip(cu_seqlens):
        context = context[clip_of_row(cu_seqlens, len(x))]  # [F, V, C]
    gate = (x * context).sum(-1, keepdim=True).sigmoid()
    return segment_mean(gate * x, cu_seqlens).to(x.dtype)
