"""A checkpoint of low rank from a trained one: which layers, which ranks, what it costs, and fine-tuning (LORTSAR, arXiv 2407.14655).

Where clips are at hand, a factorised layer comes as near as its rank allows to the layer's outputs on them, not to its matrix.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import torch
from torch import nn

from runtime.errors import InputError
from runtime.files import sha256_of
from star_edge.bench.workloads import parse_workload
from star_edge.compression.low_rank import Matrix, Moments, candidates, decompose, energies, input_moments, relative_errors
from star_edge.compression.ranks import budget_ranks, count_applications, energy_ranks, fixed_ranks, measured_sensitivity
from star_edge.data.recorded import Recorded, open_recorded
from star_edge.training.batches import packed_batches
from star_edge.training.checkpoint import (
    Checkpoint,
    ModelEntry,
    build_from_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from star_edge.training.distillation import Teacher
from star_edge.training.evaluate import FRAMES_PER_BATCH, model_logits, top_k_accuracy
from star_edge.training.fine_tuning import FineTuner
from star_edge.training.loop import Task
from star_edge.training.recipe import FINE_TUNING, continued_recipe

WORKLOAD = "1x300"
_ROUNDS = 7
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


class Size(msgspec.Struct, frozen=True):
    """What a model takes.

    Attributes:
        macs: of its linear layers and convolutions, on one clip of 300 rows; products of attention and graphs are not counted.
        bytes: of the checkpoint.
        torch_ms: median latency of eager PyTorch on that clip; before and after were timed in turn.
        top1: on val clips; None where there are none.
    """

    parameters: int
    macs: int
    bytes: int
    torch_ms: float
    top1: float | None


class LowRankReport(msgspec.Struct, frozen=True):
    """What ``star-edge compress lowrank --json`` prints.

    Attributes:
        checkpoint: the compressed one. start: the one it was made from.
        policy, target: how ranks were chosen.
        layers: those that were factorised. whole: those for which no rank was worth it.
        before, after: the model, and the compressed one as it was written.
        cut_top1: of the compressed model before fine-tuning.
        epochs: of fine-tuning.
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
    schema: str = "star-edge/compress-lowrank/1"


class FineTuning(NamedTuple):
    """How to fine-tune: epochs, a learning rate in place of the recipe's, whether the original model teaches, and on what."""

    epochs: int = 0
    lr: float | None = None
    distil: bool = False
    resume: bool = False


def compress_low_rank(
    path: Path,
    out: Path,
    policy: Policy,
    target: float,
    *,
    data: Path | None = None,
    kernels: bool = False,
    tuning: FineTuning = FineTuning(),
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
    run: Callable[[FineTuner], object] = lambda trainer: trainer.run(),
) -> LowRankReport:
    """Write ``out/ckpt.pt``, the checkpoint at ``path`` with two factors in place of layers that get smaller so.

    Args:
        policy, target: ``rank``: of every layer; ``energy``: share that each keeps; ``params``, ``macs``: share of the model's that
            may be left, where layers whose loss hurts less on val clips give more.
        data: default: the recorded dataset; needed for fine-tuning, and for accuracies.
        kernels: factorise convolutions with kernels larger than 1 as well.
        tuning: fine-tuning on the clips that the model was fitted on.
        say: takes what people should know while it runs. run: trains.

    Raises InputError (a checkpoint that cannot be used, a target out of reach, no data to fine-tune on), MismatchError.
    """
    start = load_checkpoint(path)
    _check(start, path, out)
    model = build_from_checkpoint(start)
    task = _task(start, path, data, required=tuning.epochs > 0)
    judge = None if task is None else _Judge(task, start)
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
        assert task is not None
        recipe = continued_recipe(start.recipe, start.features, FINE_TUNING, epochs=tuning.epochs, lr=tuning.lr)
        teacher = Teacher(path, torch.device("cpu")) if tuning.distil else None
        trainer = FineTuner(task, cut, sha256_of(path), recipe, out, seed, teacher)
        if tuning.resume:
            trainer.resume()
        run(trainer)
    else:
        save_checkpoint(cut, written)
    found = load_checkpoint(written)
    after = build_from_checkpoint(found)
    times = _times({"before": model, "after": after}, features, cu_seqlens)
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
        before=_size(model, applications, path, times["before"], judge),
        after=_size(after, counted, written, times["after"], judge),
        cut_top1=cut.metrics["validation_accuracy"],
        epochs=tuning.epochs,
        validation_clips=0 if task is None else len(task.validation),
    )


