"""What the padded models share: packed clips are brought to T frames of M persons, and persons are averaged at the end.

The padding is the models' own: who is absent is a person of zeros, and costs as much as any other.
"""

from __future__ import annotations

import abc

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_edge.models.config import PaddedConfig


class Padding(nn.Module):
    """Packed clips to a fixed size: features [F, V, C + 1], cu_seqlens int32 [B + 1] -> [B, M, T, V, C].

    The last feature is the number of the person whose row it is; persons beyond M are left out. Between two rows a frame is
    interpolated linearly; a resampled clip's first and last frame reach half a frame beyond their centres.
    """

    def __init__(self, config: PaddedConfig) -> None:
        super().__init__()
        self.persons, self.frames, self.time = config.persons, config.frames, config.time

    def forward(self, features: Tensor, cu_seqlens: Tensor) -> Tensor:
        first, length = self._persons(features[:, 0, -1], cu_seqlens.long())
        place, there = self._places(length[..., None])
        low = place.long()
        high = torch.minimum(low + 1, length[..., None] - 1)
        share = (place - low)[..., None, None].to(features.dtype)
        coordinates = features[..., :-1]
        rows = torch.cat([coordinates.new_zeros(1, *coordinates.shape[1:]), coordinates])  # row 0 for what is not there

        def at(row: Tensor) -> Tensor:
            return rows.index_select(0, torch.where(there, first[..., None] + row + 1, 0).flatten()).unflatten(0, row.shape)

        return at(low) * (1 - share) + at(high) * share

    def _persons(self, person: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
        """First row and number of rows [B, M] of each person, from each row's person [F]."""
        numbers = torch.arange(self.persons, device=person.device)
        member = (person[:, None] == numbers).long()
        before = torch.cat([member.new_zeros(1, self.persons), member.cumsum(0)])  # of each person, in front of each row
        length = before[cu_seqlens[1:]] - before[cu_seqlens[:-1]]
        return cu_seqlens[:-1, None] + length.cumsum(1) - length, length

    def _places(self, length: Tensor) -> tuple[Tensor, Tensor]:
        """Where among a person's rows each of the T frames lies, and whether it is there [B, M, T]; from lengths [B, M, 1]."""
        frame = torch.arange(self.frames, device=length.device)
        resampled = ((frame + 0.5) * length / self.frames - 0.5).clamp(min=0)
        resampled = torch.minimum(resampled, (length - 1).float())
        if self.time == "resample":
            return resampled, (length > 0).expand(resampled.shape)
        longer = length > self.frames
        return torch.where(longer, resampled, frame), (frame < length) | longer


class PaddedModel(nn.Module, abc.ABC):
    """Base of the padded models: features [F, V, C + 1], cu_seqlens int32 [B + 1] -> logits [B, K].

    A subclass builds its own layers after ``super().__init__``. The input normalisation computes in float32 whatever the rest computes in.

    Args:
        config: shape of the model.
        width: channels D of what ``encode`` returns.
        together: whether the input's statistics are per person too (BatchNorm over M * V * C), or shared by all (V * C).
    """

    def __init__(self, config: PaddedConfig, width: int, together: bool = False) -> None:
        super().__init__()
        self.config = config
        self.coordinates = config.channels - 1
        self.padding: nn.Module = Padding(config)  # an ensemble does it once for all
        persons = config.persons if together else 1
        self.input_norm = nn.BatchNorm1d(persons * config.joints * self.coordinates)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(width, config.classes)

    @abc.abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """x [N, C, T, V] of one person each -> [N, D, T', V']."""

    def forward(self, features: Tensor, cu_seqlens: Tensor) -> Tensor:
        return self.classify(self.normalised(self.padding(features, cu_seqlens)).to(self.output.weight.dtype)).float()

    def classify(self, x: Tensor) -> Tensor:
        """Normalised x [B * M, C, T, V] -> logits [B, K]; all that may be computed in less than float32."""
        pooled = self.encode(x).mean((2, 3)).unflatten(0, (-1, self.config.persons)).mean(1)
        return self.output(self.dropout(pooled))

    def normalised(self, x: Tensor) -> Tensor:
        """x [B, M, T, V, C] -> [B * M, C, T, V]."""
        _, _, frames, joints, channels = x.shape
        x = x.permute(0, 1, 3, 4, 2)  # [B, M, V, C, T]
        x = self.input_norm(x.reshape(-1, self.input_norm.num_features, frames))
        return x.reshape(-1, joints, channels, frames).permute(0, 2, 3, 1).contiguous()


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis, in float32 whatever the rest computes in."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """Softmax in float32 whatever the rest computes in."""
    return x.float().softmax(dim).to(x.dtype)
