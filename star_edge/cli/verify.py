"""``star-edge verify``: an engine beside the fp32 reference on a split, with accuracy gates."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from runtime.errors import GateError
from runtime.manifest import PRECISIONS
from star_edge.cli.common import Output, common_options, find_bundle
from star_edge.engines import DEFAULT_ENGINE, ENGINES, OTHER_DEFAULT_ENGINE

if TYPE_CHECKING:
    from rich.table import Table

    from star_edge.verification import VerifyReport, VerifyResult
    from star_edge.verification.layers import LayersReport

_SHOWS_LAYERS = "onnxruntime"


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--engine",
    type=click.Choice(list(ENGINES)),
    help=f"Default: {DEFAULT_ENGINE}, {OTHER_DEFAULT_ENGINE} for padded models and ensembles; with --layers {_SHOWS_LAYERS}.",
)
@click.option("--precision", type=click.Choice(["all", *PRECISIONS]), default="all", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="Dataset; the training source recorded in BUNDLE if left out.")
@click.option("--split", help="Split scheme; the one BUNDLE was trained under if left out.")
@click.option("--part", type=click.Choice(["test", "val", "train"]), default="test", show_default=True)
@click.option("--clips", "own_clips", is_flag=True, help="Use the clips that star-edge pack --clips put into BUNDLE.")
@click.option("--samples", type=click.IntRange(min=1), help="Compare so many clips, drawn with --seed; all if left out.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of one call; default: all usable cores.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Of the engine native; cuda: an NVIDIA GPU.")
@click.option("--layers", is_flag=True, help="Compare every module's output, on the clip whose logits are furthest apart.")
@click.option("--bisect", is_flag=True, help="With --layers: look only at what a search for the first bad module needs.")
@click.option("--case", type=click.Path(path_type=Path), help="With --layers: the clip of an earlier comparison.")
@common_options
def command(
    bundle: Path | None,
    engine: str | None,
    precision: str,
    data: Path | None,
    split: str | None,
    part: str,
    own_clips: bool,
    samples: int | None,
    threads: int | None,
    device: str | None,
    layers: bool,
    bisect: bool,
    case: Path | None,
    output: Output,
) -> None:
    """Compare BUNDLE's engine with the fp32 PyTorch reference on the same clips.

    \b
    fp32, fp16, bf16 keep 99.9 % of the reference's accuracy and 99.5 % of its answers; int8 99 % and 98 %.
    A gate missed ends with exit code 3. The report is written to BUNDLE/reports/verify.json. A packed BUNDLE is
    compared on the clips in it, and its report is only shown: --json to keep it.

    With --layers, every module's output is compared instead (of one precision: --precision, else the bundle's default), the
    first one further off than the precision allows is named, and the clip is kept for --case.
    """
    if own_clips:
        _refuse_beside("--clips", ("data", "split", "part", "layers"))
    if layers:
        if device is not None:
            raise click.UsageError("--device does not belong to --layers, which shows what the processor computes")
        if case is not None:
            _refuse_beside("--case", ("data", "split", "part", "samples"))
        wanted = None if precision == "all" else precision
        path = find_bundle(bundle, folder_for="verify")
        _layers(path, data, split, part, engine or _SHOWS_LAYERS, wanted, samples, threads, bisect, case, output)
        return
    if bisect or case is not None:
        raise click.UsageError(f"--{'bisect' if bisect else 'case'} belongs to --layers")
    from star_edge.verification import verify_bundle

    path = find_bundle(bundle)
    if path.is_file():
        _refuse_beside("a packed bundle", ("split", "part"))
    report = verify_bundle(
        path,
        data,
        split=split,
        part=part,
        own_clips=own_clips,
        engine=engine,
        precisions=None if precision == "all" else [precision],
        samples=samples,
        seed=output.seed,
        threads=threads,
        device=device,
        track=output.track,
    )
    output.document(report)
    show(report, output)
    written = f"{path}, which keeps no report" if path.is_file() else path / "reports" / "verify.json"
    if not report.passed:
        missed = [result for result in report.results if not result.passed]
        raise GateError(
            "the accuracy gate is missed",
            where=written,
            found="; ".join(_explain(result) for result in missed),
            expected="; ".join(
                f"{_name(result)}: at most {result.allowed_losses} net lost, {result.allowed_disagreements} different"
                for result in missed
            ),
            hint="star-edge calibrate --method best"
            if all(result.precision == "int8" for result in missed)
            else "star-edge inspect " + str(path),
        )
    clips = f"{report.samples} {report.part} clips" + (f" of {report.available}" if report.samples < report.available else "")
    step = f"star-edge run {path} CLIP" if path.is_file() else f"star-edge bench {path}"
    output.console.print(f"gates passed on {clips}: {written}; next: {step}", soft_wrap=True)


def _refuse_beside(option: str, others: tuple[str, ...]) -> None:
    """Raise UsageError for other options that choose clips: with ``option`` they are chosen already."""
    source = click.get_current_context().get_parameter_source
    given = [name for name in others if source(name) is not ParameterSource.DEFAULT]
    if given:
        raise click.UsageError(f"--{given[0]} chooses clips, and {option} has chosen them already")


def _layers(
    path: Path,
    data: Path | None,
    split: str | None,
    part: str,
    engine: str,
    precision: str | None,
    samples: int | None,
    threads: int | None,
    bisect: bool,
    case: Path | None,
    output: Output,
) -> None:
    from star_edge.verification.layers import compare_layers

    report = compare_layers(
        path,
        data,
        split=split,
        part=part,
        engine=engine,
        precision=precision,
        samples=samples,
        seed=output.seed,
        threads=threads or len(os.sched_getaffinity(0)),
        bisect=bisect,
        case=case,
    )
    output.document(report)
    output.console.print(_layer_table(report))
    again = (
        f"star-edge verify {path} --layers --engine {engine} --precision {report.contender.split()[1]} --case {report.case}"
    )
    if report.first_bad is not None:
        raise GateError(
            f"{report.contender} leaves the reference at '{report.first_bad}'",
            where=f"clip {report.clip}, {report.rows} rows",
            expected=f"an SQNR of at least {-20 * math.log10(report.tolerance):.0f} dB for this precision",
            hint=again,
        )
    output.console.print(
        f"every output compared has an SQNR of at least {-20 * math.log10(report.tolerance):.0f} dB; the same again: {again}",
        soft_wrap=True,
    )


def _layer_table(report: LayersReport) -> Table:
    """One row a module that was compared."""
    from rich.table import Table

    table = Table(title=f"{report.contender} beside {report.reference} on clip {report.clip}, {report.rows} rows")
    table.add_column("module", no_wrap=True)
    for title in ("max abs", "relative", "cosine", "SQNR dB"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for layer in report.layers:
        table.add_row(
            layer.module,
            "not finite" if layer.max_abs_err is None else f"{layer.max_abs_err:.1e}",
            "-" if layer.relative_err is None else f"{layer.relative_err:.1e}",
            "-" if layer.cosine is None else f"{layer.cosine:.6f}",
            "-" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f}",
            "BAD" if layer.bad else "",
        )
    return table


def show(report: VerifyReport, output: Output) -> None:
    """Two tables: the gates, and the agreement by clip length."""
    from rich import box
    from rich.table import Table

    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "title_justify": "left"}
    gates = Table(title=f"{report.split}, part {report.part}: {report.samples} clips against {report.reference}", **style)
    gates.add_column("engine", no_wrap=True)
    for title in ("top-1", "of fp32", "agreement\n95 %", "lost", "gained", "relative error"):
        gates.add_column(title, justify="right")
    gates.add_column("gate")
    for result in report.results:
        low, high = result.agreement_interval
        gates.add_row(
            _name(result),
            f"{result.top1:.2%}",
            f"{result.reference_top1:.2%}",
            f"{result.agreement:.2%}\n{100 * low:.1f}-{100 * high:.3g}",
            str(result.lost),
            str(result.gained),
            "not finite" if result.relative_err is None else f"{result.relative_err:.1e}",
            "passed" if result.passed else "MISSED",
        )
    output.console.print(gates)
    lengths = Table(title="agreement by clip length", **style)
    lengths.add_column("engine", no_wrap=True)
    for bucket in report.results[0].buckets:
        lengths.add_column(f"{bucket.frames} rows")
    for result in report.results:
        cells = (f"{bucket.agreement:.1%} of {bucket.samples}\n{bucket.verdict}" for bucket in result.buckets)
        lengths.add_row(_name(result), *cells)
    output.console.print(lengths)
    for result in report.results:
        if not result.decides:
            output.console.print(
                f"{_name(result)} is computed in {result.compute} here: what {result.precision} arithmetic does is decided by "
                f"torch {result.precision}, which rounds every tensor to it.",
                soft_wrap=True,
            )
    if report.part == "train":
        output.console.print("These clips were trained on: their accuracy says nothing about new ones.")


def _name(result: VerifyResult) -> str:
    return f"{result.engine} {result.precision}"


def _explain(result: VerifyResult) -> str:
    different = round((1 - result.agreement) * result.samples)
    text = f"{_name(result)}: {result.lost} lost, {result.gained} gained, {different} of {result.samples} clips different"
    return text + (f", {result.not_finite} not finite" if result.not_finite else "")