class _Judge:
    """Loss and accuracy of models on val clips."""

    def __init__(self, task: Task, start: Checkpoint) -> None:
        self._task, self._start = task, start
        self._labels = torch.from_numpy(task.validation_labels).long()

    def loss(self, model: nn.Module) -> float:
        return float(nn.functional.cross_entropy(torch.from_numpy(self._logits(model)), self._labels))

    def accuracy(self, model: nn.Module) -> float | None:
        return top_k_accuracy(self._logits(model), self._task.validation_labels) if len(self._labels) else None

    def __len__(self) -> int:
        return len(self._labels)

    def _logits(self, model: nn.Module) -> np.ndarray:
        return model_logits(model, self._task.validation, self._start.skeleton, self._start.features)


def _check(start: Checkpoint, path: Path, out: Path) -> None:
    if start.model.config.ranks:
        raise InputError("the model has low rank already", where=path, hint="begin with the checkpoint it was made from")
    if path.resolve() == (out / "ckpt.pt").resolve():
        raise InputError("the checkpoint to begin with would be overwritten", where=path, hint="another --out")


def _task(start: Checkpoint, path: Path, data: Path | None, required: bool) -> Task | None:
    """The clips to fit and to judge by; None where there are none and nobody asked for them."""
    recorded = Recorded.in_checkpoint(start)
    if data is None and not required and not (start.data.source and Path(start.data.source).exists()):
        return None
    dataset = open_recorded(recorded, data, f"compress lowrank {path}")
    return Task.of(dataset, start.data.split, start.data.fitted)


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
    judge: _Judge | None,
    say: Callable[[str], None],
) -> dict[str, int]:
    if policy == "rank":
        return fixed_ranks(layers, int(target))
    spectra = energies(model, layers, moments)
    if policy == "energy":
        return energy_ranks(layers, spectra, target)
    used = applications if policy == "macs" else dict.fromkeys(applications, 1)
    everything = _macs(model, used) if policy == "macs" else sum(parameter.numel() for parameter in model.parameters())
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
    model: nn.Module, layers: dict[str, Matrix], judge: _Judge, say: Callable[[str], None]
) -> Callable[[str], float]:
    """Path -> how much the loss of a layer's energy costs on val clips, never nothing."""
    say(f"measuring how much each of them matters on {len(judge)} val clips")
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


def _size(model: nn.Module, applications: dict[str, int], path: Path, seconds: float, judge: _Judge | None) -> Size:
    return Size(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=_macs(model, applications),
        bytes=path.stat().st_size,
        torch_ms=seconds * 1e3,
        top1=None if judge is None else judge.accuracy(model),
    )


def _macs(model: nn.Module, applications: dict[str, int]) -> int:
    return sum(model.get_parameter(f"{name}.weight").numel() * times for name, times in applications.items())


@torch.no_grad()
def _times(models: dict[str, nn.Module], features: torch.Tensor, cu_seqlens: torch.Tensor) -> dict[str, float]:
    """Median seconds of a call of each model, timed in turn after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(-1, _ROUNDS):
        for name, model in models.items():
            begun = time.perf_counter()
            model(features, cu_seqlens)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - begun)
    return {name: float(np.median(values)) for name, values in seconds.items()}
