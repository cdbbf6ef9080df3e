"""What the subcommands of ``star-edge compress`` have in common: options, and what is refused before any work."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runtime.errors import InputError
from star_edge.cli.common import Output

if TYPE_CHECKING:
    from star_edge.compression.judging import EngineTimes

Function = TypeVar("Function", bound=Callable[..., Any])

LATENCY = click.option("--latency", type=click.Choice(["torch", "engines"]), default="torch", show_default=True,
                        help="What is timed before and after; engines: ONNX Runtime and native as well, which takes two exports.")  # fmt: skip


def training_options(out: str, epochs: str, required: bool = False) -> Callable[[Function], Function]:
    """Options of what trains a checkpoint into a smaller one; ``epochs`` says what --finetune is for."""
    options = (
        click.option("--finetune", "epochs", type=click.IntRange(min=1), metavar="EPOCHS", required=required, help=epochs),
        click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Largest learning rate of --finetune."),
        click.option("--distill", is_flag=True, help="Learn from CHECKPOINT's answers, too, in --finetune."),
        click.option("--data", type=click.Path(path_type=Path),
                     help="Dataset; the one the checkpoint was trained on if left out."),
        click.option("--split", help="Split scheme; the checkpoint's if left out, or the dataset's default if it names none."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
                     help="Where models are trained and judged; auto: a GPU where there is one."),
        click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path(out), show_default=True,
                     help="Folder for ckpt.pt and, with --finetune, last.pt."),
        click.option("--resume", is_flag=True, help="Continue the interrupted training in --out."),
        click.option("--force", is_flag=True, help="Replace what is in --out."),
    )  # fmt: skip

    def add(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def timing(latency: str, output: Output) -> Callable[[Path, Path], tuple[EngineTimes, ...]]:
    """Times engines where that is asked for; what it needs is missed now, not after hours of training."""
    if latency == "torch":
        return lambda before, after: ()
    from star_edge.compression.latency import engine_times

    return functools.partial(engine_times, say=output.console.print)


def check_out(out: Path, resume: bool, force: bool) -> None:
    """Refuse to replace what is there, and to continue where nothing was interrupted: that would begin anew, and replace it too."""
    if resume and not any(out.glob("**/last.pt")):
        raise InputError(
            "there is no interrupted training to continue",
            where=out,
            found="no last.pt",
            hint="begin without --resume, or name the folder of that training with --out",
        )
    existing = [path.name for pattern in ("ckpt.pt", "last.pt", "round-*") for path in sorted(out.glob(pattern))]
    if existing and not (resume or force):
        raise InputError(
            "something is already there",
            where=out,
            found=", ".join(existing),
            hint="--resume to continue training, --force to replace it, or another --out",
        )


def check_schedule(warmup: int, ramp: int, epochs: int) -> None:
    if warmup + max(1, ramp) > epochs:
        raise click.UsageError(f"--warmup and --ramp leave none of the {epochs} epochs at the full sparsity")
