"""The paper's form of context attention: means over clips by scatters."""

from __future__ import annotations

from torch import Tensor
from torch_scatter import scatter_mean

from star_edge.ops.segments import clip_of_row


def context_attention(x: Tensor, weight: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Gated mean over each clip's rows: x [F, V, C], weight [C, C] -> [B, V, C]. STAR, eq. 7 (see naive.py)."""
    clip, clips = clip_of_row(cu_seqlens, len(x)), len(cu_seqlens) - 1
    context = (scatter_mean(x, clip, dim=0, dim_size=clips) @ weight).tanh()
    gate = (x * context[clip]).sum(-1, keepdim=True).sigmoid()
    return scatter_mean(gate * x, clip, dim=0, dim_size=clips)
