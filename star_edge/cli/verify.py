"""``star-edge verify``: an engine beside the fp32 reference on a split, with accuracy gates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.errors import GateError
from runtime.manifest import PRECISIONS
from star_edge.cli.common import Output, common_options, find_bundle
from star_edge.engines import ENGINES

if TYPE_CHECKING:
    from star_edge.verification import VerifyReport, VerifyResult


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--engine", type=click.Choice(list(ENGINES)), default="onnxruntime", show_default=True)
@click.option("--precision", type=click.Choice(["all", *PRECISIONS]), default="all", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="Dataset; the training source recorded in BUNDLE if left out.")
@click.option("--split", help="Split scheme; the one BUNDLE was trained under if left out.")
@click.option("--part", type=click.Choice(["test", "val", "train"]), default="test", show_default=True)
@click.option("--samples", type=click.IntRange(min=1), help="Compare so many clips, drawn with --seed; all if left out.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of one call; default: all usable cores.")
@common_options
def command(
    bundle: Path | None,
    engine: str,
    precision: str,
    data: Path | None,
    split: str | None,
    part: str,
    samples: int | None,
    threads: int | None,
    output: Output,
) -> None:
    """Compare BUNDLE's engine with the fp32 PyTorch reference on the same clips.

    \b
    fp32, fp16, bf16 keep 99.9 % of the reference's accuracy and 99.5 % of its answers; int8 99 % and 98 %.
    A gate missed ends with exit code 3. The report is written to BUNDLE/reports/verify.json.
    """
    from star_edge.verification import verify_bundle

    path = find_bundle(bundle, folder_for="verify")
    report = verify_bundle(
        path,
        data,
        split=split,
        part=part,
        engine=engine,
        precisions=None if precision == "all" else [precision],
        samples=samples,
        seed=output.seed,
        threads=threads,
        track=output.track,
    )
    output.document(report)
    show(report, output)
    written = path / "reports" / "verify.json"
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
    output.console.print(f"gates passed on {clips}: {written}; next: star-edge bench {path}", soft_wrap=True)


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
