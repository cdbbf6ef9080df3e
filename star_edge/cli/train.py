"""``star-edge train``: clips to checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import msgspec
from click.core import ParameterSource

from runtime.errors import InputError
from star_edge.cli.common import Output, common_options

if TYPE_CHECKING:
    from star_edge.training.loop import Epoch, Trainer


class TrainReport(msgspec.Struct, frozen=True):
    """What ``star-edge train --json`` prints; accuracies are fractions, ``validation_accuracy`` None without such clips."""

    checkpoint: str
    model: str
    parameters: int
    epochs: int
    best_epoch: int
    fit_clips: int
    validation_clips: int
    validation_accuracy: float | None
    schema: str = "star-edge/train/1"


@click.command()
@click.option("--data", type=click.Path(path_type=Path),
              help="Dataset folder, .npz, or .skeleton folder. With --qat: the recorded one if left out.")  # fmt: skip
@click.option("--qat", "start", type=click.Path(path_type=Path),
              help="Train the checkpoint's weights on for a few epochs with their INT8 faked.")  # fmt: skip
@click.option(
    "--model", "model_name", default="star-64", show_default=True, help="A registered model: star-edge inspect models."
)
@click.option("--attention", type=click.Choice(["sparse", "full"]), default="sparse", show_default=True,
              help="Spatial attention over the skeleton's edges, or over all pairs of joints.")  # fmt: skip
@click.option(
    "--recipe", "recipe_name", default="default", show_default=True, help="default, paper, or a JSON file of Recipe fields."
)
@click.option("--split", help="Split scheme of the dataset; its default if left out.")
@click.option("--fit", type=click.Choice(["train", "train+val"]), default="train", show_default=True,
              help="train+val: no validation, the last epoch is kept.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), help="In place of the recipe's.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="In place of the recipe's.")
@click.option("--frames-per-batch", type=click.IntRange(min=1), help="In place of the recipe's.")
@click.option("--frames", type=click.IntRange(min=1),
              help="Frames that a padded model brings every clip to; its authors' number if left out.")  # fmt: skip
@click.option("--persons", type=click.IntRange(min=1),
              help="Persons that a padded model makes room for; as many as the clips have if left out.")  # fmt: skip
@click.option(
    "--accumulate", type=click.IntRange(min=1), help="Batches whose gradients make one step; in place of the recipe's."
)
@click.option("--amp", type=click.Choice(["none", "bf16"]),
              help="bf16: products in bfloat16, weights and sums in float32; in place of the recipe's.")  # fmt: skip
@click.option("--teacher", "teacher_path", type=click.Path(path_type=Path),
              help="A checkpoint whose answers are learnt beside the labels (distillation).")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
              help="auto: a GPU where there is one.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a process; all cores if left out.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), show_default="runs/train, runs/qat with --qat",
              help="Folder for ckpt.pt, last.pt and TensorBoard logs.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue the interrupted run in --out.")
@click.option("--force", is_flag=True, help="Start anew over a run that is already in --out.")
@common_options
def command(
    data: Path | None,
    start: Path | None,
    model_name: str,
    attention: str,
    recipe_name: str,
    split: str | None,
    fit: str,
    epochs: int | None,
    lr: float | None,
    frames_per_batch: int | None,
    frames: int | None,
    persons: int | None,
    accumulate: int | None,
    amp: str | None,
    teacher_path: Path | None,
    device: Literal["auto", "cpu", "cuda"],
    threads: int | None,
    out: Path | None,
    resume: bool,
    force: bool,
    output: Output,
) -> None:
    """Train a model on packed clips and keep the epoch that is best on the validation subjects.

    --qat is for a model whose INT8 misses the gate: a few epochs from the weights of a checkpoint, on the parts of its split
    that it was fitted on, computing what its INT8 will compute. export and calibrate then take the ranges it was trained with.

    Several processes, on one machine or more, share each batch: torchrun --nproc-per-node 2 -m star_edge train ...; the first
    one writes. Their number changes no step, and may be another after --resume.
    """
    import torch

    from calibration.modelopt import import_modelopt
    from star_edge.data import open_dataset
    from star_edge.training.distillation import Teacher
    from star_edge.training.loop import Task, Trainer
    from star_edge.training.parallel import join
    from star_edge.training.recipe import get_recipe

    if threads:
        torch.set_num_threads(threads)
    out = out or Path("runs/qat" if start else "runs/train")
    group = join("cpu" if start and device == "auto" else device)
    if group.from_first((out / "last.pt").exists) and not (resume or force):
        raise InputError(
            "a run is already there", where=out, hint="--resume to continue it, --force to start anew, or another --out"
        )
    changes = {"epochs": epochs, "lr": lr, "frames_per_batch": frames_per_batch, "accumulate": accumulate, "amp": amp}
    trainer: Trainer
    if start:
        _refuse("model_name", "attention", "recipe_name", "fit", "frames", "persons", "accumulate", "amp", "teacher_path")
        if group.size > 1 or group.device.type != "cpu":
            raise click.UsageError("--qat runs in one process, on the CPU: --device cpu, and no torchrun")
        import_modelopt("torch")  # said before the work, not after it
        from star_edge.training.qat import QatTrainer

        trainer = QatTrainer.of(start, data, split, out, output.seed, **changes)
    elif data:
        _refuse_for_the_other_kind(model_name)
        recipe = get_recipe(recipe_name, model_name, frames=frames, persons=persons, **changes)
        task = Task.of(open_dataset(data), split, tuple(fit.split("+")))
        teacher = Teacher(teacher_path, group.device) if teacher_path else None
        trainer = Trainer(task, model_name, recipe, out, output.seed, attention, teacher, group)
    else:
        raise click.UsageError("Missing option '--data' (or '--qat').")
    if resume:
        trainer.resume()
    if group.is_first:
        _say_what_begins(trainer, output)
        run_with_progress(trainer, output)
        report(trainer, output)
    else:
        trainer.run()
    group.leave()


def _say_what_begins(trainer: Trainer, output: Output) -> None:
    task, group = trainer.task, trainer.group
    shared = f", {group.size} processes" if group.size > 1 else ""
    taught = "" if trainer.teacher is None else f", taught by {trainer.teacher.path}"
    output.console.print(
        f"{trainer.model_entry.name} on {task.data.name}, split {task.data.split}: {len(task.fit)} clips to fit, "
        f"{len(task.validation)} to validate, {len(task.class_names)} classes, recipe {trainer.recipe.name}{taught}{shared}, "
        f"on {group.device.type}"
    )


def _refuse_for_the_other_kind(model_name: str) -> None:
    """UsageError for an option that says nothing to this model."""
    from star_edge.models.registry import registered

    if registered(model_name).padded:
        _refuse("attention", why=f"is STAR's, and {model_name} has no such choice")
    else:
        _refuse("frames", "persons", why=f"has no effect on {model_name}, which takes clips as long as they are")


def _refuse(*parameters: str, why: str = "has no effect with --qat, which goes on from its checkpoint") -> None:
    """UsageError for an option that is left without effect."""
    context = click.get_current_context()
    options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in parameters:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{options[name]} {why}")


def run_with_progress(trainer: Trainer, output: Output) -> None:
    """Train under one bar; without a terminal, one line an epoch in ten."""
    with output.progress() as progress:
        bar = progress.add_task("train", total=trainer.recipe.epochs, completed=trainer.epoch)

        def show(epoch: Epoch) -> None:
            state = f"loss {epoch.loss:.3f}, fit {epoch.accuracy:.1%}"
            if epoch.validation is not None:
                state += f", val {epoch.validation:.1%} (best {max(trainer.best, 0):.1%})"
            progress.update(bar, advance=1, description=state)
            if progress.disable and (epoch.number % max(1, epoch.epochs // 10) == 0 or epoch.number == epoch.epochs):
                output.console.print(f"epoch {epoch.number}/{epoch.epochs}: {state}")

        trainer.run(show)


def report(trainer: Trainer, output: Output) -> None:
    """Say what was made and what to do with it."""
    from star_edge.training.checkpoint import load_checkpoint

    path = trainer.out / "ckpt.pt"
    saved = load_checkpoint(path)
    validation = saved.metrics["validation_accuracy"]
    output.document(
        TrainReport(
            checkpoint=str(path),
            model=saved.model.name,
            parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
            epochs=trainer.epoch,
            best_epoch=saved.metrics["epoch"],
            fit_clips=saved.metrics["fit_clips"],
            validation_clips=saved.metrics["validation_clips"],
            validation_accuracy=validation,
        )
    )
    scored = "no validation" if validation is None else f"validation {validation:.1%} at epoch {saved.metrics['epoch']}"
    output.console.print(
        f"{path}  {path.stat().st_size / 1e6:.1f} MB, {scored}; next: star-edge evaluate {path}, then star-edge export --fp16 {path}"
    )
