"""What a GPU reaches at best, and the least that a model could take there."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from gpu_peers import JOINTS, StGcn
from gpu_time import time_ms
from torch.utils.flop_counter import FlopCounterMode

REPOSITORY = Path(__file__).resolve().parent.parent
PRODUCT, COPY = 8192, 1 << 30  # rows and columns; bytes


@dataclass(frozen=True)
class Work:
    """Operations, two a multiply-accumulate, and bytes that go to and from memory."""

    flops: int
    bytes: int

    def floor_ms(self, precision: str, limits: dict[str, float]) -> float:
        """The larger of arithmetic over the product's ceiling and bytes over the copy's, or the bytes' alone where this card
        has no ceiling for the precision."""
        computing = self.flops / limits.get(f"{precision}_ops_per_s", float("inf"))
        return 1e3 * max(self.bytes / limits["bytes_per_s"], computing)


def ceilings() -> dict[str, float]:
    """Operations/s of a matrix product in each precision, fp32 without TF32, and a copy's bytes/s, read and written."""
    free = torch.cuda.mem_get_info()[0]
    big = torch.empty(min(COPY, free // 8), device="cuda", dtype=torch.uint8)
    other = torch.empty_like(big)
    found = {"bytes_per_s": 2 * big.numel() / time_ms(lambda: other.copy_(big))["median_ms"] * 1e3}
    square = torch.randn(PRODUCT, PRODUCT, device="cuda")
    half, levels = square.half(), square.clamp(-4, 4).mul(30).to(torch.int8)
    products: dict[str, Callable[[], object]] = {
        "fp32": lambda: square @ square,
        "fp16": lambda: half @ half,
        "int8": lambda: torch._int_mm(levels, levels.T),
    }
    for name, product in products.items():
        try:
            found[f"{name}_ops_per_s"] = 2 * PRODUCT**3 / time_ms(product)["median_ms"] * 1e3
        except RuntimeError as error:  # torch has no int8 product for every card
            print(f"no ceiling in {name}: {str(error).splitlines()[0]}")
    return found


def star_work(config: Any, lengths: Sequence[int], precision: str) -> Work:
    """Features read once, and a layer's activations read and written once, since a clip's sums part one layer from the next;
    two bytes each but in fp32. The weights, under a megabyte in fp16, are left out."""
    tokens, width = sum(lengths) * config.joints, config.dim * (4 if precision == "fp32" else 2)
    moved = tokens * config.channels * 4 + config.layers * tokens * width * 2
    return Work(2 * _macs_module().macs(config, lengths), moved)


@cache
def stgcn_work(frames: int, persons: int, precision: str) -> Work:
    """Features read once, and what goes from block to block written and read once; weights are left out as STAR's are."""
    with torch.device("meta"):
        model, features = StGcn().eval(), torch.empty(1, 3, frames, JOINTS, persons)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(features)
    moved = features.numel() * 4
    for _, channels, stride in StGcn.BLOCKS:
        frames = -(-frames // stride)
        moved += 2 * persons * frames * JOINTS * channels * (4 if precision == "fp32" else 2)
    return Work(counter.get_total_flops(), moved)


@cache
def _macs_module() -> ModuleType:
    """star_edge/bench/macs.py without the package round it, which may need what is not installed here."""
    path = REPOSITORY / "star_edge/bench/macs.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
