"""The rounding reference of the padded models: every tensor behind the input normalisation rounded to fp16 or bf16.

Arithmetic is float32, and what each operator puts out is rounded: softmax, LayerNorm, BatchNorm and means are one operator each,
float32 inside, as in the ONNX graph of that precision (exporters/onnx/traced.py). Padding and input normalisation are float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from star_edge.models.padded import PaddedModel
from star_edge.models.rounded import DTYPES, Watch


class RoundedPadded:
    """A model with its weights rounded; call it like the model.

    Args:
        model: the fp32 model; left as it is.
        precision: ``fp16`` or ``bf16``.
    """

    def __init__(self, model: PaddedModel, precision: str) -> None:
        self.dtype = DTYPES[precision]
        self.model = copy.deepcopy(model).eval()
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point() and not name.startswith("input_norm."):
                tensor.copy_(tensor.to(self.dtype).float())

    @torch.no_grad()
    def __call__(self, features: Tensor, cu_seqlens: Tensor, watch: Watch | None = None) -> Tensor:
        """Logits float32 [B, K] of features float32 [F, V, C + 1], cu_seqlens int32 [B+1]."""
        handles = [] if watch is None else watch_modules(self.model, watch)
        try:
            x = self.model.normalised(self.model.padding(features, cu_seqlens))
            with _Rounding(self.dtype):
                return self.model.classify(x.to(self.dtype).float())
        finally:
            for handle in handles:
                handle.remove()

    def first_overflow(self, features: Tensor, cu_seqlens: Tensor) -> str | None:
        """Path of the first module with a weight or output that is not finite on these clips, None when all are."""
        for name, tensor in self.model.state_dict().items():
            if not bool(tensor.isfinite().all()):
                return name
        bad: list[str] = []

        def watch(path: str, tensor: Tensor) -> None:
            if not bad and not bool(tensor.isfinite().all()):
                bad.append(path)

        self(features, cu_seqlens, watch)
        return bad[0] if bad else None


def watch_modules(model: torch.nn.Module, watch: Watch) -> list[torch.utils.hooks.RemovableHandle]:
    """Show every module's output to ``watch`` until the handles are removed."""

    def shown(path: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: watch(path, output)

    return [module.register_forward_hook(shown(path)) for path, module in model.named_modules() if path]


class _Rounding(TorchDispatchMode):
    """Rounds what each operator puts out."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.dtype == torch.float32:
            return found.to(self.dtype).float()
        return found
