"""Where a model's parameters, MACs and time are, by the kind of module: the STAR paper's table of top modules.

What a module does outside its children is its own: an einsum in a graph convolution is that one's, the convolution in it a Conv2d's.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

import msgspec
import torch
from papers_speed import Subject, config_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from runtime.features import FeatureRecipe
from star_edge.bench.host import read_host
from star_edge.bench.macs import gate_macs, spatial_macs, temporal_macs
from star_edge.bench.report import Host
from star_edge.bench.workloads import parse_workload
from star_edge.models.config import StarConfig
from star_edge.models.registry import build_model
from star_edge.skeletons import NTU25

WORKLOAD = "1x300"
_CALLS = 5


class Kind(msgspec.Struct, frozen=True):
    """Modules of one class: their parameters, MACs of one clip, and share of eager PyTorch's time, children left out."""

    name: str
    parameters: int
    macs: int
    time: float


class ModelModules(msgspec.Struct, frozen=True):
    """One model's kinds of modules."""

    name: str
    kinds: tuple[Kind, ...]


class Modules(msgspec.Struct, frozen=True):
    """All models, one clip of 300 rows each."""

    host: Host
    threads: int
    models: tuple[ModelModules, ...]
    schema: str = "star-edge/papers-modules/1"


def measure(subjects: Sequence[Subject]) -> Modules:
    return Modules(read_host(), torch.get_num_threads(), tuple(_measure(subject) for subject in subjects))


@torch.no_grad()
def _measure(subject: Subject) -> ModelModules:
    torch.manual_seed(0)
    config = config_of(subject)
    model = build_model(subject.model, config).eval()
    arrays = parse_workload(WORKLOAD).make(NTU25, FeatureRecipe(channels=config.channels))
    inputs = [torch.from_numpy(array) for array in arrays]
    parameters: dict[str, int] = defaultdict(int)
    for module in model.modules():
        parameters[type(module).__name__] += sum(own.numel() for own in module.parameters(recurse=False))
    macs, seconds = own_macs(model, inputs, config), own_seconds(model, inputs)
    total = sum(seconds.values())
    kinds = [Kind(name, parameters[name], macs.get(name, 0), seconds[name] / total) for name in seconds]
    return ModelModules(subject.name, tuple(kinds))


def own_macs(model: nn.Module, inputs: Sequence[torch.Tensor], config: object) -> dict[str, int]:
    """Products and convolutions as torch counts them; of STAR's attention, along the edges."""
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    counted = {path: sum(flops.values()) // 2 for path, flops in counter.get_flop_counts().items()}
    own: dict[str, int] = defaultdict(int)

    def total(path: str, module: nn.Module) -> int:
        """With all children; a list of modules is never called, and so has no count of its own."""
        children = sum(total(f"{path}.{name}", child) for name, child in module.named_children())
        whole = max(counted.get(path, 0), children)
        own[type(module).__name__] += whole - children
        return whole

    total(type(model).__name__, model)
    if isinstance(config, StarConfig):
        rows = len(inputs[0])
        own |= {
            "SpatialAttention": rows * spatial_macs(config),
            "TemporalAttention": rows * temporal_macs(config),
            "ContextAttention": rows * gate_macs(config) + config.joints * config.dim**2,
        }
    return own


def own_seconds(model: nn.Module, inputs: Sequence[torch.Tensor]) -> dict[str, float]:
    """Class -> seconds of its own in some calls, after one that is not counted."""
    own: dict[str, float] = defaultdict(float)
    stack: list[list[float]] = []  # of each call under way: its beginning, and what its children took

    def before(module: nn.Module, arguments: object) -> None:
        stack.append([time.perf_counter(), 0.0])

    def after(module: nn.Module, arguments: object, result: object) -> None:
        begun, children = stack.pop()
        taken = time.perf_counter() - begun
        own[type(module).__name__] += taken - children
        if stack:
            stack[-1][1] += taken

    model(*inputs)
    for module in model.modules():
        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
    for _ in range(_CALLS):
        model(*inputs)
    return own
