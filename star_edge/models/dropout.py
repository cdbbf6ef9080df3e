"""Dropout whose mask is cheap on a CPU."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Elementwise dropout with probability rounded to 1/256; same result for the same ``torch.manual_seed``.

    torch draws CPU masks from one serial Mersenne twister: a third of a STAR training step. Random bytes from SFC64, seeded
    by one draw of torch's generator, take a tenth of that. Elsewhere than on a CPU this is ``torch.nn.Dropout``.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = round(self.p * 256)
        seed = int(torch.randint(2**62, ()))
        noise = bytearray(np.random.Generator(np.random.SFC64(seed)).bytes(x.numel()))
        kept = (torch.frombuffer(noise, dtype=torch.uint8) >= dropped).view(x.shape)
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))
