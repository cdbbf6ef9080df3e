"""The runs behind the papers' tables: what is trained, compressed, and from what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SEEDS = (0, 1, 2)
FRAMES = 64  # that padded models bring clips to; NW-UCLA's median is 31, its longest 201
EPOCHS = 40  # of the padded models; STAR takes the recipe's 60
LIGHT = {"--frames": 32, "--epochs": 30, "--finetune": 30}  # at most, of padded models where there is no GPU


class Run(NamedTuple):
    """One chain of commands.

    Attributes:
        name: KIND/SEED, its folder. first: arguments of the command that makes ckpt.pt; ``{NAME}`` stands for the checkpoint of that run.
        needs: names of runs whose checkpoints it begins with.
        epochs: option of ``first`` that says for how long.
    """

    name: str
    first: tuple[str, ...]
    needs: tuple[str, ...] = ()
    epochs: str = "--epochs"

    def steps(
        self, data: Path, out: Path, device: str, epochs: int | None = None, amp: str | None = None
    ) -> Iterator[list[str]]:
        """Arguments of each command: the one that makes the checkpoint, and the test.

        ``amp`` is of training alone: a compressed model goes on in the precision of the one it begins with.
        """
        known = {name: str(out / name / "ckpt.pt") for name in self.needs}
        first = [part.format(**known) if part.startswith("{") else part for part in self.first]
        if epochs is not None:
            first += [self.epochs, str(epochs)]
        if amp is not None and first[0] == "train":
            first += ["--amp", amp]
        seed = self.name.rsplit("/", 1)[1]
        common = ["--data", str(data), "--device", device]
        yield [*first, *common, "--seed", seed, "--out", str(out / self.name)]
        yield ["evaluate", str(out / self.name / "ckpt.pt"), *common]


def trained(kind: str, model: str, *options: str, seeds: tuple[int, ...] = SEEDS, needs: tuple[str, ...] = ()) -> list[Run]:
    """A model trained from nothing, once a seed."""
    own = () if model.startswith("star") else ("--frames", str(FRAMES), "--epochs", str(EPOCHS))
    return [Run(f"{kind}/{seed}", ("train", "--model", model, *own, *options), needs) for seed in seeds]


def compressed(kind: str, base: str, *options: str, epochs: int = 20, seeds: tuple[int, ...] = SEEDS) -> list[Run]:
    """A compressed model from each seed's checkpoint of a trained one, fine-tuned."""
    own = ("--finetune", str(epochs), "--force")
    return [
        Run(
            f"{kind}/{seed}",
            ("compress", options[0], f"{{{base}/{seed}}}", *options[1:], *own),
            (f"{base}/{seed}",),
            "--finetune",
        )
        for seed in seeds
    ]


def light(run: Run) -> Run:
    """The same run of a padded model with what a CPU can train in an hour."""

    def named(name: str) -> str:
        kind, seed = name.rsplit("/", 1)
        return f"{kind}-light/{seed}"

    known = {f"{{{name}}}": f"{{{named(name)}}}" for name in run.needs}
    first = [known.get(part, part) for part in run.first]
    for option, most in LIGHT.items():
        if option in first:
            place = first.index(option) + 1
            first[place] = str(min(int(first[place]), most))
    return Run(named(run.name), tuple(first), tuple(map(named, run.needs)), run.epochs)


RECIPES = Path(__file__).parent / "recipes"
PADDED = ("st-gcn", "st-gcn++", "shift-gcn", "ctr-gcn", "aagcn", "dg-stgcn", "s-tr", "t-tr", "st-tr", "hyperformer")
GENERATOR = ("--method", "generator", "--scope", "layer", "--sparsity", "0.95", "--warmup", "10")
TEACHER = "star-64-full/0"  # the highest mean on val of what was trained with three seeds

# the first seed of every model before the others, so that a run which is stopped has a row of each
RUNS: tuple[Run, ...] = (
    *trained("star-64", "star-64"),
    *trained("star-128", "star-128", seeds=(0,)),
    *(run for model in PADDED for run in trained(model, model, seeds=(0,))),
    *trained("star-64-full", "star-64", "--attention", "full"),
    *trained("star-64-taught", "star-64", "--teacher", "{" + TEACHER + "}", needs=(TEACHER,)),
    *trained("star-64-strong", "star-64", "--recipe", str(RECIPES / "star_strong.json")),
    *trained("star-64-regular", "star-64", "--recipe", str(RECIPES / "star_regular.json")),
    *(run for model in ("st-gcn", "ctr-gcn") for run in trained(model, model, seeds=(1, 2))),
    *compressed("hyperformer-lowrank", "hyperformer", "lowrank", "--params", "0.5", seeds=(0,)),
    *compressed("star-128-lowrank", "star-128", "lowrank", "--params", "0.5", seeds=(0,)),
    *compressed("star-64-lowrank", "star-64", "lowrank", "--params", "0.5"),
    *compressed("star-64-two-of-four", "star-64-taught", "sparse", "--pattern", "2:4"),
    *compressed("star-64-channel", "star-64", "sparse", "--pattern", "channel", "--sparsity", "0.5"),
    *compressed("st-gcn-sparse", "st-gcn", "sparse", "--sparsity", "0.95", epochs=EPOCHS),
    *compressed("st-gcn-generator", "st-gcn", "sparse", *GENERATOR, epochs=EPOCHS),
    *compressed("st-gcn-ensemble", "st-gcn", "ensemble", "--warmup", "10", epochs=EPOCHS),
)
LIGHT_RUNS: tuple[Run, ...] = tuple(light(run) for run in RUNS if run.name.startswith(PADDED))
