"""STAR in PyTorch for benchmarks/gpu.py, from a state dict, with nothing but torch: two forms of its packed model.

``scatter`` is the paper's: attention along the edges, k (x) v written out, both summed by ``index_add``. ``dense`` takes all pairs
of joints, masked, and multiplies matrices of whole clips, several clips padded to the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 8


def phi(u: Tensor) -> Tensor:
    """elu(u) + 1."""
    return F.elu(u) + 1


class Peer(nn.Module):
    """features [F, V, C] -> logits [B, K] for fixed lengths of clips; ``form`` is scatter or dense."""

    mask: Tensor
    ends: Tensor
    clip: Tensor
    count: Tensor
    row_in_clip: Tensor
    inside: Tensor
    padded: Tensor
    positions: Tensor

    def __init__(
        self, state: dict[str, Tensor], edges: Sequence[tuple[int, int]], lengths: Sequence[int], form: str, layers: int
    ) -> None:
        super().__init__()
        self.form, self.layers, self.clips = form, layers, len(lengths)
        self.dim = len(state["embedding.bias"])
        self.head_dim = self.dim // HEADS
        self.amax: dict[str, float] | None = None  # module path -> largest |input| seen, where it is asked for
        for name, value in state.items():
            self.register_buffer(name.replace(".", "_"), value)
        joints = state["input_norm.weight"].numel() // state["embedding.weight"].shape[1]
        mask = torch.full((joints, joints), float("-inf"))
        mask[[i for i, _ in edges], [j for _, j in edges]] = 0.0
        self.register_buffer("mask", mask)
        self.register_buffer("ends", torch.tensor(edges).T.contiguous())
        count = torch.tensor(lengths)
        self.register_buffer("clip", torch.repeat_interleave(torch.arange(len(lengths)), count))
        self.register_buffer("count", count.clamp(min=1)[:, None, None].float())
        index = torch.cat([torch.arange(n) for n in lengths])
        self.register_buffer("row_in_clip", index)
        starts = torch.cumsum(count, 0) - count
        padded = starts[:, None] + torch.arange(max(lengths))
        self.register_buffer("inside", (torch.arange(max(lengths)) < count[:, None])[:, None, None, :, None])
        self.register_buffer("padded", torch.where(self.inside.flatten(1), padded, 0))
        index = index.float()
        phase = (index / 1e4)[:, None] ** (torch.arange(self.dim) / self.dim)
        even = torch.arange(self.dim) % 2 == 0
        self.register_buffer("positions", torch.where(even, phase.sin(), phase.cos())[:, None])

    def w(self, name: str) -> Tensor:
        found: Tensor = getattr(self, name.replace(".", "_"))
        return found

    def linear(self, path: str, x: Tensor, bias: bool = True) -> Tensor:
        if self.amax is not None:
            self.amax[path] = float(x.abs().max())
        return F.linear(x, self.w(f"{path}.weight"), self.w(f"{path}.bias") if bias else None)

    def forward(self, features: Tensor) -> Tensor:
        flat = F.batch_norm(
            features.flatten(1), self.w("input_norm.running_mean"), self.w("input_norm.running_var"),
            self.w("input_norm.weight"), self.w("input_norm.bias"), eps=1e-5,
        )  # fmt: skip
        x = self.linear("embedding", flat.view(features.shape)) + self.positions
        for layer in range(self.layers):
            spatial, temporal = f"layers.{layer}.spatial", f"layers.{layer}.temporal"
            one = self.encoder_tail(spatial, x, self.spatial(self.linear(f"{spatial}.qkv", x, bias=False)))
            x = one + self.encoder_tail(temporal, x, self.temporal(self.linear(f"{temporal}.qkv", x, bias=False)))
        context = torch.tanh(self.mean(x).to(x.dtype) @ self.w("context.weight"))
        gate = (x * context[self.clip]).sum(-1, keepdim=True).sigmoid()
        pooled = self.mean(gate * x).to(x.dtype).flatten(1)
        return self.linear("head.output", F.silu(self.linear("head.hidden", pooled)))

    def encoder_tail(self, path: str, x: Tensor, attended: Tensor) -> Tensor:
        x = F.layer_norm(x + attended, (self.dim,), self.w(f"{path}.norm1.weight"), self.w(f"{path}.norm1.bias"))
        x = x + self.linear(f"{path}.linear2", F.silu(self.linear(f"{path}.linear1", x)))
        return F.layer_norm(x, (self.dim,), self.w(f"{path}.norm2.weight"), self.w(f"{path}.norm2.bias"))

    def spatial(self, qkv: Tensor) -> Tensor:
        rows, joints, _ = qkv.shape
        parts = qkv.view(rows, joints, 3, HEADS, self.head_dim)
        if self.form == "dense":
            q, k, v = parts.permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask.to(qkv.dtype))
            return out.permute(0, 2, 1, 3).reshape(rows, joints, self.dim)
        q, k, v = parts.unbind(2)
        first, second = self.ends
        scores = ((q[:, first] * k[:, second]).sum(-1, keepdim=True) * self.head_dim**-0.5).float()
        weights = (scores - scores.amax()).exp()
        total = torch.zeros_like(q[..., :1], dtype=torch.float32).index_add(1, first, weights)
        out = torch.zeros_like(q, dtype=torch.float32).index_add(1, first, weights * v[:, second].float())
        return (out / total).reshape(rows, joints, self.dim).to(qkv.dtype)

    def temporal(self, qkv: Tensor) -> Tensor:
        rows, joints, _ = qkv.shape
        q, k, v = qkv.float().view(rows, joints, 3, HEADS, self.head_dim).unbind(2)
        q, k = phi(q * self.head_dim**-0.25), phi(k * self.head_dim**-0.25)
        if self.form == "dense":
            q, k, v = (part[self.padded].permute(0, 2, 3, 1, 4) for part in (q, k, v))  # [B, V, h, frames, e]
            k = k * self.inside
            out = q @ (k.transpose(-1, -2) @ v) / (q @ k.sum(-2)[..., None] + 1e-6)
            return out.permute(0, 3, 1, 2, 4)[self.clip, self.row_in_clip].reshape(rows, joints, self.dim).to(qkv.dtype)
        products = self.sums(k[..., :, None] * v[..., None, :])[self.clip]
        keys = self.sums(k)[self.clip]
        out = (q[..., None, :] @ products).squeeze(-2) / ((q * keys).sum(-1, keepdim=True) + 1e-6)
        return out.reshape(rows, joints, self.dim).to(qkv.dtype)

    def sums(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.clips, *x.shape[1:]).index_add(0, self.clip, x)

    def mean(self, x: Tensor) -> Tensor:
        return self.sums(x.float()) / self.count
