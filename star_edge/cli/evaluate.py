"""``star-edge evaluate``: accuracy of a checkpoint on one part of a split."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from runtime.errors import InputError
from star_edge.cli.common import Output, common_options


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Dataset; the one the checkpoint was trained on if left out.")
@click.option("--split", help="Split scheme; the checkpoint's if left out.")
@click.option("--part", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
              help="auto: a GPU where there is one.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all cores if left out.")
@common_options
def command(
    checkpoint: Path,
    data: Path | None,
    split: str | None,
    part: str,
    device: Literal["auto", "cpu", "cuda"],
    threads: int | None,
    output: Output,
) -> None:
    """Top-1 and top-5 of CHECKPOINT, in all and per class."""
    import torch
    from rich.table import Table

    from star_edge.data.recorded import Recorded, open_recorded
    from star_edge.training.checkpoint import build_from_checkpoint, load_checkpoint
    from star_edge.training.evaluate import EvaluationReport, class_accuracies, model_logits, top_k_accuracy
    from star_edge.training.parallel import Group, device_of

    if threads:
        torch.set_num_threads(threads)
    saved = load_checkpoint(checkpoint)
    if not saved.data.split and (data is None or split is None):
        raise InputError(
            "which clips to evaluate on is not recorded with the checkpoint",
            where=checkpoint,
            found="no dataset and no split",
            expected="--data and --split; star-edge data info shows a dataset's splits",
            hint=f"star-edge evaluate {checkpoint} --data {data or 'DATASET'} --split {split or 'SPLIT'}",
        )
    dataset = open_recorded(Recorded.in_checkpoint(saved), data, f"evaluate {checkpoint}", output.track)
    scheme = split or saved.data.split
    indices = dataset.indices(scheme, part)
    if not len(indices):
        raise InputError(
            f"part '{part}' of split '{scheme}' has no clips", where=dataset.meta.name, hint="star-edge data info"
        )
    labels = dataset.labels[indices]
    group = Group(device=device_of(device))
    model = build_from_checkpoint(saved).to(group.device)
    logits = model_logits(model, dataset.clips(indices), saved.skeleton, saved.features, group)
    report = EvaluationReport(
        checkpoint=str(checkpoint),
        data=dataset.meta.name,
        split=scheme,
        part=part,
        clips=len(labels),
        correct=int((logits.argmax(1) == labels).sum()),
        top1=top_k_accuracy(logits, labels),
        top5=top_k_accuracy(logits, labels, 5),
        classes=class_accuracies(logits, labels, saved.class_names),
    )
    output.document(report)
    table = Table("class", "correct", "clips", "top-1", title=f"{dataset.meta.name}, split {scheme}, {part}")
    for row in report.classes:
        table.add_row(row.name, str(row.correct), str(row.clips), f"{row.correct / row.clips:.1%}" if row.clips else "-")
    output.console.print(table)
    output.console.print(
        f"top-1 {report.top1:.2%} ({report.correct} of {report.clips}), top-5 {report.top5:.2%}; "
        f"next: star-edge export --fp16 {checkpoint}",
        soft_wrap=True,
    )
