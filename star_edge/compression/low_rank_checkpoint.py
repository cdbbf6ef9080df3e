"""A checkpoint of low rank from a trained one: which layers, which ranks, what it costs, and fine-tuning (LORTSAR, arXiv 2407.14655).

Where clips are at hand, a factorised layer comes as near as its rank allows to the layer's outputs on them, not to its matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import nn

from runtime.errors import InputError
from star_edge.bench.workloads import parse_workload
from star_edge.compression.judging import (
    LOSS_CLIPS,
    WORKLOAD,
    EngineTimes,
    FineTuning,
    Judge,
    Size,
    layer_macs,
    median_seconds,
    recorded_task,
    size_of,
)
from star_edge.compression.low_rank import Matrix, Moments, candidates, decompose, energies, input_moments, relative_errors
from star_edge.compression.ranks import budget_ranks, count_applications, energy_ranks, fixed_ranks, measured_sensitivity
from star_edge.compression.retraining import Retraining, load_start
from star_edge.training.batches import packed_batches
from star_edge.training.checkpoint import (
    Checkpoint,
    ModelEntry,
    build_from_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from star_edge.training.evaluate import FRAMES_PER_BATCH
from star_edge.training.fine_tuning import FineTuner
from star_edge.training.loop import Task
from star_edge.training.parallel import ALONE, Group

# the classifier, and what brings raw joints in: a few channels wide, and every later layer sees its error
_LEFT_WHOLE = ("output", "embedding")
# clips that tell which directions of a layer's inputs matter
_CLIPS = 256
Policy = Literal["rank", "energy", "params", "macs"]


class FactorisedLayer(msgspec.Struct, frozen=True):
    """A layer of two factors.

    Attributes:
        shape: outputs, inputs and groups of its matrix.
        error: Frobenius norm of what its outputs lose on fitted clips (without clips: its matrix), relative to it.
    """

    path: str
    shape: tuple[int, int, int]
    rank: int
    error: float


class LowRankReport(msgspec.Struct, frozen=True):
    """What ``star-edge compress lowrank --json`` prints.

    Attributes:
        checkpoint: the compressed one. start: the one it was made from.
        policy, target: how ranks were chosen.
        layers: those that were factorised. whole: those for which no rank was worth it.
        before, after: the model, and the compressed one as it was written.
        cut_top1: of the compressed model before fine-tuning.
        epochs: of fine-tuning.
        engines: their times, where those were asked for.
    """

    checkpoint: str
    start: str
    model: str
    policy: Policy
    target: float
    layers: tuple[FactorisedLayer, ...]
    whole: tuple[str, ...]
    before: Size
    after: Size
    cut_top1: float | None
    epochs: int
    validation_clips: int
    engines: tuple[EngineTimes, ...] = ()
    schema: str = "star-edge/compress-lowrank/1"


def compress_low_rank(
    path: Path,
    out: Path,
    policy: Policy,
    target: float,
    *,
    data: Path | None = None,
    split: str | None = None,
    kernels: bool = False,
    tuning: FineTuning = FineTuning(),
    seed: int = 0,
    group: Group = ALONE,
    say: Callable[[str], None] = lambda text: None,
    run: Callable[[FineTuner], object] = lambda trainer: trainer.run(),
    time_engines: Callable[[Path, Path], tuple[EngineTimes, ...]] = lambda before, after: (),
) -> LowRankReport:
    """Write ``out/ckpt.pt``, the checkpoint at ``path`` with two factors in place of layers that get smaller so.

    Args:
        policy, target: ``rank``: of every layer; ``energy``: share that each keeps; ``params``, ``macs``: share of the model's that
            may be left, where layers whose loss hurts less on val clips give more.
        data, split: default: the recorded dataset, and its split; needed for fine-tuning, and for accuracies.
        kernels: factorise convolutions with kernels larger than 1 as well.
        tuning: fine-tuning on the clips that the model was fitted on. group: where.
        say: takes what people should know while it runs. run: trains. time_engines: of both checkpoints.

    Raises InputError (a checkpoint that cannot be used, a target out of reach, no data to fine-tune on), MismatchError.
    """
    start = load_start(path, out)
    if start.model.config.ranks:
        raise InputError("the model has low rank already", where=path, hint="begin with the checkpoint it was made from")
    model = build_from_checkpoint(start)
    task = recorded_task(start, path, data, split, required=tuning.epochs > 0, verb="compress lowrank")
    judge = None if task is None else Judge(task, start, group)
    features, cu_seqlens = (torch.from_numpy(array) for array in parse_workload(WORKLOAD).make(start.skeleton, start.features))
    applications = count_applications(model, features, cu_seqlens)
    layers = candidates(model, kernels, _LEFT_WHOLE)
    moments = None if task is None else _moments(model, task, start, seed)
    say(f"choosing ranks of {len(layers)} layers by {policy} {target:g}")
    ranks = _choose(model, layers, policy, target, applications, moments, judge, say)
    if not ranks:
        raise InputError("no layer gets smaller so", where=path, found=f"{policy} {target:g}", hint="a lower target")
    low = decompose(model, ranks, moments).eval()
    cut = _checkpoint(start, low, ranks, None if judge is None else judge.accuracy(low))
    out.mkdir(parents=True, exist_ok=True)
    written = out / "ckpt.pt"
    if tuning.epochs:
        training = Retraining(start, path, task, tuning, seed, group, run)
        training.train(FineTuner, cut, training.on(), out)
    else:
        save_checkpoint(cut, written)
    found = load_checkpoint(written)
    after = build_from_checkpoint(found)
    times = median_seconds({"before": lambda: model(features, cu_seqlens), "after": lambda: after(features, cu_seqlens)})
    counted = count_applications(after, features, cu_seqlens)
    errors = relative_errors(model, ranks, moments)
    return LowRankReport(
        checkpoint=str(written),
        start=str(path),
        model=start.model.name,
        policy=policy,
        target=target,
        layers=tuple(
            FactorisedLayer(name, (layers[name].outputs, layers[name].inputs, layers[name].groups), rank, errors[name])
            for name, rank in ranks.items()
        ),
        whole=tuple(name for name in layers if name not in ranks),
        before=size_of(model, applications, path, times["before"], judge),
        after=size_of(after, counted, written, times["after"], judge),
        cut_top1=cut.metrics["validation_accuracy"],
        epochs=tuning.epochs,
        validation_clips=0 if task is None else len(task.validation),
        engines=time_engines(path, written),
    )


def _moments(model: nn.Module, task: Task, start: Checkpoint, seed: int) -> Moments:
    """Second moments of every layer's inputs on fitted clips."""
    chosen = np.random.default_rng(seed).permutation(len(task.fit))[:_CLIPS]
    clips = [task.fit[int(clip)] for clip in np.sort(chosen)]
    packed = packed_batches(clips, start.skeleton, start.features, FRAMES_PER_BATCH)
    with torch.no_grad():
        return input_moments(model, ((torch.from_numpy(rows), torch.from_numpy(ends)) for rows, ends, _ in packed))


