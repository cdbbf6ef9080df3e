"""A small padded model with one of everything that the padded models are made of, for tests of what is done with models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from star_edge.models.config import PaddedConfig
from star_edge.models.padded import LayerNorm, PaddedModel, softmax
from star_edge.skeletons import NTU25

CONFIG = PaddedConfig(25, 4, 5, NTU25.bones, NTU25.root, persons=2, frames=7, time="pad")


class SmallPadded(PaddedModel):
    """Convolution, BatchNorm, a product over joints, a convolution in time, a linear layer, LayerNorm and softmax."""

    def __init__(self, config: PaddedConfig = CONFIG) -> None:
        super().__init__(config, width=16)
        self.spatial = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16))
        self.adjacency = nn.Parameter(torch.randn(25, 25) / 5)
        self.temporal = nn.Sequential(nn.Conv2d(16, 16, (3, 1), (2, 1), (1, 0)), nn.BatchNorm2d(16), nn.ReLU())
        self.mixed, self.norm = nn.Linear(16, 16), LayerNorm(16)

    def encode(self, x: Tensor) -> Tensor:
        x = self.temporal(torch.relu(self.spatial(x) @ self.adjacency))
        y = self.norm(self.mixed(x.permute(0, 2, 3, 1)))
        return (softmax(y) * y).permute(0, 3, 1, 2)


def small_padded(seed: int = 0, config: PaddedConfig = CONFIG) -> SmallPadded:
    """A model in eval mode whose BatchNorms have seen something."""
    torch.manual_seed(seed)
    model = SmallPadded(config)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()
