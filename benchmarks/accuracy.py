"""Accuracy of STAR on recordings, from training to the test split, as one resumable command.

    python benchmarks/accuracy.py nw_ucla DATA/nw_ucla.npz --split xsub
    python benchmarks/accuracy.py sbu DATA/sbu_interaction.npz --split fold0 --split fold1 ...

For each split: train on train and val with ``benchmarks/recipes/NAME.json`` to its last epoch, read test once, and append the
figures to ``benchmarks/results/accuracy-NAME.json``. Choices belong on val (``--fit train``: the same command
trains on train alone and reads val instead of test; its figures go to ``accuracy-NAME-val.json``).
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import click
import msgspec
import torch

from runtime.errors import GateError
from runtime.files import sha256_of, write_atomic
from star_edge.bench.host import read_host
from star_edge.bench.report import Host
from star_edge.data import Dataset, open_dataset
from star_edge.training.checkpoint import build_from_checkpoint, load_checkpoint
from star_edge.training.evaluate import model_logits
from star_edge.training.loop import Task, Trainer
from star_edge.training.recipe import Recipe, get_recipe

HERE = Path(__file__).parent
_TRIES = 3  # learning rates tried where training learns nothing


class SplitResult(msgspec.Struct, frozen=True):
    """Clips read, and how many of them the model named right.

    Attributes:
        lr: of the run; half of the recipe's, or less, where training with it had learned nothing half-way (loss on fitted clips).
        seconds: of the last call; what an interrupted one had trained before is not in it.
    """

    split: str
    part: str
    fitted: tuple[str, ...]
    fit_clips: int
    clips: int
    correct: int
    top1: float
    seconds: float
    checkpoint_sha256: str
    lr: float


class AccuracyReport(msgspec.Struct, frozen=True):
    """All splits of one data set; ``top1`` counts the clips of all splits together."""

    data: str
    data_sha256: str
    model: str
    seed: int
    recipe: Recipe
    command: str
    host: Host
    results: tuple[SplitResult, ...]
    correct: int
    clips: int
    top1: float
    schema: str = "star-edge/accuracy/1"


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    recipe = get_recipe(arguments.recipe or str(HERE / "recipes" / f"{arguments.name}.json"), epochs=arguments.epochs)
    dataset = open_dataset(arguments.data)
    fitted = tuple(arguments.fit.split("+"))
    part = "test" if "val" in fitted else "val"
    tags = [arguments.name, *([recipe.name] if arguments.recipe else []), *(["val"] if part == "val" else [])]
    path = HERE / "results" / f"accuracy-{'-'.join(tags)}.json"
    results: list[SplitResult] = []
    for split in arguments.split or [dataset.meta.default_split]:
        results.append(_run(dataset, split, fitted, part, recipe, arguments))
        correct, clips = sum(r.correct for r in results), sum(r.clips for r in results)
        report = AccuracyReport(
            data=dataset.meta.name,
            data_sha256=dataset.meta.sha256,
            model=arguments.model,
            seed=arguments.seed,
            recipe=recipe,
            command=shlex.join(["python", sys.argv[0], *(Path(word).name if "/" in word else word for word in sys.argv[1:])]),
            host=read_host(),
            results=tuple(results),
            correct=correct,
            clips=clips,
            top1=correct / clips,
        )
        write_atomic(path, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        click.echo(f"{split} {part}: {results[-1].top1:.2%}; together {report.top1:.2%} of {clips} clips -> {path}")


def _run(
    dataset: Dataset, split: str, fitted: tuple[str, ...], part: str, recipe: Recipe, arguments: argparse.Namespace
) -> SplitResult:
    started = time.monotonic()
    lr, out = _train(dataset, split, fitted, recipe, arguments)
    saved = load_checkpoint(out / "ckpt.pt")
    indices = dataset.indices(split, part)
    clips = dataset.clips(indices)
    logits = model_logits(build_from_checkpoint(saved), clips, saved.skeleton, saved.features)
    correct = int((logits.argmax(1) == dataset.labels[indices]).sum())
    return SplitResult(
        split=split,
        part=part,
        fitted=fitted,
        fit_clips=sum(len(dataset.indices(split, name)) for name in fitted),
        clips=len(clips),
        correct=correct,
        top1=correct / len(clips),
        seconds=round(time.monotonic() - started, 1),
        checkpoint_sha256=sha256_of(out / "ckpt.pt"),
        lr=lr,
    )


def _train(
    dataset: Dataset, split: str, fitted: tuple[str, ...], recipe: Recipe, arguments: argparse.Namespace
) -> tuple[float, Path]:
    """Train, or go on training; the learning rate and the run's folder.

    A run that learns nothing, whose steps were too large for its data, is begun again with half the learning rate.
    """
    for halvings in range(_TRIES):
        lr = recipe.lr / 2**halvings
        name = f"{arguments.name}-{recipe.name}-{split}-{arguments.fit}-seed{arguments.seed}"
        out = arguments.out / (name if halvings == 0 else f"{name}-lr{lr:g}")
        task = Task.of(dataset, split, fitted)
        trainer = Trainer(task, arguments.model, msgspec.structs.replace(recipe, lr=lr), out, arguments.seed)
        if (out / "last.pt").exists():
            trainer.resume()
        try:
            trainer.run(click.echo)
        except GateError as error:
            click.echo(f"{split}, lr {lr:g}: {error}")
        else:
            return lr, out
    raise SystemExit(f"{split}: nothing was learned in {_TRIES} tries")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="names the recipe and the result")
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", action="append", help="split scheme, several times for several")
    parser.add_argument("--fit", choices=["train", "train+val"], default="train+val")
    parser.add_argument("--recipe", help="a named recipe or file in place of recipes/NAME.json, e.g. paper")
    parser.add_argument("--epochs", type=int, help="in place of the recipe's")
    parser.add_argument("--model", default="star-64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--out", type=Path, default=Path("runs/accuracy"), help="folder of the runs; an interrupted one goes on"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
