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
from star_edge.models.rounded import Rounded
from star_edge.models.watching import Watch, watched


class RoundedPadded(Rounded):
    """Of a padded model. ``model``: the fp32 model; left as it is."""

    def __init__(self, model: PaddedModel, precision: str) -> None:
        super().__init__(precision)
        self.model = copy.deepcopy(model).eval()
        self.weights = self.model.state_dict()
        for name, tensor in self.weights.items():
            if tensor.is_floating_point() and not name.startswith("input_norm."):
                tensor.copy_(self.round(tensor))

    @torch.no_grad()
    def __call__(self, features: Tensor, cu_seqlens: Tensor, watch: Watch | None = None) -> Tensor:
        with watched(self.model, watch):
            x = self.model.normalised(self.model.padding(features, cu_seqlens))
            with _Rounding(self.round):
                return self.model.classify(self.round(x))


class _Rounding(TorchDispatchMode):
    """Rounds what each operator puts out."""

    def __init__(self, rounding: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rounding = rounding

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        return self.rounding(found) if isinstance(found, Tensor) and found.dtype == torch.float32 else found
