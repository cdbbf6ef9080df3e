"""``star-edge compress lowrank``: two thin matrices in place of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from star_edge.cli.common import Output, common_options
from star_edge.cli.compress.options import LATENCY, check_out, timing, training_options
from star_edge.cli.compress.tables import add_accuracies, add_sizes, add_times, gain

if TYPE_CHECKING:
    from star_edge.compression.low_rank_checkpoint import LowRankReport, Policy


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--rank", type=click.IntRange(min=1), help="The same rank for every layer that it makes smaller.")
@click.option("--energy", type=click.FloatRange(0, 1, min_open=True),
              help="Share of the squared singular values that each layer keeps.")  # fmt: skip
@click.option("--params", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Share of the model's parameters that is left; layers that matter less on val clips give more.")  # fmt: skip
@click.option("--macs", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Share of the multiply-accumulates of layers that is left, given likewise.")  # fmt: skip
@click.option("--kernels", is_flag=True, help="Convolutions over several frames or joints as well, unfolded.")
@training_options("runs/lowrank", "Train on for so many epochs.")
@LATENCY
@common_options
def lowrank(
    checkpoint: Path,
    rank: int | None,
    energy: float | None,
    params: float | None,
    macs: float | None,
    kernels: bool,
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
    """Two thin matrices in place of one, by truncated SVD, where that is smaller: CHECKPOINT to runs/lowrank/ckpt.pt.

    One of --rank, --energy, --params and --macs says how small. The report has parameters, multiply-accumulates, bytes and
    latency before and after, and val accuracy before, after the cut and after fine-tuning.
    """
    from star_edge.cli.train import run_with_progress
    from star_edge.compression.judging import FineTuning
    from star_edge.compression.low_rank_checkpoint import compress_low_rank
    from star_edge.training.parallel import Group, device_of

    policy, target = _policy(rank, energy, params, macs)
    if epochs is None and (lr or distill or resume):
        raise click.UsageError("--lr, --distill and --resume belong to --finetune")
    check_out(out, resume, force)
    times = timing(latency, output)
    report = compress_low_rank(
        checkpoint,
        out,
        policy,
        target,
        data=data,
        split=split,
        kernels=kernels,
        tuning=FineTuning(epochs or 0, lr, distill, resume),
        seed=output.seed,
        group=Group(device=device_of(device)),
        say=output.console.print,
        run=lambda trainer: run_with_progress(trainer, output),
        time_engines=times,
    )
    output.document(report)
    _show(report, output)


def _policy(rank: int | None, energy: float | None, params: float | None, macs: float | None) -> tuple[Policy, float]:
    given: list[tuple[Policy, float | None]] = [("rank", rank), ("energy", energy), ("params", params), ("macs", macs)]
    asked = [(name, value) for name, value in given if value is not None]
    if len(asked) != 1:
        raise click.UsageError("say how small: one of --rank, --energy, --params and --macs")
    return asked[0]


def _show(report: LowRankReport, output: Output) -> None:
    from rich.table import Table

    table = Table("layer", "shape", "rank", "error", title=f"{len(report.layers)} layers of two factors")
    for layer in report.layers:
        outputs, inputs, groups = layer.shape
        shape = f"{outputs} x {inputs}" + (f", {groups} groups" if groups > 1 else "")
        table.add_row(layer.path, shape, str(layer.rank), f"{layer.error:.1%}")
    output.console.print(table)
    before, after = report.before, report.after
    sizes = Table("", "before", "after", "ratio")
    add_sizes(sizes, report)
    add_times(sizes, report)
    add_accuracies(sizes, report)
    output.console.print(sizes)
    output.console.print(gain(report), soft_wrap=True)
    if report.whole:
        output.console.print(f"left whole: {', '.join(report.whole)}")
    tuned = f", {report.epochs} epochs of fine-tuning" if report.epochs else ", not fine-tuned"
    output.console.print(
        f"{report.checkpoint}: {after.parameters / before.parameters:.0%} of the parameters{tuned}; "
        f"next: star-edge evaluate {report.checkpoint}, then star-edge export --fp16 {report.checkpoint}",
        soft_wrap=True,
    )
