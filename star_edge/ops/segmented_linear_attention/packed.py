"""Torch form of segmented linear attention: two matrix products per clip."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from star_edge.ops.segmented_linear_attention import EPS
from star_edge.ops.segments import is_one_clip


def segmented_linear_attention(qkv: Tensor, cu_seqlens: Tensor, heads: int, eps: float = EPS) -> Tensor:
    """Linear attention over the rows of each clip: qkv [F, V, 3C] in the order q, k, v -> [F, V, C]. STAR, eq. 5-6.

    The sums U [V * h, e, e] and Z [V * h, e] and what follows them are float32 at least (see naive.py for the equations).
    Z is the last column of U: v carries a column of ones.
    """
    rows, joints, width = qkv.shape
    e = width // 3 // heads
    parts = qkv.to(torch.promote_types(qkv.dtype, torch.float32)).view(rows, joints, 3, heads, e)
    q, k, v = (part.reshape(rows, joints * heads, e) for part in parts.unbind(2))
    q, k = (phi(part * e**-0.25) for part in (q, k))
    v = F.pad(v, (0, 1), value=1.0)
    with torch.autocast(qkv.device.type, enabled=False):  # sums over a clip want float32 in mixed precision, too
        if is_one_clip(cu_seqlens):
            out = _one_clip(q, k, v)
        else:
            lengths = cu_seqlens.diff().tolist()
            clips = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
            out = torch.cat([v[:0], *(_one_clip(*clip) for clip in clips)])  # v[:0]: there may be no clip
    return (out[..., :e] / (out[..., e:] + eps)).reshape(rows, joints, heads * e).to(qkv.dtype)


def phi(u: Tensor) -> Tensor:
    """elu(u) + 1, written without the sum: exp(u) - 1 + 1 loses what a float32 exp(u) has below 1e-7.

    Where every key of a short clip is very negative, that is all there is: 4e-5 of the largest logit on a real one-row clip.
    """
    rising = u.relu()
    return rising + (u - rising).exp()


def _one_clip(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """phi(q) U over one clip; q, k (after phi) are [n, V * h, e], v and the result [n, V * h, e + 1]."""
    q, k, v = (part.transpose(0, 1) for part in (q, k, v))
    return torch.bmm(q, torch.bmm(k.transpose(1, 2), v)).transpose(0, 1)
