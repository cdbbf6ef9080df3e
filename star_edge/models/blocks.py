"""What the graph convolutional models share: blocks one after another, each over joints and then over frames.

N counts persons of all clips, T frames, V joints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_edge.models.config import PaddedConfig
from star_edge.models.padded import PaddedModel

GROWTH = (1, 1, 1, 1, 2, 2, 2, 4, 4, 4)  # of each block's width, against the first's, in the configurations of the authors

# (channels before, channels after, stride over frames, whether its input is added) -> block
Make: TypeAlias = Callable[[int, int, int, bool], nn.Module]


class BlockModel(PaddedModel):
    """Ten blocks, ``dim`` to four times ``dim`` channels wide, or as ``config.growth`` says.

    They keep their frames but for those that widen, which halve them (rounded up).

    Args:
        make: makes a block; the first one's input is not added.
        together: as of :class:`PaddedModel`.
    """

    def __init__(self, config: PaddedConfig, make: Make, together: bool = False) -> None:
        super().__init__(config, width=(config.growth or GROWTH)[-1] * config.dim, together=together)
        self.blocks = blocks(config, make)

    def encode(self, x: Tensor) -> Tensor:
        """x [N, C, T, V] -> [N, D, T', V]: 4 * dim channels and ceil(T / 4) frames after the authors' ten blocks."""
        encoded: Tensor = self.blocks(x)
        return encoded


def blocks(config: PaddedConfig, make: Make) -> nn.Sequential:
    """The blocks of a config, see :class:`BlockModel`."""
    return nn.Sequential(*(make(before, after, stride, i > 0) for i, (before, after, stride) in enumerate(shapes(config))))


def shapes(config: PaddedConfig) -> Iterator[tuple[int, int, int]]:
    """Channels before and after each block, and its stride: two where it widens what another block made."""
    before = config.channels - 1
    for i, factor in enumerate(config.growth or GROWTH):
        after = factor * config.dim
        yield before, after, 2 if i > 0 and after != before else 1
        before = after


class Block(nn.Module):
    """ReLU(temporal(spatial(x)) + residual(x)): x [N, C, T, V] -> [N, D, ceil(T / stride), V]."""

    def __init__(self, spatial: nn.Module, temporal: nn.Module, residual: nn.Module | None) -> None:
        super().__init__()
        self.spatial, self.temporal, self.residual = spatial, temporal, residual

    def forward(self, x: Tensor) -> Tensor:
        return self.added(x, self.temporal(self.spatial(x)))

    def added(self, x: Tensor, y: Tensor) -> Tensor:
        """A block's output from its input x and what its layers make of it."""
        return F.relu(y if self.residual is None else y + self.residual(x))


class Convolution(nn.Sequential):
    """Over ``kernel`` frames, every ``stride``-th, and BatchNorm: x [N, C, T, V] -> [N, D, ceil(T / stride), V]."""

    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1) -> None:
        convolution = nn.Conv2d(before, after, (kernel, 1), stride=(stride, 1), padding=(kernel // 2, 0))
        super().__init__(convolution, nn.BatchNorm2d(after))


class DrawnConvolution(Convolution):
    """A :class:`Convolution` with He's initialisation, by the outputs that an input reaches."""

    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(before, after, kernel, stride)
        draw(self[0], std=math.sqrt(2 / (after * kernel)))


def brought(before: int, after: int, stride: int = 1, convolution: type[Convolution] = Convolution) -> nn.Module:
    """What brings x [N, C, T, V] to [N, D, ceil(T / stride), V], where it is not there already."""
    return nn.Identity() if before == after and stride == 1 else convolution(before, after, stride=stride)


class MultiScaleTemporalConvolution(nn.Module):
    """x [N, D, T, V] -> [N, D, ceil(T / stride), V], of ST-GCN++ (Duan et al., PYSKL, arXiv 2205.09443).

    Six branches share the channels: four convolutions of three frames, dilated by 1 to 4, a maximum of three frames, and a 1x1
    convolution; the first also takes the remainder. A 1x1 convolution mixes all.
    """

    DILATIONS = (1, 2, 3, 4)

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        narrow = channels // (len(self.DILATIONS) + 2)
        widths = [channels - (len(self.DILATIONS) + 1) * narrow] + len(self.DILATIONS) * [narrow]
        self.widths = widths  # of all branches but the last, which all begin with a 1x1 convolution: here in one
        self.reduce = nn.Sequential(*Convolution(channels, sum(widths)), nn.ReLU())
        self.dilated = nn.ModuleList(
            nn.Conv2d(width, width, (3, 1), stride=(stride, 1), padding=(dilation, 0), dilation=(dilation, 1))
            for dilation, width in zip(self.DILATIONS, widths[:-1], strict=True)
        )
        self.maximum = nn.MaxPool2d((3, 1), stride=(stride, 1), padding=(1, 0))
        self.point = nn.Conv2d(channels, narrow, 1, stride=(stride, 1))
        self.norm = nn.BatchNorm2d(channels)
        self.mix = Convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.mixed(self.branches(x))

    def branches(self, x: Tensor) -> Tensor:
        """What the six branches make of x, side by side."""
        *parts, last = self.reduce(x).split(self.widths, 1)
        dilated = [convolution(part) for convolution, part in zip(self.dilated, parts, strict=True)]
        return torch.cat([*dilated, self.maximum(last), self.point(x)], 1)

    def mixed(self, y: Tensor) -> Tensor:
        mixed: Tensor = self.mix(F.relu(self.norm(y)))
        return mixed


def draw(layer: nn.Module, std: float) -> None:
    """Normally distributed weights, no bias."""
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear))
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
