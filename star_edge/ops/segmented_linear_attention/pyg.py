"""The paper's form of segmented linear attention: every k v^T written out and summed per clip by a scatter."""

from __future__ import annotations

from torch import Tensor
from torch_scatter import scatter_sum

from star_edge.ops.segmented_linear_attention import EPS
from star_edge.ops.segmented_linear_attention.packed import phi
from star_edge.ops.segments import clip_of_row


def segmented_linear_attention(qkv: Tensor, cu_seqlens: Tensor, heads: int, eps: float = EPS) -> Tensor:
    """Linear attention over each clip's rows: qkv [F, V, 3C] -> [F, V, C]. STAR, eq. 5-6 (see naive.py).

    The outer products take F * V * C * e elements.
    """
    rows, joints, width = qkv.shape
    e = width // 3 // heads
    q, k, v = qkv.view(rows, joints, 3, heads, e).unbind(2)
    q, k = (phi(part * e**-0.25) for part in (q, k))
    clip, clips = clip_of_row(cu_seqlens, rows), len(cu_seqlens) - 1
    u = scatter_sum(k[..., :, None] * v[..., None, :], clip, dim=0, dim_size=clips)  # [B, V, h, e, e]
    z = scatter_sum(k, clip, dim=0, dim_size=clips)  # [B, V, h, e]
    numerator = (q[..., None, :] @ u[clip]).squeeze(-2)
    denominator = (q * z[clip]).sum(-1, keepdim=True) + eps
    return (numerator / denominator).reshape(rows, joints, width // 3)
