"""``star-edge compress``: a smaller model from a trained checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from runtime.errors import InputError
from star_edge.cli.common import Output, common_options

if TYPE_CHECKING:
    from star_edge.compression.low_rank_checkpoint import LowRankReport, Policy
    from star_edge.compression.sparse_checkpoint import SparseReport


@click.group()
def command() -> None:
    """Make a smaller checkpoint from a trained one: export, calibrate and run it like any other.

    \b
    star-edge compress lowrank ckpt.pt --params 0.5 --finetune 20
    star-edge compress sparse ckpt.pt --sparsity 0.9 --finetune 20
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
@click.option("--split", help="Split scheme; the checkpoint's if left out, or the dataset's default if it names none.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
              help="Where --finetune trains; auto: a GPU where there is one.")  # fmt: skip
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
    split: str | None,
    device: Literal["auto", "cpu", "cuda"],
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
    from star_edge.compression.judging import FineTuning
    from star_edge.compression.low_rank_checkpoint import compress_low_rank
    from star_edge.training.parallel import Group, device_of

    policy, target = _policy(rank, energy, params, macs)
    if epochs is None and (lr or distill or resume):
        raise click.UsageError("--lr, --distill and --resume belong to --finetune")
    _refuse_to_replace(out, resume, force)
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
    )
    output.document(report)
    _show(report, output)


def _refuse_to_replace(out: Path, resume: bool, force: bool) -> None:
    existing = [name for name in ("ckpt.pt", "last.pt") if (out / name).exists()]
    if existing and not (resume or force):
        raise InputError(
            "something is already there",
            where=out,
            found=", ".join(existing),
            hint="--resume to continue training, --force to replace it, or another --out",
        )


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


@command.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--method", type=click.Choice(["magnitude", "tickets", "generator"]), default="magnitude", show_default=True,
              help="magnitude: the smallest weights go at once; tickets: in rounds, each from the first weights again; "
                   "generator: scores learn which go, from a fresh model.")  # fmt: skip
@click.option("--pattern", type=click.Choice(["unstructured", "2:4"]), default="unstructured", show_default=True,
              help="2:4: two of each four inputs of an output stay, as sparse tensor cores take it.")  # fmt: skip
@click.option("--sparsity", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Share of the weights of inner layers that goes; 2:4 is always a half.")  # fmt: skip
@click.option("--scope", type=click.Choice(["network", "layer"]), default="network", show_default=True,
              help="Where weights (scores) are compared: in the whole network, or in each layer (block of a generator).")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Of tickets.")
@click.option(
    "--warmup", type=click.IntRange(min=0), default=0, show_default=True, help="Epochs of a generator without masks."
)
@click.option("--ramp", type=click.IntRange(min=0), default=0, show_default=True,
              help="Epochs of a generator in which the sparsity then rises.")  # fmt: skip
@click.option("--finetune", "epochs", type=click.IntRange(min=1), metavar="EPOCHS",
              help="Train for so many epochs: under the masks, in each round of tickets, or the generator.")  # fmt: skip
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Largest learning rate of --finetune.")
@click.option("--distill", is_flag=True, help="Learn from CHECKPOINT's answers, too, in --finetune.")
@click.option("--data", type=click.Path(path_type=Path), help="Dataset; the one the checkpoint was trained on if left out.")
@click.option("--split", help="Split scheme; the checkpoint's if left out, or the dataset's default if it names none.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
              help="Where --finetune trains; auto: a GPU where there is one.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/sparse"), show_default=True,
              help="Folder for ckpt.pt and, with --finetune, last.pt.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue the interrupted training in --out.")
@click.option("--force", is_flag=True, help="Replace what is in --out.")
@common_options
def sparse(
    checkpoint: Path,
    method: Literal["magnitude", "tickets", "generator"],
    pattern: Literal["unstructured", "2:4"],
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
    resume: bool,
    force: bool,
    output: Output,
) -> None:
    """Zeros in place of weights that matter least: CHECKPOINT to runs/sparse/ckpt.pt, exported and run like any other.

    The report has bytes in dense and sparse forms, eager PyTorch's latency before and after, and val accuracy before, after
    the cut and after training.
    """
    from star_edge.cli.train import run_with_progress
    from star_edge.compression.judging import FineTuning
    from star_edge.compression.sparse_checkpoint import Asked, compress_sparse
    from star_edge.training.parallel import Group, device_of

    _check_sparse(method, pattern, sparsity, epochs, warmup, ramp)
    if epochs is None and (lr or distill or resume):
        raise click.UsageError("--lr, --distill and --resume belong to --finetune")
    _refuse_to_replace(out, resume, force)
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
    )
    output.document(report)
    _show_sparse(report, output)


def _check_sparse(method: str, pattern: str, sparsity: float | None, epochs: int | None, warmup: int, ramp: int) -> None:
    if pattern == "2:4" and (method != "magnitude" or sparsity not in (None, 0.5)):
        raise click.UsageError("--pattern 2:4 goes with --method magnitude, and its sparsity is 0.5")
    if pattern != "2:4" and sparsity is None:
        raise click.UsageError("Missing option '--sparsity'.")
    if method != "magnitude" and epochs is None:
        raise click.UsageError(f"--method {method} trains: say for how long with --finetune")
    if method != "generator" and (warmup or ramp):
        raise click.UsageError("--warmup and --ramp belong to --method generator")
    if method == "generator" and epochs is not None and warmup + max(1, ramp) > epochs:
        raise click.UsageError(f"--warmup and --ramp leave none of the {epochs} epochs at the full sparsity")


def _show_sparse(report: SparseReport, output: Output) -> None:
    from rich.table import Table

    before, after = report.before, report.after
    table = Table("", "dense", report.pattern, "ratio", title=f"{report.sparsity:.1%} of {len(report.layers)} layers are zero")
    for form, size in report.stored.items():
        dense = report.stored["dense"]
        table.add_row(f"parameters as {form}, MB", f"{dense / 1e6:.2f}", f"{size / 1e6:.2f}", f"{size / dense:.2f}")
    ratio = after.torch_ms / before.torch_ms
    table.add_row("eager PyTorch, ms, 1x300", f"{before.torch_ms:.1f}", f"{after.torch_ms:.1f}", f"{ratio:.2f}")
    if before.top1 is not None and after.top1 is not None:
        table.add_row(f"val top-1 of {report.validation_clips}", f"{before.top1:.1%}", f"{after.top1:.1%}", "")
        if report.epochs and report.cut_top1 is not None:
            table.add_row("  before fine-tuning", "", f"{report.cut_top1:.1%}", "")
    output.console.print(table)
    output.console.print(
        "only eager PyTorch was timed, which multiplies zeros like any other number; other engines: star-edge export, then star-edge bench",
        soft_wrap=True,
    )
    output.console.print(
        f"{report.checkpoint}: {report.of_model:.0%} of all parameters are zero; "
        f"next: star-edge evaluate {report.checkpoint}, then star-edge export --fp16 {report.checkpoint}",
        soft_wrap=True,
    )
