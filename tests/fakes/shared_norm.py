"""A BatchNorm of three processes that torchrun starts, the second without a row: OUT."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from star_edge.training.parallel import join, share_batch_norms


def main(out: Path) -> None:
    group = join("cpu")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4, 3, 2, dtype=torch.float64, generator=generator)
    weight = torch.randn(4, dtype=torch.float64, generator=generator)
    model = nn.Sequential(nn.BatchNorm2d(4, dtype=torch.float64))
    share_batch_norms(model)
    model.double()
    with torch.no_grad():
        model[0].weight.copy_(weight)
    rows = x.split([3, 0, 2])[group.rank].clone().requires_grad_()
    output = model(rows)
    output.square().mul(rows.detach()).sum().backward()
    parts: list[list[torch.Tensor]] = [[] for _ in range(group.size)]
    dist.all_gather_object(parts, [output.detach(), rows.grad])
    gradient = group.total(model[0].weight.grad)
    if group.is_first:
        joined = [torch.cat([part[i] for part in parts]) for i in (0, 1)]
        statistics = [model[0].running_mean, model[0].running_var]
        torch.save([x, weight, *joined, gradient, *statistics], out / "shared.pt")
    group.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
