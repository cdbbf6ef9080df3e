"""``star-edge verify``: an engine beside the fp32 reference on a split, with accuracy gates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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

    path = find_bundle(bundle)
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
            hint="star-edge calibrate --method max"
            if all(result.precision == "int8" for result in missed)
            else "star-edge inspect " + str(path),
        )
    clips = f"{report.samples} {report.part} clips" + (f" of {report.available}" if report.samples < report.available else "")
    output.console.print(f"gates passed on {clips}: {written}; next: star-edge bench {path}", soft_wrap=True)


def show(report: VerifyReport, output: Output) -> None:
    """Two tables: the gates, and the agreement by clip length."""
    from rich.table import Table

    gates = Table(title=f"{report.split}, part {report.part}: {report.samples} clips against {report.reference}")
    for title in ("engine", "computed in", "top-1", "reference", "agreement (95 %)", "lost", "gained", "max |error|", "gate"):
        gates.add_column(title)
    for result in report.results:
        low, high = result.agreement_interval
        error = "not finite" if result.max_abs_err is None else f"{result.max_abs_err:.2e} ({result.relative_err:.1e})"
        gates.add_row(
            _name(result),
            "rounded to " + result.precision if result.engine == "torch" and result.precision != "fp32" else result.compute,
            f"{result.top1:.2%}",
            f"{result.reference_top1:.2%}",
            f"{result.agreement:.2%} ({low:.1%}-{high:.1%})",
            str(result.lost),
            str(result.gained),
            error,
            ("passed" if result.passed else "MISSED") + ("" if result.decides else ", not decisive"),
        )
    output.console.print(gates)
    lengths = Table("engine", *(f"{bucket.frames} rows" for bucket in report.results[0].buckets), title="agreement by length")
    for result in report.results:
        lengths.add_row(
            _name(result), *(f"{bucket.agreement:.1%} of {bucket.samples}, {bucket.verdict}" for bucket in result.buckets)
        )
    output.console.print(lengths)
    if report.part == "train":
        output.console.print("These clips were trained on: their accuracy says nothing about new ones.")


def _name(result: VerifyResult) -> str:
    return f"{result.engine} {result.precision}"


def _explain(result: VerifyResult) -> str:
    different = round((1 - result.agreement) * result.samples)
    text = f"{_name(result)}: {result.lost} lost, {result.gained} gained, {different} of {result.samples} clips different"
    return text + (f", {result.not_finite} not finite" if result.not_finite else "")
