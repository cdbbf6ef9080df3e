"""``star-edge compress sparse``: zeros in place of weights, or fewer channels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from star_edge.cli.common import Output, common_options
from star_edge.cli.compress.options import LATENCY, check_out, check_schedule, timing, training_options
from star_edge.cli.compress.tables import add_accuracies, add_sizes, add_times, gain

if TYPE_CHECKING:
    from star_edge.compression.sparse_checkpoint import SparseReport


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--method", type=click.Choice(["magnitude", "tickets", "generator"]), default="magnitude", show_default=True,
              help="magnitude: the smallest weights go at once; tickets: in rounds, each from the first weights again; "
                   "generator: scores learn which go, from a fresh model.")  # fmt: skip
@click.option("--pattern", type=click.Choice(["unstructured", "2:4", "channel"]), default="unstructured", show_default=True,
              help="2:4: two of each four inputs of an output stay, as sparse tensor cores take it; "
                   "channel: whole hidden channels go, and the layers around them get smaller.")  # fmt: skip
@click.option("--sparsity", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Share of the weights of inner layers, or of hidden channels, that goes; 2:4 is always a half.")  # fmt: skip
@click.option("--scope", type=click.Choice(["network", "layer"]), default="network", show_default=True,
              help="Where weights (channels, scores) are compared: in the whole network, or in each layer (block of a generator).")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Of tickets.")
@click.option(
    "--warmup", type=click.IntRange(min=0), default=0, show_default=True, help="Epochs of a generator without masks."
)
@click.option("--ramp", type=click.IntRange(min=0), default=0, show_default=True,
              help="Epochs of a generator in which the sparsity then rises.")  # fmt: skip
@training_options(
    "runs/sparse",
    "Train for so many epochs: under the masks, with fewer channels, in each round of tickets, or the generator.",
)
@LATENCY
@common_options
def sparse(
    checkpoint: Path,
    method: Literal["magnitude", "tickets", "generator"],
    pattern: Literal["unstructured", "2:4", "channel"],
    sparsity: float | None,
    scope: Literal["network", "layer"],
    rounds: int,
    warmup: int,
    ramp: int,
    epochs: int | None,
    lr: float | None,
    distill: bool,
    data: Path | None,
    split: str | None,
    device: Literal["auto", "cpu", "cuda"],
    out: Path,
    latency: Literal["torch", "engines"],
    resume: bool,
    force: bool,
    output: Output,
) -> None:
    """Zeros in place of weights that matter least, or fewer hidden channels: CHECKPOINT to runs/sparse/ckpt.pt.

    It is exported and run like any other. The report has bytes in dense and sparse forms (of fewer channels: parameters,
    multiply-accumulates and bytes), latency before and after, and val accuracy before, after the cut and after training.
    """
    from star_edge.cli.train import run_with_progress
    from star_edge.compression.judging import FineTuning
    from star_edge.compression.sparse_checkpoint import Asked, compress_sparse
    from star_edge.training.parallel import Group, device_of

    _check_sparse(method, pattern, sparsity, epochs, warmup, ramp)
    if epochs is None and (lr or distill or resume):
        raise click.UsageError("--lr, --distill and --resume belong to --finetune")
    check_out(out, resume, force)
    times = timing(latency, output)
    report = compress_sparse(
        checkpoint,
        out,
        Asked(method, pattern, sparsity or 0.5, scope, rounds, warmup, ramp),
        data=data,
        split=split,
        tuning=FineTuning(epochs or 0, lr, distill, resume),
        seed=output.seed,
        group=Group(device=device_of(device)),
        say=output.console.print,
        run=lambda trainer: run_with_progress(trainer, output),
        time_engines=times,
    )
    output.document(report)
    _show(report, output)


def _check_sparse(method: str, pattern: str, sparsity: float | None, epochs: int | None, warmup: int, ramp: int) -> None:
    if pattern == "2:4" and (method != "magnitude" or sparsity not in (None, 0.5)):
        raise click.UsageError("--pattern 2:4 goes with --method magnitude, and its sparsity is 0.5")
    if pattern == "channel" and method != "magnitude":
        raise click.UsageError("--pattern channel goes with --method magnitude")
    if pattern != "2:4" and sparsity is None:
        raise click.UsageError("Missing option '--sparsity'.")
    if method != "magnitude" and epochs is None:
        raise click.UsageError(f"--method {method} trains: say for how long with --finetune")
    if method != "generator" and (warmup or ramp):
        raise click.UsageError("--warmup and --ramp belong to --method generator")
    if method == "generator" and epochs is not None:
        check_schedule(warmup, ramp, epochs)


def _show(report: SparseReport, output: Output) -> None:
    from rich.table import Table

    dense = report.stored["dense"]
    if report.channels:
        title = f"{report.sparsity:.1%} of the hidden channels of {len(report.channels)} layers are gone"
        table = Table("", "before", "after", "ratio", title=title)
        for layer in report.channels:
            table.add_row(
                f"channels of {layer.path}", str(layer.before), str(layer.after), f"{layer.after / layer.before:.2f}"
            )
        add_sizes(table, report)
    else:
        table = Table(
            "", "dense", report.pattern, "ratio", title=f"{report.sparsity:.1%} of {len(report.layers)} layers are zero"
        )
        for form, size in report.stored.items():
            table.add_row(f"parameters as {form}, MB", f"{dense / 1e6:.2f}", f"{size / 1e6:.2f}", f"{size / dense:.2f}")
    add_times(table, report)
    add_accuracies(table, report)
    output.console.print(table)
    output.console.print(gain(report), soft_wrap=True)
    output.console.print(
        f"{report.checkpoint}: {report.of_model:.0%} of all parameters are {'gone' if report.channels else 'zero'}; "
        f"next: star-edge evaluate {report.checkpoint}, then star-edge export --fp16 {report.checkpoint}",
        soft_wrap=True,
    )
