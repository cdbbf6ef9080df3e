"""A short training that torchrun starts in several processes: MODEL RECIPE.json OUT [STOP], after so many epochs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from runtime.clip import Clip
from star_edge.skeletons import NITE15
from star_edge.training.checkpoint import DataEntry
from star_edge.training.loop import Epoch, Task, Trainer
from star_edge.training.parallel import join
from star_edge.training.recipe import get_recipe


def made_up_task() -> Task:
    """Eleven clips of three classes, of 3 to 30 rows."""
    rng = np.random.default_rng(0)
    labels = np.arange(11) % 3
    clips = []
    for label in labels:
        rows = int(rng.integers(3, 31))
        joints = rng.normal(0.0, 0.1, (rows, 15, 3)) + np.linspace(0.1, 1, 15)[:, None]
        joints[:, 5 + label] += 1
        clips.append(Clip(joints.astype(np.float32), (rows,)))
    return Task(clips, labels, clips[:5], labels[:5], NITE15, ("a", "b", "c"), DataEntry("nowhere", "made up", "xsub"))


def train(model: str, recipe: str, out: Path, stop: int | None = None) -> None:
    group = join("cpu")
    trainer = Trainer(made_up_task(), model, get_recipe(recipe, model), out, seed=3, group=group)
    if (out / "last.pt").exists():
        trainer.resume()

    def on_epoch(epoch: Epoch) -> None:
        if epoch.number == stop:
            group.leave()
            raise SystemExit

    trainer.run(on_epoch)
    group.leave()


if __name__ == "__main__":
    train(*sys.argv[1:3], Path(sys.argv[3]), *map(int, sys.argv[4:]))
