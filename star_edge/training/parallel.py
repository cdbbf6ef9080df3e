"""The processes that train one model together, as ``torchrun`` starts them; one alone where it did not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from runtime.errors import InputError, MismatchError

Value = TypeVar("Value")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Group:
    """One of ``size`` processes, and where it computes."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients that are averages over the processes."""
        if self.size == 1:
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)

    def total(self, values: Tensor) -> Tensor:
        """Sum of every process's values, in each."""
        if self.size == 1:
            return values
        summed = values.to(self.device, copy=True)
        dist.all_reduce(summed)
        return summed.to(values.device)

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What the first process makes, in each: of plain values and tensors."""
        if self.size == 1:
            return make()
        made = [make() if self.is_first else None]
        dist.broadcast_object_list(made, src=0, device=self.device)
        return made[0]  # type: ignore[return-value]

    def leave(self) -> None:
        """Wait for the others, and be one no more."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()


ALONE = Group()


def join(device: Literal["auto", "cpu", "cuda"] = "cpu") -> Group:
    """The group that torchrun's environment names, on NCCL where each process has a GPU, else on gloo.

    Raises MismatchError (no GPU for this process), InputError (an environment that is torchrun's in part).
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = device_of(device, local)
    if size == 1:
        return Group(device=place)
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            "WORLD_SIZE is set, and what else torchrun sets is not",
            found=f"no {', '.join(missing)}",
            hint="torchrun --nproc-per-node 2 -m star_edge train ..., or unset WORLD_SIZE",
        )
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    return Group(dist.get_rank(), dist.get_world_size(), place)


def device_of(name: Literal["auto", "cpu", "cuda"], local: int = 0) -> torch.device:
    """The CPU, or GPU number ``local`` of this machine; MismatchError where ``cuda`` is asked for and it is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and count == 0):
        return CPU
    if local >= count:
        raise MismatchError(
            "there is no GPU for this process",
            found=f"{count} GPUs, process {local} of this machine",
            expected="a GPU a process, and a torch built for CUDA",
            hint="--device cpu, or fewer processes: torchrun --nproc-per-node",
        )
    return torch.device("cuda", local)


class _Sum(torch.autograd.Function):
    """Sum over all processes, of gradients too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        summed = x.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm whose statistics are over x [N, C, ...] of all processes; ``torch.nn.SyncBatchNorm`` does that on GPUs alone.

    A process may have no row.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes behind the channels."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        others = [axis for axis in range(x.ndim) if axis != 1]
        by_channel = (-1, *[1] * (x.ndim - 2))
        count = wide.new_full((1,), x.numel() / x.shape[1])
        count, mean = _Sum.apply(torch.cat([count, wide.sum(others)])).split([1, x.shape[1]])
        mean = mean / count
        centred = wide - mean.view(by_channel)
        variance = _Sum.apply(centred.square().sum(others)) / count
        self._track(mean.detach(), variance.detach(), count)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(by_channel) + self.bias.view(by_channel)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), momentum)


def share_batch_norms(model: nn.Module) -> None:
    """Make every BatchNorm of a model one of all processes, with the same weights."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
                shared = SharedBatchNorm(child.num_features, child.eps, child.momentum)
                shared.load_state_dict(child.state_dict())
                setattr(module, name, shared)
