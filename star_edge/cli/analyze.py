"""``star-edge analyze``: which layers INT8 harms, which it speeds up, and which should keep it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from star_edge.cli.common import Output, common_options, find_bundle

if TYPE_CHECKING:
    from rich.table import Table

    from calibration.report import SensitivityReport


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Dataset; the one the model was trained on if left out.")
@click.option("--split", help="Split scheme whose part val judges; the one recorded in the bundle if left out.")
@click.option("--samples", type=click.IntRange(min=1), help="Val clips to compare, drawn with --seed; all if left out.")
@click.option("--workload", default="1x300", show_default=True, help="The clip that is timed, CLIPSxFRAMES.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of a timed call; all usable cores if left out.")
@click.option("--rounds", type=click.IntRange(min=3), default=20, show_default=True, help="Timed calls of each graph.")
@click.option("--apply", is_flag=True, help="Put the chosen mix of INT8 and float layers into BUNDLE.")
@common_options
def command(
    bundle: Path | None,
    data: Path | None,
    split: str | None,
    samples: int | None,
    workload: str,
    threads: int | None,
    rounds: int,
    apply: bool,
    output: Output,
) -> None:
    """Measure INT8 layer by layer in a calibrated BUNDLE, and choose the layers that keep it.

    Each layer is put into INT8 alone, and left float alone, beside fp32 on val clips. Then layers whose INT8 saves no time
    here return to float, and, while the gate is missed on val, the one with the most harm per microsecond saved. Where
    float is as fast, "keep fp16 here" is the answer. Accuracy comes out the same every time; times are this machine's.

    Layers that were measured before, also by an interrupted run, are not measured again; only the choice is timed anew. The
    report is BUNDLE/reports/sensitivity.json; --apply puts the choice into BUNDLE.
    """
    from calibration.analyze import analyze_bundle

    def track(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
        return output.track(items, description, total)

    def say(text: str) -> None:
        output.console.print(text, soft_wrap=True, markup=False)

    path = find_bundle(bundle, folder_for="analyze")
    report = analyze_bundle(
        path,
        data,
        split=split,
        samples=samples,
        seed=output.seed,
        workload=workload,
        threads=threads or len(os.sched_getaffinity(0)),
        rounds=rounds,
        apply=apply,
        track=track,
        say=say,
    )
    output.document(report)
    output.console.print(layer_table(report))
    for line in summary(report, path):
        say(line)


def layer_table(report: SensitivityReport) -> Table:
    """One row a layer, the noisiest first: in INT8 alone, with all others in INT8, and the time its INT8 saves."""
    from rich.table import Table

    from calibration.mixed import kind_of
    from calibration.score import noise_share

    latency, decision = report.latency, report.decision
    assert latency is not None
    assert decision is not None
    title = f"{len(report.layers)} layers in INT8 alone, and INT8 without them, beside fp32 on {report.clips} val clips"
    table = Table(title=title)
    table.add_column("layer", no_wrap=True)
    for title in ("alone\ndB", "\nsame class", "without\ndB", "\nsame class", "saves\nus"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("stays")
    for layer in sorted(report.layers, key=lambda entry: -noise_share(entry.alone.sqnr_db)):
        table.add_row(
            layer.module,
            _decibel(layer.alone.sqnr_db),
            f"{layer.alone.agreement:.1%}",
            _decibel(layer.without.sqnr_db),
            f"{layer.without.agreement:.1%}",
            f"{latency.saved_us[kind_of(layer.module)]:+.1f}",
            "int8" if layer.module in decision.quantised else report.base,
        )
    return table


def summary(report: SensitivityReport, path: Path) -> list[str]:
    """The scores of the three graphs, the decision, and the next command."""
    decision = report.decision
    assert decision is not None
    lines = []
    for name, score in (
        (f"all {report.base}", report.float_score),
        ("all INT8", report.int8_score),
        ("chosen", decision.score),
    ):
        gate = "passed" if score.passed else "MISSED"
        lines.append(
            f"{name}: same class on {score.agreement:.2%}, lost {score.lost}, gained {score.gained}, SQNR {_decibel(score.sqnr_db)} dB,"
            f" gate on val {gate}"
        )
    if report.val_fitted:
        lines.append(
            "The model was trained on these val clips too: what it has right there says nothing, only INT8 beside fp32 does."
        )
    lines.append(decision.statement)
    if report.applied:
        lines.append(f"{path}: INT8 model replaced by the chosen one; next: star-edge verify {path} --precision int8")
    elif decision.keep in ("int8", "mixed"):
        lines.append(f"{path}: analyzed, INT8 model as it was; next: star-edge analyze {path} --apply")
    else:
        lines.append(f"{path}: analyzed, INT8 model as it was; next: star-edge run {path} --precision {decision.keep} CLIP")
    return lines


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
