"""Ensembles: experts of one architecture over the same clips (Sparse ST-GCN, arXiv 2505.10679).

The experts' logits are averaged, where the authors average feature maps before one more classifier. Each expert stays a complete
model: it has to have a classifier for its own loss anyway, it is exported and quantised as it is, and the ensemble is their graphs
and a mean. Averaged inputs of STAR's head, a perceptron, would need a head of its own and the same basis in all experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
from torch import Tensor, nn

from star_edge.models.config import PaddedConfig
from star_edge.models.padded import PaddedModel, Padding

if TYPE_CHECKING:
    from star_edge.models.registry import ModelConfig
    from star_edge.models.star import Star

    Expert: TypeAlias = Star | PaddedModel


class AsGiven(nn.Module):
    """In place of a padding: clips as they come."""

    def forward(self, clips: Tensor, cu_seqlens: Tensor) -> Tensor:
        return clips


class Mean(nn.Module):
    """Mean of the experts' logits, [experts, B, K] -> [B, K], as a module, so that its path names it everywhere."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.mean(0)


class Ensemble(nn.Module):
    """Features float32 [F, V, C], cu_seqlens int32 [B+1] -> mean of the experts' logits, [B, K].

    In training the logits of all of them, [experts, B, K], so that each can have a loss of its own. What padded models bring clips
    to is the same for all experts, and computed once.

    Args:
        config: that of the experts, and their number.
    """

    def __init__(self, config: ModelConfig, experts: Sequence[Expert]) -> None:
        super().__init__()
        self.config = config
        self.padding: nn.Module = AsGiven()
        self.experts = nn.ModuleList(experts)
        self.mean = Mean()
        if isinstance(config, PaddedConfig):
            self.padding = Padding(config)
            for expert in experts:
                assert isinstance(expert, PaddedModel)
                expert.padding = AsGiven()

    def forward(self, features: Tensor, cu_seqlens: Tensor) -> Tensor:
        clips = self.padding(features, cu_seqlens)
        logits = torch.stack([expert(clips, cu_seqlens) for expert in self.experts])
        return logits if self.training else cast(Tensor, self.mean(logits))


def experts_of(model: nn.Module) -> dict[str, Expert]:
    """What the paths in each expert begin with -> the expert; nothing, and the model itself, where it is no ensemble."""
    if isinstance(model, Ensemble):
        return {f"experts.{number}.": cast("Expert", expert) for number, expert in enumerate(model.experts)}
    return {"": cast("Expert", model)}
