"""Calls that are timed in benchmarks/gpu.py's own process: our kernels and PyTorch's on a case, with and without a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from cuda_devices import Device
from cuda_models import TOLERANCES, FusedModel, LayeredModel
from gpu_cases import ST_GCN, TYPES
from gpu_time import Call, captured

Maker = Callable[[Device, Any], Call]  # of a case, whose kind is the model's
FORMS = ("scatter", "dense")


def engines(model: str, only_ours: bool) -> dict[tuple[str, str], Maker]:
    """(engine, precision) -> what makes its call."""
    plain: dict[tuple[str, str], Maker] = {}
    if model == "star-64":
        plain["ours", "fp16"] = fused
    if model != ST_GCN:
        plain |= {("ours, layered", precision): partial(layered, precision) for precision in TOLERANCES}
    if model != ST_GCN and not only_ours:
        plain |= {(f"torch {form}", precision): partial(star, form, precision) for form in FORMS for precision in TYPES}
    if model == ST_GCN and not only_ours:
        plain |= {("torch", precision): partial(stgcn, precision) for precision in TYPES}
    found: dict[tuple[str, str], Maker] = {}
    for (engine, precision), make in plain.items():
        found |= {(engine, precision): make, (f"{engine}, graph", precision): partial(in_graph, make)}
    return found


def fused(device: Device, case: Any) -> Call:
    """STAR-64's own kernels."""
    return _launches(device, FusedModel(device, case.config, case.state), case)


def layered(precision: str, device: Device, case: Any) -> Call:
    """A kernel or more a layer, of any width."""
    ranges = case.ranges if precision == "int8" else None
    return _launches(device, LayeredModel(device, case.config, precision, case.state, ranges), case)


def star(form: str, precision: str, device: Device, case: Any) -> Call:
    return partial(*case.peer(form, precision))


def stgcn(precision: str, device: Device, case: Any) -> Call:
    return partial(*case.peer(precision))


def in_graph(make: Maker, device: Device, case: Any) -> Call:
    return captured(make(device, case))


def _launches(device: Device, model: Any, case: Any) -> Call:
    run = model.prepare(case.features, case.lengths)

    def call() -> torch.Tensor:
        stream = torch.cuda.current_stream().cuda_stream if device.memory == "cuda" else None
        model.launch(run, stream)
        logits: torch.Tensor = run.logits.values.view(len(case.lengths), -1)
        return logits

    return call
