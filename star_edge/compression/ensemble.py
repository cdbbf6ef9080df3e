"""Multi-level ensembles: how sparse the experts are, and what they are trained with (Sparse ST-GCN, arXiv 2505.10679)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# densities 0.40 + 0.20 + 0.05 + 0.01 = 0.66 of one dense model
LEVELS = (0.6, 0.8, 0.95, 0.99)


def ensemble_loss(logits: Tensor, loss: Callable[[Tensor], Tensor], weight: float = 1.0) -> Tensor:
    """Loss of the mean logits, and ``weight`` times that of each expert's own.

    Args:
        logits: [experts, B, K]. loss: of logits [B, K].
    """
    return loss(logits.mean(0)) + weight * torch.stack([loss(own) for own in logits]).sum()
