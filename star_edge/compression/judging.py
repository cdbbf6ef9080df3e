"""How a compressed model is judged beside the one it was made from: size, latency, and accuracy on val clips."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import nn

from runtime.clip import Clip
from star_edge.data.recorded import Recorded, open_recorded, split_to_fit
from star_edge.training.checkpoint import Checkpoint
from star_edge.training.evaluate import model_logits, top_k_accuracy
from star_edge.training.loop import Task
from star_edge.training.parallel import CPU, Group

WORKLOAD = "1x300"
LOSS_CLIPS = 64  # that a loss is of, at most: it is asked for once a layer, and layers are compared on the same ones
_ROUNDS = 7


class Size(msgspec.Struct, frozen=True):
    """What a model takes.

    Attributes:
        macs: of its linear layers and convolutions, on one clip of 300 rows; products of attention and graphs are not counted.
        bytes: of the checkpoint.
        torch_ms: median latency of eager PyTorch on that clip; before and after were timed in turn.
        top1: on val clips; None where there are none.
    """

    parameters: int
    macs: int
    bytes: int
    torch_ms: float
    top1: float | None


class EngineTimes(msgspec.Struct, frozen=True):
    """Median milliseconds of an engine in fp32 on the clip of :class:`Size`; None where it cannot run the model."""

    engine: str
    before_ms: float | None
    after_ms: float | None


class FineTuning(NamedTuple):
    """How to fine-tune: epochs, a learning rate in place of the recipe's, whether the original model teaches, and on what."""

    epochs: int = 0
    lr: float | None = None
    distil: bool = False
    resume: bool = False


class Judge:
    """Loss and accuracy of models on val clips, where the group computes."""

    def __init__(self, task: Task, start: Checkpoint, group: Group) -> None:
        self._task, self._start, self._group = task, start, group
        self._few = np.sort(np.random.default_rng(0).permutation(len(self))[:LOSS_CLIPS])

    def loss(self, model: nn.Module) -> float:
        """Mean cross entropy on at most ``LOSS_CLIPS`` of the clips."""
        labels = torch.from_numpy(self._task.validation_labels[self._few]).long()
        logits = self._logits(model, [self._task.validation[int(clip)] for clip in self._few])
        return float(nn.functional.cross_entropy(torch.from_numpy(logits), labels))

    def accuracy(self, model: nn.Module) -> float | None:
        """Top-1 on all clips; None where there are none."""
        return top_k_accuracy(self._logits(model, self._task.validation), self._task.validation_labels) if len(self) else None

    def __len__(self) -> int:
        return len(self._task.validation_labels)

    def _logits(self, model: nn.Module, clips: Sequence[Clip]) -> np.ndarray:
        if self._group.device != CPU:
            model = copy.deepcopy(model).to(self._group.device)  # the caller's is timed on the CPU
        return model_logits(model, clips, self._start.skeleton, self._start.features, self._group)


def recorded_task(
    start: Checkpoint, path: Path, data: Path | None, split: str | None, required: bool, verb: str
) -> Task | None:
    """The clips to fit and to judge by; None where there are none and nobody asked for them."""
    recorded = Recorded.in_checkpoint(start)
    if data is None and not required and not (start.data.source and Path(start.data.source).exists()):
        return None
    dataset = open_recorded(recorded, data, f"{verb} {path}")
    return Task.of(dataset, split_to_fit(start.data.split, split, path), start.data.fitted)


def size_of(model: nn.Module, applications: dict[str, int], path: Path, seconds: float, judge: Judge | None) -> Size:
    return Size(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=layer_macs(model, applications),
        bytes=path.stat().st_size,
        torch_ms=seconds * 1e3,
        top1=None if judge is None else judge.accuracy(model),
    )


def layer_macs(model: nn.Module, applications: dict[str, int]) -> int:
    return sum(model.get_parameter(f"{name}.weight").numel() * times for name, times in applications.items())


@torch.no_grad()
def median_seconds(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each call, timed in turn after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-1, _ROUNDS):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - begun)
    return {name: float(np.median(values)) for name, values in seconds.items()}
