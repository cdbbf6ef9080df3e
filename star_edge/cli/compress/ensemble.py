"""``star-edge compress ensemble``: several sparse models as one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from star_edge.cli.common import Output, common_options
from star_edge.cli.compress.options import check_out, check_schedule, training_options

if TYPE_CHECKING:
    from star_edge.compression.ensemble_checkpoint import EnsembleReport

PAPERS_LEVELS = "0.6,0.8,0.95,0.99"  # densities 0.40 + 0.20 + 0.05 + 0.01 = 0.66 (Sparse ST-GCN, arXiv 2505.10679)


def _levels(context: click.Context, parameter: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        levels = tuple(float(level) for level in text.split(","))
    except ValueError:
        raise click.BadParameter(f"'{text}' is no list of numbers.") from None
    if len(levels) < 2 or not all(0 < level < 1 for level in levels):
        raise click.BadParameter(f"'{text}' is not two or more sparsities between 0 and 1.")
    return levels


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--levels", callback=_levels, default=PAPERS_LEVELS, show_default=True,
              help="Share of the weights of inner layers that goes, in each expert; these leave 0.66 of one dense model's.")  # fmt: skip
@click.option("--scope", type=click.Choice(["network", "layer"]), default="layer", show_default=True,
              help="Where scores are compared: in a whole expert, or in each layer of STAR, each block of another model.")  # fmt: skip
@click.option("--warmup", type=click.IntRange(min=0), default=0, show_default=True, help="Epochs without masks.")
@click.option("--ramp", type=click.IntRange(min=0), default=0, show_default=True,
              help="Epochs in which the sparsity then rises.")  # fmt: skip
@training_options("runs/ensemble", "Train the experts for so many epochs, from nothing.", required=True)
@common_options
def ensemble(
    checkpoint: Path,
    levels: tuple[float, ...],
    scope: Literal["network", "layer"],
    warmup: int,
    ramp: int,
    epochs: int,
    lr: float | None,
    distill: bool,
    data: Path | None,
    split: str | None,
    device: Literal["auto", "cpu", "cuda"],
    out: Path,
    resume: bool,
    force: bool,
    output: Output,
) -> None:
    """Several sparse models whose logits are averaged, trained together: CHECKPOINT to runs/ensemble/ckpt.pt.

    CHECKPOINT says what they look like and how they are trained; its weights are not used. The report has each expert's
    parameters and val accuracy, all that is left beside one dense model, bytes in sparse forms, and eager PyTorch's latency.
    """
    from star_edge.cli.train import run_with_progress
    from star_edge.compression.ensemble_checkpoint import compress_ensemble
    from star_edge.compression.judging import FineTuning
    from star_edge.training.parallel import Group, device_of
    from star_edge.training.sparse import Schedule

    check_schedule(warmup, ramp, epochs)
    check_out(out, resume, force)
    report = compress_ensemble(
        checkpoint,
        out,
        Schedule(levels, scope, warmup, ramp),
        data=data,
        split=split,
        tuning=FineTuning(epochs, lr, distill, resume),
        seed=output.seed,
        group=Group(device=device_of(device)),
        run=lambda trainer: run_with_progress(trainer, output),
    )
    output.document(report)
    _show(report, output)


def _show(report: EnsembleReport, output: Output) -> None:
    from rich.table import Table

    before, after, number = report.before, report.after, len(report.experts)
    rows = [("dense", 0.0, before.parameters, before.top1)]
    rows += [(f"expert {index}", one.sparsity, one.parameters, one.top1) for index, one in enumerate(report.experts)]
    rows += [("ensemble", 1 - report.of_dense / number, sum(one.parameters for one in report.experts), after.top1)]
    experts = Table("", "masked", "parameters left", "of one dense", f"val top-1 of {report.validation_clips}")
    for name, sparsity, parameters, top1 in rows:
        share, accuracy = parameters / before.parameters, "-" if top1 is None else f"{top1:.1%}"
        experts.add_row(name, f"{sparsity:.1%}", f"{parameters:,}", f"{share:.2f}", accuracy)
    output.console.print(experts)
    sizes = Table("", "one dense", "ensemble", "ratio")
    for form, size in report.stored.items():
        dense = 4 * before.parameters
        sizes.add_row(f"parameters as {form}, MB", f"{dense / 1e6:.2f}", f"{size / 1e6:.2f}", f"{size / dense:.2f}")
    for what, one, all_ in (
        ("MMAC of layers, 1x300", before.macs / 1e6, after.macs / 1e6),
        ("eager PyTorch, ms, 1x300", before.torch_ms, after.torch_ms),
    ):
        sizes.add_row(what, f"{one:,.1f}", f"{all_:,.1f}", f"{all_ / one:.2f}")
    output.console.print(sizes)
    output.console.print(
        f"masks save no time by themselves: the ensemble costs as many dense multiplications as {number} dense models, "
        f"one for each expert, though {report.of_dense:.2f} of one's masked weights are left",
        soft_wrap=True,
    )
    output.console.print(
        f"{report.checkpoint}: {number} experts; "
        f"next: star-edge evaluate {report.checkpoint}, then star-edge export --fp16 {report.checkpoint}",
        soft_wrap=True,
    )
