"""Multi-level ensembles: experts of one architecture at several sparsities, trained together (Sparse ST-GCN, arXiv 2505.10679).

The experts' logits are averaged, where the authors average feature maps before one more classifier. Each expert stays a complete
model: it has to have a classifier for its own loss anyway, it is exported and quantised as it is, and the ensemble is their graphs
and a mean. Averaged inputs of STAR's head, a perceptron, would need a head of its own and the same basis in all experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from star_edge.compression import sparse_generator

# densities 0.40 + 0.20 + 0.05 + 0.01 = 0.66 of one dense model
LEVELS = (0.6, 0.8, 0.95, 0.99)


class Ensemble(nn.Module):
    """Experts over the same input, which they take as each alone does.

    In eval mode the mean of their logits, [B, K]; in training all of them, [experts, B, K], for :func:`ensemble_loss`.
    """

    def __init__(self, experts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)

    def forward(self, *inputs: Tensor) -> Tensor:
        logits = torch.stack([expert(*inputs) for expert in self.experts])
        return logits if self.training else logits.mean(0)

    def set_epoch(self, epoch: float) -> None:
        """Begin an epoch of the experts' sparse generators."""
        for generator in self._generators():
            generator.set_epoch(epoch)

    def penalty(self) -> Tensor:
        """Sum of the penalties of the experts' sparse generators; to be added to the loss."""
        return torch.stack([generator.penalty() for generator in self._generators()]).sum()

    def bake(self) -> None:
        """Leave plain weights in all experts, zero where they are masked."""
        for expert in self.experts:
            sparse_generator.bake(expert)

    def _generators(self) -> list[sparse_generator.SparseGenerator]:
        found = [sparse_generator.generator_of(expert) for expert in self.experts]
        return [generator for generator in found if generator is not None]


def multi_level(
    make: Callable[[], nn.Module],
    levels: Sequence[float] = LEVELS,
    scope: sparse_generator.Scope = "block",
    warmup: int = 0,
    ramp: int = 0,
) -> Ensemble:
    """A fresh ensemble with a sparse generator in each expert.

    Args:
        make: a freshly initialised model.
        levels: final sparsity of each expert.
        scope, warmup, ramp: as for :func:`star_edge.compression.sparse_generator.attach`.
    """
    experts = [make() for _ in levels]
    for expert, sparsity in zip(experts, levels, strict=True):
        sparse_generator.attach(expert, sparsity, scope, warmup, ramp)
    return Ensemble(experts)


def ensemble_loss(logits: Tensor, loss: Callable[[Tensor], Tensor], weight: float = 1.0) -> Tensor:
    """Loss of the mean logits, and ``weight`` times that of each expert's own.

    Args:
        logits: [experts, B, K]. loss: of logits [B, K].
    """
    return loss(logits.mean(0)) + weight * torch.stack([loss(own) for own in logits]).sum()
