"""Fake INT8 in a torch STAR model, by nvidia-modelopt, exactly where an int8 graph has Q/DQ.

Symmetric, scale = amax / 127: one range for the input of a product, and one for each output channel of its weight, taken anew from
the weight in every call, as the exporter takes it. Gradients pass rounding as if it were not there, and stop where values are clipped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from calibration.histograms import AMAX_FLOOR, Histograms
from calibration.modelopt import import_modelopt, quiet
from exporters.onnx.graph import quantised_modules
from star_edge.models.star import Star

Batches = Iterable[tuple[Tensor, Tensor]]


def insert_quantisers(model: Star) -> None:
    """Put fake quantisers into the model, in place; the ranges of inputs are 1 until they are set.

    Raises MissingDependencyError.
    """
    modelopt = import_modelopt("torch")
    config: list[dict[str, object]] = [{"quantizer_name": "*", "enable": False}]
    for module in quantised_modules(model.config):
        config += [
            {"quantizer_name": f"{module}.input_quantizer", "cfg": {"num_bits": 8}},
            {"quantizer_name": f"{module}.weight_quantizer", "cfg": {"num_bits": 8, "axis": 0, "type": "dynamic"}},
        ]
    with quiet():
        modelopt.quantize(model, {"quant_cfg": config, "algorithm": None})
    for product in quantised_products(model).values():
        product.input_quantizer.amax = torch.tensor(1.0)


def quantised_products(model: nn.Module) -> dict[str, Any]:
    """Path of each module whose input and weight are quantised -> the module."""
    return {
        path: module
        for path, module in model.named_modules()
        if hasattr(module, "weight_quantizer") and module.weight_quantizer.is_enabled and module.input_quantizer.is_enabled
    }


def set_ranges(model: nn.Module, ranges: Mapping[str, float]) -> None:
    """Set the ranges of inputs: calibration key (``layers.0.spatial.qkv.in``) -> amax."""
    products = quantised_products(model)
    for key, amax in ranges.items():
        products[key.removesuffix(".in")].input_quantizer.amax = torch.tensor(amax)


def get_ranges(model: nn.Module) -> dict[str, float]:
    """The ranges of inputs by calibration key."""
    return {f"{module}.in": float(product.input_quantizer.amax) for module, product in quantised_products(model).items()}


@torch.no_grad()
def find_ranges(model: nn.Module, batches: Callable[[], Batches]) -> dict[str, float]:
    """Ranges with the least squared error over features [F, V, C] and cu_seqlens [B+1] of ``batches``, from the float model.

    Two passes, as in calibration: the largest magnitudes, then histograms of them.
    """
    amax = {f"{module}.in": 0.0 for module in quantised_products(model)}

    def enlarge(key: str, values: Tensor) -> None:
        amax[key] = max(amax[key], float(values.abs().max()))

    show_inputs(model, batches(), enlarge)
    histograms = Histograms(amax)
    show_inputs(model, batches(), lambda key, values: histograms.add(key, values.numpy()))
    return {key: max(histograms.range_by("mse", key), AMAX_FLOOR) for key in amax}


def show_inputs(model: nn.Module, batches: Batches, see: Callable[[str, Tensor], None]) -> None:
    """Run the float model in eval mode and show ``see`` the input of each quantised module."""
    training = model.training
    with contextlib.ExitStack() as stack:
        for module, product in quantised_products(model).items():
            for quantiser in (product.input_quantizer, product.weight_quantizer):
                quantiser.disable()
                stack.callback(quantiser.enable)
            hook = product.register_forward_pre_hook(lambda _, inputs, key=f"{module}.in": see(key, inputs[0]))
            stack.callback(hook.remove)
        model.eval()
        for features, cu_seqlens in batches:
            model(features, cu_seqlens)
        model.train(training)
