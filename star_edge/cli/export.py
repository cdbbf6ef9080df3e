"""``star-edge export``: checkpoint to bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from star_edge.cli.common import Output, common_options

if TYPE_CHECKING:
    from rich.table import Table

    from star_edge.export import ExportReport


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--fp16", is_flag=True, help="Also write an fp16 model and make it the default.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Bundle to make; CHECKPOINT's name with .star, here, if left out."
)
@click.option("--force", is_flag=True, help="Replace a bundle that exists.")
@common_options
def command(checkpoint: Path, fp16: bool, out: Path | None, force: bool, output: Output) -> None:
    """Write the bundle of CHECKPOINT: canonical ONNX, weights and golden clips, compared with it on odd inputs first."""
    from star_edge.export import export_checkpoint

    target = out or Path(f"{checkpoint.stem}.star")
    report = export_checkpoint(
        checkpoint, target, fp16=fp16, force=force, progress=lambda step: output.console.print(step, markup=False)
    )
    output.document(report)
    output.console.print(_parity_table(report))
    output.console.print(
        f"{target}: {report.bytes / 1e6:.1f} MB, {' and '.join(report.precisions)}, parity passed "
        f"({len(report.parity)} checks); next: star-edge calibrate --samples 512",
        markup=False,
        soft_wrap=True,
    )


def _parity_table(report: ExportReport) -> Table:
    """Cases by engine and precision; the figures are relative errors."""
    from rich.table import Table

    table = Table(title="parity with the checkpoint: error relative to the largest logit", title_justify="left")
    table.add_column("odd input")
    table.add_column("frames", justify="right")
    columns = list(dict.fromkeys((result.engine, result.precision) for result in report.parity))
    for engine, precision in columns:
        table.add_column(f"{engine}\n{precision}", justify="right")
    for case in dict.fromkeys(result.case for result in report.parity):
        results = {(result.engine, result.precision): result for result in report.parity if result.case == case}
        frames = next(iter(results.values())).frames
        table.add_row(case, f"{frames:,}", *(f"{results[column].error:.1e}" for column in columns))
    limits = [next(r.tolerance for r in report.parity if r.precision == precision) for _, precision in columns]
    table.add_section()
    table.add_row("allowed", "", *(f"{limit:.0e}" for limit in limits))
    return table
