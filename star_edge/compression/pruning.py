"""Lottery tickets: magnitude pruning in rounds, each of which goes back to early weights (Frankle and Carbin, arXiv 1803.03635).

A round trains the model under its masks, then removes the smallest of the trained weights that were left, and gives the others
the values back that they had at the beginning (or a little later: ``rewind`` is whatever state the caller kept).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from runtime.errors import InputError
from star_edge.compression.masks import Masks, Scope, largest


class Tickets:
    """The rounds of one search; knows of no training.

    ``while not tickets.finished:`` train ``tickets.start()`` under ``tickets.masks``, then ``tickets.prune(trained)``. The ticket
    is what ``start`` gives in the end; the last training is the caller's.

    Args:
        rewind: state dict that weights go back to.
        paths: modules whose weights are pruned.
        sparsity: share of these weights that the last round has removed.
        rounds: of pruning; each leaves the same share of what there was, (1 - sparsity)^(1 / rounds).
        scope: whether all weights are ranked together (``global``), or those of each layer alone.
    """

    def __init__(
        self,
        rewind: Mapping[str, Tensor],
        paths: Iterable[str],
        sparsity: float,
        rounds: int = 5,
        scope: Scope = "global",
    ) -> None:
        if not 0 < sparsity < 1 or rounds < 1:
            raise InputError(
                "no such search for tickets",
                found=f"sparsity {sparsity}, {rounds} rounds",
                expected="between 0 and 1, 1 or more",
            )
        self.rewind = {name: tensor.detach().clone() for name, tensor in rewind.items()}
        self.sparsity, self.rounds, self.scope = sparsity, rounds, scope
        self.round = 0
        self.masks: Masks = {path: torch.ones_like(self.rewind[f"{path}.weight"], dtype=torch.bool) for path in paths}

    @property
    def finished(self) -> bool:
        return self.round == self.rounds

    def sparsity_after(self, pruned: int) -> float:
        """Share of the weights that are gone after so many rounds."""
        left: float = (1 - self.sparsity) ** (pruned / self.rounds)
        return 1 - left

    def start(self) -> dict[str, Tensor]:
        """State dict to train from in this round: the rewound weights, zero where they are masked."""
        state = {name: tensor.clone() for name, tensor in self.rewind.items()}
        for path, mask in self.masks.items():
            state[f"{path}.weight"].masked_fill_(~mask, 0.0)
        return state

    def prune(self, trained: Mapping[str, Tensor]) -> None:
        """End a round: remove the smallest trained weights of those that are left."""
        if self.finished:
            raise InputError("the search for tickets is over", found=f"{self.round} rounds")
        self.round += 1
        # a weight that is gone ranks below one that was trained to zero, so that masks only ever lose
        sizes = {path: trained[f"{path}.weight"].detach().abs().masked_fill(~mask, -1.0) for path, mask in self.masks.items()}
        self.masks = largest(sizes, self.sparsity_after(self.round), self.scope)

    def state_dict(self) -> dict[str, Any]:
        """What changes, and what it began with: plain containers and tensors."""
        return {"round": self.round, "masks": self.masks, "rewind": self.rewind}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.round, self.masks, self.rewind = state["round"], dict(state["masks"]), dict(state["rewind"])
