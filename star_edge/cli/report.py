"""``star-edge report``: one HTML page of what was measured, or of how bundles differ."""

from __future__ import annotations

from pathlib import Path

import click

from star_edge.cli.common import Output, common_options, find_bundle


@click.command()
@click.argument("bundles", metavar="[BUNDLE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False),
              help="The page; BUNDLE/reports/report.html, of several ./report.html, if left out.")  # fmt: skip
@click.option(
    "--data", type=click.Path(path_type=Path), help="Dataset to play clips of; the one recorded in BUNDLE if left out."
)
@click.option("--clips", type=click.IntRange(min=1, max=50), default=4, show_default=True, help="Clips to play.")
@common_options
def command(bundles: tuple[Path, ...], out: Path | None, data: Path | None, clips: int, output: Output) -> None:
    """Show what verify, bench, calibrate and analyze measured of BUNDLE, and play some clips, on one page without network.

    \b
    What was not measured is named with the command that measures it. Several bundles are compared with the first:
      star-edge report a.star b.star
    Exit code 0 also where the page says that a gate was missed: that gate is star-edge verify's.
    """
    from star_edge.report import make_page

    paths = bundles or (find_bundle(None),)
    report = make_page(paths, out, data=data, clips=clips)
    output.document(report)
    for entry in report.missing:
        output.console.print(f"{entry.report}: {entry.reason}; {entry.command}", soft_wrap=True, markup=False)
    missing = report.missing[0].command if report.missing else f"star-edge run {paths[0]} CLIP"
    output.console.print(
        f"{report.made}: {report.bytes / 1e6:.1f} MB, {', '.join(report.verdicts)}; next: {missing}",
        soft_wrap=True,
        markup=False,
    )
