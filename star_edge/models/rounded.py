"""The rounding reference: STAR as hardware of a lower precision would compute it, on any machine.

Arithmetic is float32; every weight and every tensor outside the float32 islands is rounded to fp16 or bf16, exactly where the
ONNX graph of that precision (exporters/onnx/graph.py) has a tensor of it. Islands: input normalisation, positions, softmax,
LayerNorm, the segmented linear attention, the means and the gate of the context attention. What does not fit in fp16
(above 65504) becomes infinite, as it would on the device; an engine that computes an fp16 graph in float32 would hide it.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from star_edge.models.ensemble import Ensemble, experts_of
from star_edge.models.star import Encoder, Layer, SpatialAttention, Star
from star_edge.models.watching import Watch, below, watched
from star_edge.ops.segmented_linear_attention.packed import segmented_linear_attention
from star_edge.ops.segmented_positions.packed import segmented_positions
from star_edge.ops.segments import clip_of_row, segment_mean

if TYPE_CHECKING:
    from star_edge.models.registry import Model

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Rounded(abc.ABC):
    """A model with its weights rounded; call it like the model.

    Args:
        precision: ``fp16`` or ``bf16``.
    """

    weights: Mapping[str, Tensor]

    def __init__(self, precision: str) -> None:
        self.dtype = DTYPES[precision]

    @abc.abstractmethod
    def __call__(self, features: Tensor, cu_seqlens: Tensor, watch: Watch | None = None) -> Tensor:
        """Logits float32 [B, K] of features float32 [F, V, C], cu_seqlens int32 [B+1]; ``watch`` sees each module's output."""

    def first_overflow(self, features: Tensor, cu_seqlens: Tensor) -> str | None:
        """Path of the first module with a weight or output that is not finite on these clips, None when all are."""
        for name, tensor in self.weights.items():
            if not bool(tensor.isfinite().all()):
                return name
        bad: list[str] = []

        def watch(path: str, tensor: Tensor) -> None:
            if not bad and not bool(tensor.isfinite().all()):
                bad.append(path)

        self(features, cu_seqlens, watch)
        return bad[0] if bad else None

    def round(self, tensor: Tensor) -> Tensor:
        """The nearest numbers of the precision, as float32."""
        return tensor.to(self.dtype).float()


def rounded(model: Model, precision: str) -> Rounded:
    """The rounding reference of a model, for ``fp16`` or ``bf16``."""
    if isinstance(model, Star):
        return RoundedStar(model, precision)
    if isinstance(model, Ensemble):
        return RoundedEnsemble(model, precision)
    from star_edge.models.rounded_padded import RoundedPadded

    return RoundedPadded(model, precision)


class RoundedStar(Rounded):
    """Of STAR. ``model``: the fp32 model; left as it is."""

    def __init__(self, model: Star, precision: str) -> None:
        super().__init__(precision)
        self.model = model
        outside = [name for name in model.state_dict() if "norm" not in name]
        self.weights = {name: self.round(model.get_parameter(name).detach()) for name in outside}

    @torch.no_grad()
    def __call__(self, features: Tensor, cu_seqlens: Tensor, watch: Watch | None = None) -> Tensor:
        return _Run(self, cu_seqlens, watch or (lambda path, tensor: None)).logits(features)


class RoundedEnsemble(Rounded):
    """Of an ensemble: its experts rounded, the mean of their logits in float32. ``model``: left as it is."""

    def __init__(self, model: Ensemble, precision: str) -> None:
        super().__init__(precision)
        self.model = model
        self.experts = {path: rounded(expert, precision) for path, expert in experts_of(model).items()}
        self.weights = {f"{path}{name}": x for path, expert in self.experts.items() for name, x in expert.weights.items()}

    @torch.no_grad()
    def __call__(self, features: Tensor, cu_seqlens: Tensor, watch: Watch | None = None) -> Tensor:
        clips = self.model.padding(features, cu_seqlens)
        logits = torch.stack([expert(clips, cu_seqlens, below(path, watch)) for path, expert in self.experts.items()])
        with watched(self.model, watch):
            mean: Tensor = self.model.mean(logits)
        return mean


