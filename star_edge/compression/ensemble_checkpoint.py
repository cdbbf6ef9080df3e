"""An ensemble checkpoint from a trained one: fresh experts of its shape at several sparsities, trained together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import torch
from torch import nn

from runtime.errors import InputError
from star_edge.bench.workloads import parse_workload
from star_edge.compression.judging import WORKLOAD, FineTuning, Judge, Size, median_seconds, recorded_task, size_of
from star_edge.compression.masks import maskable, stored_forms, weights_of
from star_edge.compression.ranks import count_applications
from star_edge.compression.retraining import Retraining, load_start
from star_edge.compression.sparse_generator import Scope
from star_edge.models.config import expert_paths
from star_edge.training.checkpoint import Checkpoint, ModelEntry, build_from_checkpoint, load_checkpoint
from star_edge.training.fine_tuning import FineTuner
from star_edge.training.parallel import ALONE, Group
from star_edge.training.sparse import EnsembleTrainer, Schedule


class Expert(msgspec.Struct, frozen=True):
    """One of the ensemble's models.

    Attributes:
        level: the sparsity that it was to have. sparsity: share of its masked layers' weights that are zero.
        masked: weights of those layers that are left. parameters: all that are left.
        top1: on val clips, alone; None where there are none.
    """

    level: float
    sparsity: float
    masked: int
    parameters: int
    top1: float | None


class EnsembleReport(msgspec.Struct, frozen=True):
    """What ``star-edge compress ensemble --json`` prints.

    Attributes:
        checkpoint: the ensemble. start: the dense model that it was made from.
        scope: of which scores were compared.
        of_dense: weights that are left in all experts' masked layers, over those of one dense model's; of_model: all
            parameters that are left, over those of one dense model.
        before, after: one dense model, and the ensemble as it was written: its parameters are all that are stored, its
            products all that are computed, zeros too.
        stored: bytes of all parameters in float32: ``dense``; masked layers as ``bitmap`` and values, or as ``csr``.
        epochs: of training.
    """

    checkpoint: str
    start: str
    model: str
    scope: Scope
    experts: tuple[Expert, ...]
    of_dense: float
    of_model: float
    before: Size
    after: Size
    stored: dict[str, int]
    epochs: int
    validation_clips: int
    schema: str = "star-edge/compress-ensemble/1"


def compress_ensemble(
    path: Path,
    out: Path,
    schedule: Schedule,
    *,
    data: Path | None = None,
    split: str | None = None,
    tuning: FineTuning = FineTuning(),
    seed: int = 0,
    group: Group = ALONE,
    run: Callable[[FineTuner], object] = lambda trainer: trainer.run(),
) -> EnsembleReport:
    """Write ``out/ckpt.pt``, an ensemble of sparse models of the shape in the checkpoint at ``path``.

    Args:
        schedule: the experts' sparsities, and how they come to them.
        data, split: default: the recorded dataset, and its split.
        tuning: epochs of training from nothing.
        run: trains.

    Raises InputError (a checkpoint that cannot be used, no data to train on), MismatchError.
    """
    start = load_start(path, out)
    if start.model.config.ranks or start.model.config.widths:
        raise InputError(
            "an ensemble has no layers of low rank or with fewer channels",
            where=path,
            hint="begin with the checkpoint it was made from",
        )
    task = recorded_task(start, path, data, split, required=True, verb="compress ensemble")
    assert task is not None
    config = msgspec.structs.replace(start.model.config, experts=len(schedule.levels))
    several = msgspec.structs.replace(start, model=ModelEntry(start.model.name, config))
    training = Retraining(start, path, task, tuning, seed, group, run)
    training.train(EnsembleTrainer, several, training.anew(), out, schedule=schedule)
    return _report(start, path, out / "ckpt.pt", schedule, Judge(task, start, group), tuning.epochs)


def _report(start: Checkpoint, path: Path, written: Path, schedule: Schedule, judge: Judge, epochs: int) -> EnsembleReport:
    saved = load_checkpoint(written)
    before, after = build_from_checkpoint(start), build_from_checkpoint(saved)
    experts = tuple(_expert(model, level, judge) for model, level in zip(_alone(saved), schedule.levels, strict=True))
    features, ends = (torch.from_numpy(array) for array in parse_workload(WORKLOAD).make(start.skeleton, start.features))
    times = median_seconds({"before": lambda: before(features, ends), "after": lambda: after(features, ends)})
    sizes = [
        size_of(model, count_applications(model, features, ends), file, times[name], judge)
        for name, model, file in (("before", before, path), ("after", after, written))
    ]
    weights = weights_of(maskable(after)).values()
    masked = sum(weight.numel() for weight in weights)
    return EnsembleReport(
        checkpoint=str(written),
        start=str(path),
        model=start.model.name,
        scope=schedule.scope,
        experts=experts,
        of_dense=sum(expert.masked for expert in experts) * len(experts) / masked,
        of_model=sum(expert.parameters for expert in experts) / sizes[0].parameters,
        before=sizes[0],
        after=sizes[1],
        stored=stored_forms(weights, 4 * (sizes[1].parameters - masked)),
        epochs=epochs,
        validation_clips=len(judge),
    )


def _alone(saved: Checkpoint) -> Iterator[nn.Module]:
    """The experts of an ensemble's checkpoint, each as a model of its own."""
    entry = ModelEntry(saved.model.name, msgspec.structs.replace(saved.model.config, experts=1))
    for path in expert_paths(saved.model.config):
        own = {name.removeprefix(path): x for name, x in saved.state_dict.items() if name.startswith(path)}
        yield build_from_checkpoint(msgspec.structs.replace(saved, model=entry, state_dict=own))


def _expert(model: nn.Module, level: float, judge: Judge) -> Expert:
    weights = weights_of(maskable(model)).values()
    masked, left = sum(weight.numel() for weight in weights), sum(int(weight.count_nonzero()) for weight in weights)
    return Expert(
        level=level,
        sparsity=1 - left / masked,
        masked=left,
        parameters=sum(parameter.numel() for parameter in model.parameters()) - masked + left,
        top1=judge.accuracy(model),
    )
