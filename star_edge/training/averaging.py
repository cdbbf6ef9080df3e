"""Averaged weights: what a run validates and keeps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MovingAverage(AveragedModel):
    """Exponential moving average of a model's weights and of BatchNorm statistics that move; other buffers are the model's own.

    Statistics of the latest weights do not fit averaged ones: a Hyperformer answered a quarter of its val clips right with them that
    it knew three quarters of, until its steps had become small.

    Args:
        decay: of an average, a step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in what a step has made of the model."""
        averages = [statistic.clone() for statistic in _statistics(self.module)] if self.n_averaged else []
        super().update_parameters(model)  # copies every buffer
        for average, latest in zip(averages, _statistics(self.module), strict=False):
            latest.copy_(average.lerp(latest, 1 - self._decay))


def _statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances that follow the latest batches, as weights make them; not those over all batches ever seen."""
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    found = (statistic for norm in norms if norm.momentum is not None for statistic in (norm.running_mean, norm.running_var))
    return [statistic for statistic in found if statistic is not None]
