"""``star-edge import``: weights that a model's authors published to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from runtime.errors import InputError
from star_edge.cli.common import Output, common_options


class ImportReport(msgspec.Struct, frozen=True):
    """What ``star-edge import --json`` prints.

    Attributes:
        checkpoint: that was written. source, sha256: the file it was made from.
        kind: whose layout the file has. model: the registered model it became.
        named: whether the names of the classes were given; otherwise they are numbers.
        frames, persons: that the model brings every clip to; None for STAR, which takes clips as they are.
        differences: in what clips come to the model otherwise than in its authors' code.
    """

    checkpoint: str
    source: str
    sha256: str
    kind: str
    model: str
    parameters: int
    skeleton: str
    classes: int
    named: bool
    centre: str
    frames: int | None
    persons: int | None
    differences: tuple[str, ...]
    schema: str = "star-edge/import/1"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--skeleton", "layout", required=True,
              help="Layout of the joints that the weights were trained on: star-edge inspect skeletons, or a .json file.")  # fmt: skip
@click.option("--classes", help="Names of the classes in the order of the logits: ntu60, ntu120, a text file with a name a line, "
              "or a dataset. Numbers if left out.")  # fmt: skip
@click.option("--frames", type=click.IntRange(min=1), help="Frames that a padded model brings every clip to; its authors' number "
              "if left out.")  # fmt: skip
@click.option("--persons", type=click.IntRange(min=1),
              help="Persons that a padded model makes room for; what the weights tell, or 2, if left out.")  # fmt: skip
@click.option("--time", type=click.Choice(["pad", "resample"]),
              help="How a padded model brings a clip to its frames; what comes nearest to its authors if left out.")  # fmt: skip
@click.option("--heads", type=click.IntRange(min=1), help="Attention heads of STAR; 8 if left out.")
@click.option("--centre", type=click.Choice(["root", "none"]),
              help="Whether joints are centred on the skeleton's root; what comes nearest to the authors if left out.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False),
              help="Checkpoint to make; FILE's name with .pt, here, if left out.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a checkpoint that exists.")
@common_options
def command(
    file: Path,
    layout: str,
    classes: str | None,
    frames: int | None,
    persons: int | None,
    time: str | None,
    heads: int | None,
    centre: Literal["root", "none"] | None,
    out: Path | None,
    force: bool,
    output: Output,
) -> None:
    """Make a checkpoint of FILE, weights of ST-GCN++ (PYSKL), Shift-GCN or STAR as their authors publish them.

    Whose they are shows in the names of the weights. No code in FILE is run.

    \b
    star-edge import ntu60_xsub_3dkp_j.pth --skeleton ntu25 --classes ntu60
    star-edge evaluate ntu60_xsub_3dkp_j.pt --data dataset --split xsub
    """
    from star_edge.data.class_names import get_class_names
    from star_edge.skeletons import get_skeleton
    from star_edge.training.checkpoint import save_checkpoint
    from star_edge.training.foreign import read_foreign

    out = out or Path(f"{file.stem}.pt")
    _refuse_to_replace(out, file, force)
    given: dict[str, Any] = {"frames": frames, "persons": persons, "time": time, "heads": heads}
    checkpoint = read_foreign(
        file,
        get_skeleton(layout),
        get_class_names(classes) if classes else None,
        centre=centre,
        **{name: value for name, value in given.items() if value is not None},
    )
    save_checkpoint(checkpoint, out)
    report = _report(file, out, classes is not None)
    output.document(report)
    for line in summary(report):
        output.console.print(line, soft_wrap=True, markup=False)


def _refuse_to_replace(out: Path, file: Path, force: bool) -> None:
    if out.resolve() == file.resolve():
        raise InputError("the file to read would be overwritten", where=file, hint="--out with another name")
    if out.exists() and not force:
        raise InputError("something is already there", where=out, hint="--force to replace it, or another --out")


def _report(file: Path, path: Path, named: bool) -> ImportReport:
    """Of the checkpoint as it was written."""
    from star_edge.training.checkpoint import build_from_checkpoint, load_checkpoint
    from star_edge.training.foreign import differences

    saved = load_checkpoint(path)
    origin, config = saved.recipe["read_from"], saved.model.config
    return ImportReport(
        checkpoint=str(path),
        source=str(file),
        sha256=origin["sha256"],
        kind=origin["kind"],
        model=saved.model.name,
        parameters=sum(parameter.numel() for parameter in build_from_checkpoint(saved).parameters()),
        skeleton=saved.skeleton.name,
        classes=len(saved.class_names),
        named=named,
        centre=saved.features.centre,
        frames=getattr(config, "frames", None),
        persons=getattr(config, "persons", None),
        differences=differences(origin["kind"], saved.skeleton.dims),
    )


def summary(report: ImportReport) -> list[str]:
    """What was made, in lines for people; the last one names it and the next command."""
    size = "clips as long as they are" if report.frames is None else f"{report.frames} frames of {report.persons} persons"
    lines = [
        f"{report.source}: {report.kind} as its authors publish it, here {report.model} of {report.parameters:,} parameters, "
        f"for {size}, joints of {report.skeleton} centred on {'the root' if report.centre == 'root' else 'nothing'}",
        "Clips come to it otherwise than in its authors' code:",
        *(f"  - {difference}" for difference in report.differences),
    ]
    if not report.named:
        lines.append(f"The classes have numbers, 'class 0' to 'class {report.classes - 1}': --classes gives them names.")
    return [
        *lines,
        f"{report.checkpoint}: {report.classes} classes; next: star-edge evaluate {report.checkpoint} --data DATASET --split SPLIT, "
        f"then star-edge export --fp16 {report.checkpoint}",
    ]
