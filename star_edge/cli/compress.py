"""``star-edge compress``: a smaller model from a trained checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.errors import InputError
from star_edge.cli.common import Output, common_options

if TYPE_CHECKING:
    from star_edge.compression.low_rank_checkpoint import LowRankReport, Policy


@click.group()
def command() -> None:
    """Make a smaller checkpoint from a trained one: export, calibrate and run it like any other.

    \b
    star-edge compress lowrank ckpt.pt --params 0.5 --finetune 20
    """


@command.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--rank", type=click.IntRange(min=1), help="The same rank for every layer that it makes smaller.")
@click.option("--energy", type=click.FloatRange(0, 1, min_open=True),
              help="Share of the squared singular values that each layer keeps.")  # fmt: skip
@click.option("--params", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Share of the model's parameters that is left; layers that matter less on val clips give more.")  # fmt: skip
@click.option("--macs", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Share of the multiply-accumulates of layers that is left, given likewise.")  # fmt: skip
@click.option("--kernels", is_flag=True, help="Convolutions over several frames or joints as well, unfolded.")
@click.option("--finetune", "epochs", type=click.IntRange(min=1), metavar="EPOCHS", help="Train on for so many epochs.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Largest learning rate of --finetune.")
@click.option("--distill", is_flag=True, help="Learn from CHECKPOINT's answers, too, in --finetune.")
@click.option("--data", type=click.Path(path_type=Path), help="Dataset; the one the checkpoint was trained on if left out.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/lowrank"), show_default=True,
              help="Folder for ckpt.pt and, with --finetune, last.pt.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue the interrupted fine-tuning in --out.")
@click.option("--force", is_flag=True, help="Replace what is in --out.")
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
    out: Path,
    resume: bool,
    force: bool,
    output: Output,
) -> None:
    """Two thin matrices in place of one, by truncated SVD, where that is smaller: CHECKPOINT to runs/lowrank/ckpt.pt.

    One of --rank, --energy, --params and --macs says how small. The report has parameters, multiply-accumulates, bytes and eager
    PyTorch's latency before and after, and val accuracy before, after the cut and after fine-tuning.
    """
    from star_edge.cli.train import run_with_progress
    from star_edge.compression.low_rank_checkpoint import FineTuning, compress_low_rank

    policy, target = _policy(rank, energy, params, macs)
    if epochs is None and (lr or distill or resume):
        raise click.UsageError("--lr, --distill and --resume belong to --finetune")
    existing = [name for name in ("ckpt.pt", "last.pt") if (out / name).exists()]
    if existing and not (resume or force):
        raise InputError(
            "something is already there",
            where=out,
            found=", ".join(existing),
            hint="--resume to continue fine-tuning, --force to replace it, or another --out",
        )
    report = compress_low_rank(
        checkpoint,
        out,
        policy,
        target,
        data=data,
        kernels=kernels,
        tuning=FineTuning(epochs or 0, lr, distill, resume),
        seed=output.seed,
        say=output.console.print,
        run=lambda trainer: run_with_progress(trainer, output),
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
    for name, one, two, form in (
        ("parameters", before.parameters, after.parameters, "{:,.0f}"),
        ("MMAC of layers, 1x300", before.macs / 1e6, after.macs / 1e6, "{:,.1f}"),
        ("checkpoint, MB", before.bytes / 1e6, after.bytes / 1e6, "{:.2f}"),
        ("eager PyTorch, ms, 1x300", before.torch_ms, after.torch_ms, "{:.1f}"),
    ):
        sizes.add_row(name, form.format(one), form.format(two), f"{two / one:.2f}")
    if before.top1 is not None and after.top1 is not None and report.cut_top1 is not None:
        sizes.add_row(f"val top-1 of {report.validation_clips}", f"{before.top1:.1%}", f"{after.top1:.1%}", "")
        if report.epochs:
            sizes.add_row("  before fine-tuning", "", f"{report.cut_top1:.1%}", "")
    output.console.print(sizes)
    if report.whole:
        output.console.print(f"left whole: {', '.join(report.whole)}")
    tuned = f", {report.epochs} epochs of fine-tuning" if report.epochs else ", not fine-tuned"
    output.console.print(
        f"{report.checkpoint}: {after.parameters / before.parameters:.0%} of the parameters{tuned}; "
        f"next: star-edge evaluate {report.checkpoint}, then star-edge export --fp16 {report.checkpoint}",
        soft_wrap=True,
    )