def _choose(
    model: nn.Module,
    layers: dict[str, Matrix],
    policy: Policy,
    target: float,
    applications: dict[str, int],
    moments: Moments | None,
    judge: Judge | None,
    say: Callable[[str], None],
) -> dict[str, int]:
    if policy == "rank":
        return fixed_ranks(layers, int(target))
    spectra = energies(model, layers, moments)
    if policy == "energy":
        return energy_ranks(layers, spectra, target)
    used = applications if policy == "macs" else dict.fromkeys(applications, 1)
    everything = layer_macs(model, used) if policy == "macs" else sum(parameter.numel() for parameter in model.parameters())
    others = everything - sum(matrix.whole * used[name] for name, matrix in layers.items())
    smallest = others + sum(matrix.at(1) * used[name] for name, matrix in layers.items())
    if target * everything < smallest:
        raise InputError(
            f"the budget is too small for these {len(layers)} layers",
            found=f"--{policy} {target:g}",
            expected=f"at least {smallest / everything:.3f}, where all of them have rank 1",
            hint="a larger budget, or --kernels if convolutions over frames hold the rest",
        )
    sensitivity = _sensitivity(model, layers, judge, say) if judge else None
    return budget_ranks(layers, spectra, target * everything - others, used, sensitivity)


def _sensitivity(
    model: nn.Module, layers: dict[str, Matrix], judge: Judge, say: Callable[[str], None]
) -> Callable[[str], float]:
    """Path -> how much the loss of a layer's energy costs on val clips, never nothing."""
    say(f"measuring how much each of them matters on {min(len(judge), LOSS_CLIPS)} of {len(judge)} val clips")
    known = measured_sensitivity(model, {name: max(1, matrix.break_even // 2) for name, matrix in layers.items()}, judge.loss)
    found = {name: known(name) for name in layers}
    least = max(found.values()) * 1e-3  # a layer that seemed not to matter still gives its largest directions last
    return {name: max(value, least) for name, value in found.items()}.__getitem__


def _checkpoint(start: Checkpoint, low: nn.Module, ranks: dict[str, int], top1: float | None) -> Checkpoint:
    config = msgspec.structs.replace(start.model.config, ranks=dict(ranks))
    return msgspec.structs.replace(
        start,
        model=ModelEntry(start.model.name, config),
        state_dict={name: tensor.clone() for name, tensor in low.state_dict().items()},
        metrics={**start.metrics, "validation_accuracy": top1},
        quantisation=None,
    )
