"""``star-edge calibrate``: ranges from training clips, and the INT8 model made from them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from star_edge.cli.common import Output, common_options, find_bundle

if TYPE_CHECKING:
    from rich.table import Table

    from calibration.report import CalibrateReport


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--samples", type=click.IntRange(min=1), default=512, show_default=True, help="Training clips to calibrate with."
)
@click.option("--method", type=click.Choice(["entropy", "max", "mse", "percentile", "trained", "best"]),
              show_default="trained where the bundle has such ranges, else mse",
              help="How a range is taken; best: all of them, chosen on val clips.")  # fmt: skip
@click.option("--percentile", type=click.FloatRange(50, 100, min_open=True), default=99.99, show_default=True,
              help="Per cent of the values that method percentile keeps.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), help="Dataset; the one the model was trained on if left out.")
@click.option("--split", help="Split scheme whose part train is used; the one recorded in the bundle if left out.")
@common_options
def command(
    bundle: Path | None,
    samples: int,
    method: Literal["entropy", "max", "mse", "percentile", "trained", "best"] | None,
    percentile: float,
    data: Path | None,
    split: str | None,
    output: Output,
) -> None:
    """Add calibrated INT8 to BUNDLE (default: the only *.star here).

    Ranges come from training clips, an equal share of every class from its shortest clip to its longest, one clip at a
    time. Clips that the model is judged by are refused.

    \b
    max         the largest magnitude seen
    percentile  a share of the values, see --percentile
    entropy     where 8 bits keep the distribution best (least KL divergence)
    mse         where rounding inside and clipping outside lose least
    trained     what star-edge train --qat settled on; mse for the rest
    """
    given = click.get_current_context().get_parameter_source("percentile") is not ParameterSource.DEFAULT
    if given and method not in ("percentile", "best"):
        raise click.UsageError("--percentile belongs to --method percentile or best")
    from calibration.calibrate import calibrate_bundle

    def track(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
        return output.track(items, description, total)

    def say(text: str) -> None:  # never wrapped, so that it can be searched; no markup, because paths may hold brackets
        output.console.print(text, soft_wrap=True, markup=False)

    report = calibrate_bundle(
        find_bundle(bundle, folder_for="calibrate"),
        data,
        samples=samples,
        method=method,
        percentile=percentile,
        split=split,
        seed=output.seed,
        track=track,
        say=say,
    )
    output.document(report)
    if report.scores:
        output.console.print(score_table(report))
        if report.val_fitted:
            say("The model was trained on these val clips too: their top-1 says nothing, the rest compares INT8 with fp32.")
    for line in summary(report):
        say(line)


def score_table(report: CalibrateReport) -> Table:
    """Every method on val clips, the best first."""
    from rich.table import Table

    table = Table(title=f"INT8 beside fp32 on {report.scores[0].samples} val clips; {report.method} is taken")
    table.add_column("method", no_wrap=True)
    for title in ("top-1", "fp32", "same class", "lost", "gained", "SQNR dB"):
        table.add_column(title, justify="right")
    table.add_column("gate")
    for score in report.scores:
        table.add_row(
            score.method,
            f"{score.top1:.2%}",
            f"{score.reference_top1:.2%}",
            f"{score.agreement:.2%}",
            str(score.lost),
            str(score.gained),
            "-" if score.sqnr_db is None else f"{score.sqnr_db:.1f}",
            "passed" if score.passed else "MISSED",
        )
    return table


def summary(report: CalibrateReport) -> list[str]:
    """What was made, in lines for people; the last one names the bundle and the next command."""
    kept: dict[str, list[str]] = {}
    for module, reason in report.left_float.items():
        kept.setdefault(reason, []).append(module.rpartition(".")[2])
    agreement = report.agreement
    return [
        f"{report.ranges} ranges by {report.method} in {report.seconds:.0f} s; {len(report.quantised)} layers in INT8 over "
        f"{report.base}: {report.qdq['QuantizeLinear']} QuantizeLinear, {report.qdq['DequantizeLinear']} DequantizeLinear",
        *(f"  {len(modules):>2} x {'/'.join(sorted(set(modules)))} stays {reason}" for reason, modules in kept.items()),
        f"On {agreement.clips} of these clips INT8 agrees with fp32 on {agreement.agreement:.1%}, logits within "
        f"{agreement.relative_err:.2%} of the largest; information only, the gate is star-edge verify",
        f"{report.bundle}: INT8 added, {report.files['model.int8.onnx'] / 1e6:.1f} MB; next: star-edge verify {report.bundle}",
    ]
