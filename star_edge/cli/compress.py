"""``star-edge compress``: a smaller model from a trained checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from runtime.errors import InputError
from star_edge.cli.common import Output, common_options

Function = TypeVar("Function", bound=Callable[..., Any])

if TYPE_CHECKING:
    from rich.table import Table

    from star_edge.compression.ensemble_checkpoint import EnsembleReport
    from star_edge.compression.judging import EngineTimes
    from star_edge.compression.low_rank_checkpoint import LowRankReport, Policy
    from star_edge.compression.sparse_checkpoint import SparseReport


@click.group()
def command() -> None:
    """Make a smaller checkpoint from a trained one: export, calibrate and run it like any other.

    \b
    star-edge compress lowrank ckpt.pt --params 0.5 --finetune 20
    star-edge compress sparse ckpt.pt --sparsity 0.9 --finetune 20
    star-edge compress sparse ckpt.pt --pattern channel --sparsity 0.5 --finetune 20
    star-edge compress ensemble ckpt.pt --finetune 100
    """


_NOT_RUN = "cannot run it"
PAPERS_LEVELS = "0.6,0.8,0.95,0.99"  # densities 0.40 + 0.20 + 0.05 + 0.01 = 0.66 (Sparse ST-GCN, arXiv 2505.10679)
_FASTER = 0.9  # less is within what times vary by
_LATENCY = click.option("--latency", type=click.Choice(["torch", "engines"]), default="torch", show_default=True,
                        help="What is timed before and after; engines: ONNX Runtime and native as well, which takes two exports.")  # fmt: skip


def _timing(latency: str, output: Output) -> Callable[[Path, Path], tuple[EngineTimes, ...]]:
    """Times engines where that is asked for; what it needs is missed now, not after hours of training."""
    if latency == "torch":
        return lambda before, after: ()
    from star_edge.compression.latency import engine_times

    return functools.partial(engine_times, say=output.console.print)


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
@training_options("runs/lowrank", "Train on for so many epochs.")
@_LATENCY
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
    _check_out(out, resume, force)
    timing = _timing(latency, output)
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
        time_engines=timing,
    )
    output.document(report)
    _show(report, output)


def _check_out(out: Path, resume: bool, force: bool) -> None:
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
    _add_sizes(sizes, report)
    _add_times(sizes, report)
    _add_accuracies(sizes, report)
    output.console.print(sizes)
    output.console.print(_gain(report), soft_wrap=True)
    if report.whole:
        output.console.print(f"left whole: {', '.join(report.whole)}")
    tuned = f", {report.epochs} epochs of fine-tuning" if report.epochs else ", not fine-tuned"
    output.console.print(
        f"{report.checkpoint}: {after.parameters / before.parameters:.0%} of the parameters{tuned}; "
        f"next: star-edge evaluate {report.checkpoint}, then star-edge export --fp16 {report.checkpoint}",
        soft_wrap=True,
    )


def _add_sizes(table: Table, report: LowRankReport | SparseReport) -> None:
    before, after = report.before, report.after
    for name, one, two, form in (
        ("parameters", before.parameters, after.parameters, "{:,.0f}"),
        ("MMAC of layers, 1x300", before.macs / 1e6, after.macs / 1e6, "{:,.1f}"),
        ("checkpoint, MB", before.bytes / 1e6, after.bytes / 1e6, "{:.2f}"),
    ):
        table.add_row(name, form.format(one), form.format(two), f"{two / one:.2f}")


def _add_times(table: Table, report: LowRankReport | SparseReport) -> None:
    for name, before, after in _times(report):
        one, two = (_NOT_RUN if ms is None else f"{ms:.1f}" for ms in (before, after))
        table.add_row(f"{name}, ms, 1x300", one, two, f"{after / before:.2f}" if before and after else "")


def _add_accuracies(table: Table, report: LowRankReport | SparseReport) -> None:
    before, after = report.before, report.after
    if before.top1 is None or after.top1 is None:
        return
    table.add_row(f"val top-1 of {report.validation_clips}", f"{before.top1:.1%}", f"{after.top1:.1%}", "")
    if report.epochs and report.cut_top1 is not None:
        table.add_row("  before fine-tuning", "", f"{report.cut_top1:.1%}", "")


def _times(report: LowRankReport | SparseReport) -> list[tuple[str, float | None, float | None]]:
    """Name, and milliseconds before and after, of each engine that was asked to run both."""
    rest = ((each.engine, each.before_ms, each.after_ms) for each in report.engines)
    return [("eager PyTorch", report.before.torch_ms, report.after.torch_ms), *rest]


def _gain(report: LowRankReport | SparseReport) -> str:
    """Whether time is gained, from the fastest way before to the fastest after."""
    times = _times(report)
    before, engine = min((one, name) for name, one, _ in times if one is not None)
    after, other = min((two, name) for name, _, two in times if two is not None)
    verdict = f"{1 - after / before:.0%} of the time are gained" if after < _FASTER * before else "no time is gained"
    found = f"{verdict}: {before:.1f} ms before ({engine}), {after:.1f} ms after ({other})"
    return found if report.engines else f"{found}; --latency engines times ONNX Runtime and the native engine, too"


@command.command()
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
@_LATENCY
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
    _check_out(out, resume, force)
    timing = _timing(latency, output)
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
        time_engines=timing,
    )
    output.document(report)
    _show_sparse(report, output)


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
        _check_schedule(warmup, ramp, epochs)


def _check_schedule(warmup: int, ramp: int, epochs: int) -> None:
    if warmup + max(1, ramp) > epochs:
        raise click.UsageError(f"--warmup and --ramp leave none of the {epochs} epochs at the full sparsity")


def _show_sparse(report: SparseReport, output: Output) -> None:
    from rich.table import Table

    dense = report.stored["dense"]
    if report.channels:
        title = f"{report.sparsity:.1%} of the hidden channels of {len(report.channels)} layers are gone"
        table = Table("", "before", "after", "ratio", title=title)
        for layer in report.channels:
            table.add_row(
                f"channels of {layer.path}", str(layer.before), str(layer.after), f"{layer.after / layer.before:.2f}"
            )
        _add_sizes(table, report)
    else:
        table = Table(
            "", "dense", report.pattern, "ratio", title=f"{report.sparsity:.1%} of {len(report.layers)} layers are zero"
        )
        for form, size in report.stored.items():
            table.add_row(f"parameters as {form}, MB", f"{dense / 1e6:.2f}", f"{size / 1e6:.2f}", f"{size / dense:.2f}")
    _add_times(table, report)
    _add_accuracies(table, report)
    output.console.print(table)
    output.console.print(_gain(report), soft_wrap=True)
    output.console.print(
        f"{report.checkpoint}: {report.of_model:.0%} of all parameters are {'gone' if report.channels else 'zero'}; "
        f"next: star-edge evaluate {report.checkpoint}, then star-edge export --fp16 {report.checkpoint}",
        soft_wrap=True,
    )


def _levels(context: click.Context, parameter: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        levels = tuple(float(level) for level in text.split(","))
    except ValueError:
        raise click.BadParameter(f"'{text}' is no list of numbers.") from None
    if len(levels) < 2 or not all(0 < level < 1 for level in levels):
        raise click.BadParameter(f"'{text}' is not two or more sparsities between 0 and 1.")
    return levels


@command.command()
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

    _check_schedule(warmup, ramp, epochs)
    _check_out(out, resume, force)
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
    _show_ensemble(report, output)


def _show_ensemble(report: EnsembleReport, output: Output) -> None:
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
