"""What benchmarks/gpu.py sets beside our kernels, in nothing but torch: two forms of the packed STAR, and ST-GCN.

``scatter`` is the paper's: attention along the edges, k (x) v written out, both summed by ``index_add``. ``dense`` takes all pairs
of joints, masked, and multiplies matrices of whole clips, several clips padded to the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 8
# of NTU RGB+D's 25 joints, a joint and its neighbour nearer to the middle
BONES = (
    (0, 1), (1, 20), (2, 20), (3, 2), (4, 20), (5, 4), (6, 5), (7, 6), (8, 20), (9, 8), (10, 9), (11, 10), (12, 0), (13, 12),
    (14, 13), (15, 14), (16, 0), (17, 16), (18, 17), (19, 18), (21, 22), (22, 7), (23, 24), (24, 11),
)  # fmt: skip
JOINTS, MIDDLE = 25, 20


def hops() -> Tensor:
    """Bones between two joints [V, V]."""
    step = torch.zeros(JOINTS, JOINTS, dtype=torch.int64)
    step[[i for i, _ in BONES], [j for _, j in BONES]] = 1
    step += step.T.clone() + torch.eye(JOINTS, dtype=torch.int64)
    distance = torch.full((JOINTS, JOINTS), JOINTS)
    for count in reversed(range(JOINTS)):
        distance[torch.linalg.matrix_power(step, count) > 0] = count
    return distance


@cache
def edges_within(reach: int) -> tuple[tuple[int, int], ...]:
    """Pairs of joints at most so many bones apart, each joint with itself among them: the paper's 187 within three."""
    return tuple((int(i), int(j)) for i, j in (hops() <= reach).nonzero())


def phi(u: Tensor) -> Tensor:
    """elu(u) + 1."""
    return F.elu(u) + 1


class Peer(nn.Module):
    """features [F, V, C] -> logits [B, K] for fixed lengths of clips; ``form`` is scatter or dense, the type the state dict's."""

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
        kind = state["embedding.weight"].dtype
        self.wide = torch.promote_types(kind, torch.float32)  # of sums
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
        self.register_buffer("count", count.clamp(min=1)[:, None, None].to(self.wide))
        index = torch.cat([torch.arange(n) for n in lengths])
        self.register_buffer("row_in_clip", index)
        starts = torch.cumsum(count, 0) - count
        padded = starts[:, None] + torch.arange(max(lengths))
        self.register_buffer("inside", (torch.arange(max(lengths)) < count[:, None])[:, None, None, :, None])
        self.register_buffer("padded", torch.where(self.inside.flatten(1), padded, 0))
        channels = torch.arange(self.dim, dtype=torch.float64)
        phase = (index.double() / 1e4)[:, None] ** (channels / self.dim)
        even = channels % 2 == 0
        self.register_buffer("positions", torch.where(even, phase.sin(), phase.cos())[:, None].to(kind))

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
        scores = ((q[:, first] * k[:, second]).sum(-1, keepdim=True) * self.head_dim**-0.5).to(self.wide)
        weights = (scores - scores.amax()).exp()
        total = torch.zeros_like(q[..., :1], dtype=self.wide).index_add(1, first, weights)
        out = torch.zeros_like(q, dtype=self.wide).index_add(1, first, weights * v[:, second].to(self.wide))
        return (out / total).reshape(rows, joints, self.dim).to(qkv.dtype)

    def temporal(self, qkv: Tensor) -> Tensor:
        rows, joints, _ = qkv.shape
        q, k, v = qkv.to(self.wide).view(rows, joints, 3, HEADS, self.head_dim).unbind(2)
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
        return self.sums(x.to(self.wide)) / self.count


class StGcn(nn.Module):
    """ST-GCN, arXiv 1801.07455, 3,098,832 parameters for 60 classes: features [N, 3, T, 25, M] of M persons -> logits [N, K].

    Someone who is not there is a person of zeros, and takes as long as any other.
    """

    BLOCKS = (  # channels in and out, stride in time
        (3, 64, 1), (64, 64, 1), (64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 128, 1), (128, 256, 2),
        (256, 256, 1), (256, 256, 1),
    )  # fmt: skip

    def __init__(self, classes: int = 60) -> None:
        super().__init__()
        self.input_norm = nn.BatchNorm1d(3 * JOINTS)
        self.blocks = nn.ModuleList(StGcnBlock(*block, residual=index > 0) for index, block in enumerate(self.BLOCKS))
        self.output = nn.Conv2d(self.BLOCKS[-1][1], classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        clips, channels, frames, joints, persons = features.shape
        flat = features.permute(0, 4, 3, 1, 2).reshape(clips * persons, joints * channels, frames)
        x = self.input_norm(flat).view(clips * persons, joints, channels, frames).permute(0, 2, 3, 1).contiguous()
        for block in self.blocks:
            x = block(x)
        pooled = x.mean((2, 3)).view(clips, persons, -1, 1, 1).mean(1)
        return self.output(pooled).flatten(1)


class StGcnBlock(nn.Module):
    """x [N, C, T, V] -> [N, D, T / stride, V]: a product over each of three partitions of the neighbours, then 9 frames."""

    partitions: Tensor

    def __init__(self, inputs: int, outputs: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.register_buffer("partitions", spatial_partitions())
        self.importance = nn.Parameter(torch.ones_like(self.partitions))
        self.spatial = nn.Conv2d(inputs, len(self.partitions) * outputs, 1)
        self.temporal = nn.Sequential(
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, (9, 1), (stride, 1), (4, 0)),
            nn.BatchNorm2d(outputs),
        )
        self.residual: nn.Module | None = None
        if residual:
            same = inputs == outputs and stride == 1
            projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, (stride, 1)), nn.BatchNorm2d(outputs))
            self.residual = nn.Identity() if same else projection

    def forward(self, x: Tensor) -> Tensor:
        parts = self.spatial(x).unflatten(1, (len(self.partitions), -1))
        y = self.temporal(torch.einsum("nkctv,kvw->nctw", parts, self.partitions * self.importance))
        return F.relu(y if self.residual is None else y + self.residual(x))


def spatial_partitions() -> Tensor:
    """[3, V, V]: of each joint (second axis) the neighbours (first) as near to the middle as it, nearer, and farther; itself is
    among the first, and a joint's column is divided by the number of its neighbours."""
    distance = hops()
    near = (distance <= 1).float()
    to_middle = distance[MIDDLE]
    nearer = to_middle[:, None] - to_middle
    return torch.stack([near * (nearer == 0), near * (nearer < 0), near * (nearer > 0)]) / near.sum(0)