class _Run:
    """One forward pass."""

    def __init__(self, rounded: RoundedStar, cu_seqlens: Tensor, watch: Watch) -> None:
        self.rounded, self.cu_seqlens, self.watch = rounded, cu_seqlens, watch
        self.weights, self.model = rounded.weights, rounded.model

    def logits(self, features: Tensor) -> Tensor:
        model = self.model
        x = self._keep("input_norm", model.input_norm(features.flatten(1)).view(features.shape))
        x = self._keep("positions", segmented_positions(self._linear("embedding", x), self.cu_seqlens))
        for index, layer in enumerate(model.layers):
            assert isinstance(layer, Layer)
            path = f"layers.{index}"
            both = self._encoder(f"{path}.spatial", layer.spatial, x), self._encoder(f"{path}.temporal", layer.temporal, x)
            x = self._keep(path, both[0] + both[1])
        x = self._context(x).flatten(1)
        return self._linear("head.output", self._silu("head.activation", self._linear("head.hidden", x)))

    def _encoder(self, path: str, encoder: Encoder, x: Tensor) -> Tensor:
        qkv = self._linear(f"{path}.qkv", x)
        if isinstance(encoder.attention, SpatialAttention):
            attended = self._sparse_attention(f"{path}.attention", encoder.attention, qkv)
        else:
            attended = segmented_linear_attention(qkv, self.cu_seqlens, encoder.attention.heads)
        x = self._keep(f"{path}.residual1", x + self._keep(f"{path}.attention", attended))
        x = self._keep(f"{path}.norm1", encoder.norm1(x))
        inner = self._linear(f"{path}.linear2", self._silu(f"{path}.activation", self._linear(f"{path}.linear1", x)))
        return self._keep(f"{path}.norm2", encoder.norm2(self._keep(f"{path}.residual2", x + inner)))

    def _sparse_attention(self, path: str, attention: SpatialAttention, qkv: Tensor) -> Tensor:
        frames, joints, width = qkv.shape
        e = width // 3 // attention.heads
        q, k, v = qkv.view(frames, joints, 3, attention.heads, e).permute(2, 0, 3, 1, 4)
        scale = torch.tensor(e**-0.5).to(self.rounded.dtype).float()
        scores = self._keep(path, self._keep(path, q * scale) @ k.transpose(-2, -1))
        weights = self._keep(path, (scores + attention.mask).softmax(-1))
        return (weights @ v).permute(0, 2, 1, 3).reshape(frames, joints, width // 3)

    def _context(self, x: Tensor) -> Tensor:
        mean = self._keep("context", segment_mean(x, self.cu_seqlens))
        context = self._keep("context", self._keep("context", mean @ self.weights["context.weight"]).tanh())
        gate = (x * context[clip_of_row(self.cu_seqlens, len(x))]).sum(-1, keepdim=True).sigmoid()
        return self._keep("context", segment_mean(gate * x, self.cu_seqlens))

    def _linear(self, path: str, x: Tensor) -> Tensor:
        if path in self.model.config.ranks:
            return self._keep(path, self._linear(f"{path}.second", self._linear(f"{path}.first", x)))
        x = self._keep(path, F.linear(x, self.weights[f"{path}.weight"]))
        bias = self.weights.get(f"{path}.bias")
        return x if bias is None else self._keep(path, x + bias)

    def _silu(self, path: str, x: Tensor) -> Tensor:
        return self._keep(path, x * self._keep(path, x.sigmoid()))

    def _keep(self, path: str, tensor: Tensor) -> Tensor:
        """Round a tensor that leaves an island or an operator, and show it."""
        tensor = self.rounded.round(tensor)
        self.watch(path, tensor)
        return tensor
