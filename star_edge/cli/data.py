"""``star-edge data``: convert recordings to a packed dataset folder, and say what is in one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from star_edge.cli.common import Output, common_options

if TYPE_CHECKING:
    from star_edge.data.report import DataReport

_SHOWN = 10  # skipped recordings listed for people; --json has all


@click.group()
def command() -> None:
    """Convert recordings to a packed dataset folder, or describe one.

    \b
    star-edge data convert nturgb+d_skeletons/ ntu60 --skip-list missing.txt
    star-edge data convert nw_ucla.npz nw_ucla
    star-edge data convert ntu60_hrnet.pkl ntu60_2d
    star-edge data info nw_ucla
    """


@command.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--split", help="Default split of the dataset; see `star-edge data info`.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="all cores",
    help="Processes that read files.",
)
@click.option("--skip-list", type=click.Path(path_type=Path), help="Text file with recordings to leave out, one name a line.")
@click.option(
    "--on-error", type=click.Choice(["skip", "fail"]), default="skip", show_default=True, help="What a bad recording does."
)
@click.option("--skeleton", metavar="NAME|FILE", help="Layout of the joints, where the source cannot tell.")
@click.option(
    "--to-skeleton", metavar="NAME|FILE", help="Bring the joints to this layout; those it lacks counterparts for are lost."
)
@click.option("--min-frames", type=click.IntRange(min=1), default=1, show_default=True,
              help="Recordings with fewer frames of a body count as incomplete.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a dataset folder of that name.")
@common_options
def convert(
    source: Path,
    out: Path,
    split: str | None,
    workers: int,
    skip_list: Path | None,
    on_error: Literal["skip", "fail"],
    skeleton: str | None,
    to_skeleton: str | None,
    min_frames: int,
    force: bool,
    output: Output,
) -> None:
    """Convert SOURCE to the dataset folder OUT.

    SOURCE is a folder of NTU RGB+D .skeleton files, of NW-UCLA or Kinetics-skeleton .json files, or of .npy files in one
    sub-folder a class (with --skeleton); an .npz file; or a PYSKL .pkl file, from which nothing is run.

    The folder appears when it is complete. After Ctrl-C, a kill or a full disk the same command goes on where it ended. Recordings that cannot be used are skipped by list or by what is found in
    them (no body in any frame, wrong joint count, truncated, too short), counted, and recorded with their reason.
    """
    from star_edge.data.convert import convert as convert_source
    from star_edge.data.convert import read_skip_list
    from star_edge.data.dataset import Dataset
    from star_edge.data.report import describe

    def track(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
        return output.track(items, description, total)

    convert_source(
        source,
        out,
        split=split,
        workers=workers,
        skip=read_skip_list(skip_list) if skip_list else (),
        on_error=on_error,
        skeleton=skeleton,
        to_skeleton=to_skeleton,
        min_frames=min_frames,
        force=force,
        track=track,
    )
    report = describe(Dataset.open(out))
    _print(report, output)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    output.console.print(f"{out}: {report.clips} clips, {size:.1f} MB. next: star-edge train --data {out}", soft_wrap=True)


@command.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--skeleton", metavar="NAME|FILE", help="Layout of the joints, where the source cannot tell.")
@common_options
def info(path: Path, skeleton: str | None, output: Output) -> None:
    """Say what is in PATH: a dataset folder, or recordings that `star-edge data convert` takes.

    Reads every joint: a dataset folder that changed since its conversion is refused (exit code 4).
    """
    from star_edge.data.convert import open_dataset
    from star_edge.data.report import describe

    def track(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
        return output.track(items, description, total)

    dataset = open_dataset(path, skeleton=skeleton, track=track)
    report = describe(dataset)
    _print(report, output)
    following = f"star-edge train --data {path}" if dataset.path else f"star-edge data convert {path} {path.stem}"
    output.console.print(f"{path}: {report.clips} clips, undamaged. Next: {following}", soft_wrap=True)


def _print(report: DataReport, output: Output) -> None:
    from rich.table import Table

    output.document(report)
    lengths = ", ".join(f"{name} {value}" for name, value in report.frames_per_person.items())
    persons = ", ".join(f"{clips} with {count}" for count, clips in report.persons.items())
    left_out = f"{report.dropped_rows} rows and {report.dropped_persons} persons left out"
    reasons = "".join(f"; {reason}: {count}" for reason, count in report.skipped_by_reason.items())
    facts = {
        "set": f"{report.name} ({report.source})",
        "terms": report.terms,
        "skeleton": f"{report.skeleton}, {report.joints} joints",
        "clips": f"{report.clips}, {report.rows} rows; persons: {persons}",
        "frames": f"{lengths}; {report.fps or 'unknown'} frames per second",
        "classes": ", ".join(f"{entry.name} {entry.clips}" for entry in report.classes if entry.clips),
        "subjects": f"{len(report.subjects)}: {', '.join(map(str, report.subjects))}" if report.subjects else "unknown",
        "lost": f"{report.lost_joints} joints ({report.lost_share:.2%}); {left_out}",
        "skipped": f"{len(report.skipped)}{reasons}",
    }
    table = Table(show_header=False, box=None)
    for label, value in facts.items():
        table.add_row(label, value)
    output.console.print(table)
    for entry in report.skipped[:_SHOWN]:
        output.console.print(
            f"  {entry.file}: {entry.reason}" + (f" ({entry.detail})" if entry.detail else ""), soft_wrap=True
        )
    if len(report.skipped) > _SHOWN:
        output.console.print(f"  and {len(report.skipped) - _SHOWN} more; --json lists all")
    splits = Table("split", "train", "val", "test", "unused", "val subjects", box=None)
    for name, split in report.splits.items():
        counts = (str(count) for count in (split.train, split.val, split.test, split.unused))
        mark = " (default)" if name == report.default_split else ""
        splits.add_row(name + mark, *counts, ", ".join(map(str, split.val_subjects)) or "-")
    output.console.print(splits)
    for name, split in report.splits.items():
        output.console.print(f"  {name}: {split.description}", soft_wrap=True)
