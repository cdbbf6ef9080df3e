"""Shift-GCN: channels moved over joints and over frames, and 1x1 convolutions (Cheng et al., CVPR 2020).

N counts persons of all clips, T frames, V joints. The authors' shift in time is a CUDA kernel, which also moves channels over
joints, by a learned distance that stays within 1e-9: here no channel moves so, and the model has as many parameters fewer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_edge.models.blocks import Block, BlockModel, DrawnConvolution, brought, draw
from star_edge.models.config import PaddedConfig


class ShiftGcn(BlockModel):
    """Shifts over joints, then over frames in each block; the input's statistics are per person."""

    def __init__(self, config: PaddedConfig) -> None:
        def make(before: int, after: int, stride: int, residual: bool) -> Block:
            spatial = SpatialShiftConvolution(before, after, config.joints)
            temporal = TemporalShiftConvolution(after, stride, config.frames)
            return Block(spatial, temporal, brought(before, after, stride, DrawnConvolution) if residual else None)

        super().__init__(config, make, together=True)
        nn.init.normal_(self.output.weight, std=math.sqrt(2 / config.classes))


class SpatialShiftConvolution(nn.Module):
    """x [N, C, T, V] -> [N, D, T, V]: ReLU(BN(shift(W (shift(x) * (tanh(M) + 1)) + b)) + x).

    The paper's non-local shift, with the mask M [V, C] on it. Statistics of BN are per joint and channel. Where the width changes, x comes
    to it by a 1x1 convolution with BatchNorm.
    """

    there: Tensor
    back: Tensor

    def __init__(self, before: int, after: int, joints: int) -> None:
        super().__init__()
        self.register_buffer("there", moved(joints, before, 1), persistent=False)
        self.register_buffer("back", moved(joints, after, -1), persistent=False)
        self.mask = nn.Parameter(torch.zeros(joints, before))
        self.mix = nn.Linear(before, after)
        self.norm = nn.BatchNorm1d(joints * after)
        self.down = brought(before, after, convolution=DrawnConvolution)
        draw(self.mix, std=math.sqrt(1 / after))

    def forward(self, x: Tensor) -> Tensor:
        shifted = x.permute(0, 2, 3, 1).flatten(2).index_select(2, self.there)  # [N, T, V * C]
        mixed = self.mix(shifted.unflatten(2, self.mask.shape) * (torch.tanh(self.mask) + 1))
        y = self.norm(mixed.flatten(2).index_select(2, self.back).transpose(1, 2))  # [N, V * D, T]
        y = y.unflatten(1, (len(self.mask), -1)).permute(0, 2, 3, 1)
        return F.relu(y + self.down(x))


class TemporalShiftConvolution(nn.Module):
    """x [N, D, T, V] -> [N, D, ceil(T / stride), V]: BN(shift(ReLU(W shift(BN(x)) + b))), the paper's temporal shift convolution.

    Args:
        channels, stride: D, and frames per frame of the output.
        frames: the largest T there will be.
    """

    def __init__(self, channels: int, stride: int, frames: int) -> None:
        super().__init__()
        self.norm_in = nn.BatchNorm2d(channels)
        self.shift_in = TemporalShift(channels, 1, frames)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.shift_out = TemporalShift(channels, stride, frames)
        self.norm_out = nn.BatchNorm2d(channels)
        nn.init.kaiming_normal_(self.mix.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        y = self.shift_out(F.relu(self.mix(self.shift_in(self.norm_in(x)))))
        normed: Tensor = self.norm_out(y)
        return normed


class TemporalShift(nn.Module):
    """The adaptive temporal shift: x [N, C, T, V] -> [N, C, ceil(T / stride), V], each channel by its own learned distance.

    Frame t is x at stride * t + s_c (half a frame later where the stride is two), linearly interpolated and zero outside: a
    depthwise convolution whose tap at offset o is max(0, 1 - |o - s_c|), of which at most two are not zero.

    In eval mode the taps are those of the shifts at the last call of ``eval`` or ``load_state_dict``: their number has to be known
    before a graph can be exported, and they are exact where all weights become half afterwards.

    Args: those of :class:`TemporalShiftConvolution`.
    """

    taps: Tensor | None

    def __init__(self, channels: int, stride: int, frames: int) -> None:
        super().__init__()
        self.stride, self.frames = stride, frames
        self.shift = nn.Parameter(torch.empty(channels).uniform_(-1, 1))
        self.register_buffer(
            "taps", None, persistent=False
        )  # not there in training: its size changes, averaged copies' would not
        self.register_load_state_dict_post_hook(TemporalShift._settle)

    def forward(self, x: Tensor) -> Tensor:
        taps = self._taps() if self.taps is None else self.taps
        padding = (taps.shape[2] // 2, 0)
        return F.conv2d(x, taps, stride=(self.stride, 1), padding=padding, groups=len(taps))

    def train(self, mode: bool = True) -> TemporalShift:
        super().train(mode)
        self._settle()
        return self

    def _settle(self, _: object = None) -> None:
        self.taps = None if self.training else self._taps().detach()

    def _taps(self) -> Tensor:
        """[C, 1, 2 * reach + 1, 1]: weights of the frames at offsets -reach to reach; no further than there are frames."""
        shift = self.shift + 0.5 * (self.stride - 1)
        farthest = shift.detach().abs().max().nan_to_num(1).clamp(1, self.frames)
        reach = 1 if farthest.is_meta else math.ceil(farthest.item())
        offsets = torch.arange(-reach, reach + 1, dtype=shift.dtype, device=shift.device)
        return F.relu(1 - (offsets - shift[:, None]).abs())[:, None, :, None]


def moved(joints: int, channels: int, steps: int) -> Tensor:
    """int64 [V * C]: where in rows of V joints of C channels each entry comes from, if channel c moves by c * steps joints."""
    joint, channel = torch.arange(joints)[:, None], torch.arange(channels)
    return ((joint + steps * channel) % joints * channels + channel).flatten()
