"""The paper's form of sparse attention: gather along the edges, scatter softmax, sparse-dense product."""

from __future__ import annotations

from torch import Tensor
from torch_scatter import scatter_softmax
from torch_sparse import spmm


def sparse_attention(qkv: Tensor, edges: Tensor, heads: int) -> Tensor:
    """Softmax attention along edges: qkv [F, V, 3C], edges int64 [2, E] -> [F, V, C]. STAR, eq. 2-4 (see naive.py).

    The softmax subtracts each row's maximum, where the authors' code subtracts the tensor's.
    """
    frames, joints, width = qkv.shape
    q, k, v = qkv.view(frames, joints, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)  # [F, h, V, e] each
    rows, cols = edges
    scores = (q.index_select(-2, rows) * k.index_select(-2, cols)).sum(-1) * q.shape[-1] ** -0.5  # [F, h, E]
    weights = scatter_softmax(scores, rows, dim=-1, dim_size=joints)
    return spmm(edges, weights, joints, joints, v).transpose(1, 2).reshape(frames, joints, width // 3)
