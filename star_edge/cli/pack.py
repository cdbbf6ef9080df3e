"""``star-edge pack``: a bundle as one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from runtime.archive import SUFFIX
from runtime.errors import InputError
from star_edge.cli.common import Output, common_options, find_bundle

if TYPE_CHECKING:
    from star_edge.pack import PackReport


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to make, or folder with --unpack; BUNDLE's name, here, if left out."
)
@click.option("--clips", type=click.Path(path_type=Path), help="Also pack test clips of this dataset, or .npz file.")
@click.option(
    "--samples", type=click.IntRange(min=1), default=128, show_default=True, help="Clips to pack, drawn with --seed."
)
@click.option("--split", help="Split scheme whose part test is packed; the one recorded in BUNDLE if left out.")
@click.option("--reports", is_flag=True, help="Also pack the reports made from BUNDLE as it is.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@click.option("--unpack", is_flag=True, help="Make the folder of a packed BUNDLE again.")
@common_options
def command(
    bundle: Path | None,
    out: Path | None,
    clips: Path | None,
    samples: int,
    split: str | None,
    reports: bool,
    force: bool,
    unpack: bool,
    output: Output,
) -> None:
    """Make one file of BUNDLE (default: the only *.star here), which run and inspect read as it is.

    \b
    In it are the bundle's files with their hashes, a bill of materials (CycloneDX 1.5), and test clips for a
    board if wanted:
      star-edge pack --clips dataset
      star-edge run x.star.zip --clips
    """
    from star_edge.pack import pack_bundle, unpack_bundle

    _check_usage(unpack, clips)
    if unpack:
        report = unpack_bundle(_packed(bundle), out)
    else:
        path = find_bundle(bundle, folder_for="pack")
        report = pack_bundle(
            path, out, clips=clips, split=split, samples=samples, seed=output.seed, reports=reports, force=force
        )
    output.document(report)
    for line in summary(report, unpack):
        output.console.print(line, soft_wrap=True, markup=False)


def summary(report: PackReport, unpacked: bool) -> list[str]:
    """What was made, in lines for people; the last one names it and the next command."""
    lines = [f"{name}: a report of another state of the bundle, left out" for name in report.outdated]
    if report.clips and report.terms:
        lines.append(f"The packed clips stay under the terms of their recordings: {report.terms}")
    clips = f", {report.clips} test clips" if report.clips else ""
    step = (
        f"star-edge inspect {report.made}"
        if unpacked
        else f"star-edge run {report.made} --{'clips' if clips else 'self-test'}"
    )
    return [*lines, f"{report.made}: {report.bytes / 1e6:.1f} MB, {len(report.files)} files{clips}; next: {step}"]


def _check_usage(unpack: bool, clips: Path | None) -> None:
    """Raise UsageError for options that have no effect together."""
    source = click.get_current_context().get_parameter_source
    given = {name for name in ("clips", "samples", "split", "reports", "force") if source(name) is not ParameterSource.DEFAULT}
    if unpack and given:
        raise click.UsageError(f"--{min(given)} belongs to packing, not to --unpack")
    alone = given & {"samples", "split"}
    if alone and clips is None:
        raise click.UsageError(f"--{min(alone)} belongs to --clips")


def _packed(path: Path | None) -> Path:
    """The given file, or the only ``*.star.zip`` in the working directory."""
    if path is not None:
        return path
    found = sorted(Path().glob(f"*{SUFFIX}"))
    if len(found) == 1:
        return found[0]
    raise InputError(
        "no packed bundle here" if not found else "several packed bundles here; name one",
        where=Path.cwd(),
        found=", ".join(p.name for p in found) or f"no *{SUFFIX}",
        expected=f"exactly one *{SUFFIX}, or its path as an argument",
        hint="star-edge pack" if not found else f"add {found[0].name} to the command",
    )
