"""A sparse checkpoint from a trained one: masks by magnitude, lottery tickets, or a sparse generator; zeros are baked in.

Of whole hidden channels no zeros are left: the layers around them get smaller.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import torch
from torch import nn

from runtime.errors import InputError
from star_edge.bench.workloads import parse_workload
from star_edge.compression.channels import pairs, shrink, strongest
from star_edge.compression.judging import (
    WORKLOAD,
    EngineTimes,
    FineTuning,
    Judge,
    Size,
    median_seconds,
    recorded_task,
    size_of,
)
from star_edge.compression.masks import Masks, Scope, apply_masks, density, make_masks, maskable, stored_forms, weights_of
from star_edge.compression.pruning import Tickets
from star_edge.compression.ranks import count_applications
from star_edge.compression.retraining import Retraining, load_start
from star_edge.models.registry import MODELS, build_model, model_config
from star_edge.skeletons import NTU25
from star_edge.training.checkpoint import Checkpoint, ModelEntry, build_from_checkpoint, load_checkpoint, save_checkpoint
from star_edge.training.fine_tuning import FineTuner
from star_edge.training.parallel import ALONE, Group
from star_edge.training.recipe import FINE_TUNING
from star_edge.training.sparse import GeneratorTrainer, MaskedTrainer, Schedule

Method: TypeAlias = Literal["magnitude", "tickets", "generator"]
SparsePattern: TypeAlias = Literal["unstructured", "2:4", "channel"]


class SparseLayer(msgspec.Struct, frozen=True):
    """A layer whose weights were masked: share that is left."""

    path: str
    shape: tuple[int, ...]
    density: float


class NarrowedLayer(msgspec.Struct, frozen=True):
    """Hidden channels behind a layer, before and after."""

    path: str
    before: int
    after: int


class SparseReport(msgspec.Struct, frozen=True):
    """What ``star-edge compress sparse --json`` prints.

    Attributes:
        checkpoint: the sparse one. start: the one it was made from.
        sparsity: share of the masked layers' weights that are zero, or of hidden channels that are gone.
        of_model: share of all parameters that are zero, or gone.
        layers: those that were masked. channels: those that got narrower, or might have.
        before, after: the model, and the sparse one as it was written; its parameters are all that are stored, zeros too.
        stored: bytes of all parameters in float32: ``dense``; masked layers as ``bitmap`` and values, as ``csr``; and, of
            pattern 2:4, as ``2:4``, values and two bits each.
        cut_top1: on val clips before fine-tuning; None where masks were learnt in training.
        epochs: of training, of the last round.
        engines: their times, where those were asked for.
    """

    checkpoint: str
    start: str
    model: str
    method: Method
    pattern: SparsePattern
    sparsity: float
    of_model: float
    layers: tuple[SparseLayer, ...]
    channels: tuple[NarrowedLayer, ...]
    before: Size
    after: Size
    stored: dict[str, int]
    cut_top1: float | None
    epochs: int
    validation_clips: int
    engines: tuple[EngineTimes, ...] = ()
    schema: str = "star-edge/compress-sparse/1"


class Asked(msgspec.Struct, frozen=True):
    """How sparse, and by which method.

    Attributes:
        sparsity: share of the masked layers' weights, or of hidden channels, to remove; of pattern 2:4 always a half.
        scope: whether weights (channels) are ranked over the network, or within each layer (of a generator: block).
        rounds: of tickets, the training of the checkpoint being the first. warmup, ramp: epochs of a generator.
    """

    method: Method = "magnitude"
    pattern: SparsePattern = "unstructured"
    sparsity: float = 0.5
    scope: Literal["network", "layer"] = "network"
    rounds: int = 5
    warmup: int = 0
    ramp: int = 0

    @property
    def ranked(self) -> Scope:
        """The scope as :func:`make_masks` names it."""
        return "global" if self.scope == "network" else "layer"


def compress_sparse(
    path: Path,
    out: Path,
    asked: Asked,
    *,
    data: Path | None = None,
    split: str | None = None,
    tuning: FineTuning = FineTuning(),
    seed: int = 0,
    group: Group = ALONE,
    say: Callable[[str], None] = lambda text: None,
    run: Callable[[FineTuner], object] = lambda trainer: trainer.run(),
    time_engines: Callable[[Path, Path], tuple[EngineTimes, ...]] = lambda before, after: (),
) -> SparseReport:
    """Write ``out/ckpt.pt``, a sparse model of the kind in the checkpoint at ``path``.

    Args:
        data, split: default: the recorded dataset, and its split; needed for training, and for accuracies.
        tuning: epochs of training under masks; of tickets in each round, and of the generator from nothing.
        say: takes what people should know while it runs. run: trains. time_engines: of both checkpoints.

    Raises InputError (a checkpoint that cannot be used, no data to train on), MismatchError.
    """
    start = load_start(path, out)
    task = recorded_task(start, path, data, split, required=tuning.epochs > 0, verb="compress sparse")
    judge = None if task is None else Judge(task, start, group)
    model = build_from_checkpoint(start)
    if asked.pattern == "channel":
        _check_channels(start, model, path)
    maker = _Maker(Retraining(start, path, task, tuning, seed, group, run), out, asked, say)
    out.mkdir(parents=True, exist_ok=True)
    cut = maker.make(model, judge)
    written = out / "ckpt.pt"
    clips = 0 if task is None else len(task.validation)
    report = _report(model, start, path, written, asked, judge, cut, tuning.epochs, clips)
    return msgspec.structs.replace(report, engines=time_engines(path, written))


class _Maker:
    """Makes the sparse checkpoint by one of the methods."""

    def __init__(self, training: Retraining, out: Path, asked: Asked, say: Callable[[str], None]) -> None:
        self.training, self.out, self.asked, self.say = training, out, asked, say

    def make(self, model: nn.Module, judge: Judge | None) -> float | None:
        """Write the checkpoint; val accuracy of the cut model before training, where there is such."""
        if self.asked.method == "generator":
            self._generate()
            return None
        if self.asked.method == "tickets":
            self._draw_tickets()
            return None
        training = self.training
        cut = copy.deepcopy(model)
        entry, masks = self._narrow(cut) if self.asked.pattern == "channel" else self._mask(cut)
        top1 = None if judge is None else judge.accuracy(cut)
        state = {name: tensor.clone() for name, tensor in cut.state_dict().items()}
        metrics = {**training.start.metrics, "validation_accuracy": top1}
        begun = msgspec.structs.replace(training.start, model=entry, state_dict=state, metrics=metrics, quantisation=None)
        if not training.tuning.epochs:
            save_checkpoint(begun, self.out / "ckpt.pt")
        elif masks:
            training.train(MaskedTrainer, begun, training.on(), self.out, masks=masks)
        else:
            training.train(FineTuner, begun, training.on(), self.out)
        return top1

    def _mask(self, model: nn.Module) -> tuple[ModelEntry, Masks]:
        """Set the smallest weights to zero, in place; the masks to train under."""
        assert self.asked.pattern != "channel"
        masks = make_masks(self.asked.pattern, weights_of(maskable(model)), self.asked.sparsity, self.asked.ranked)
        apply_masks(model, masks)
        return self.training.start.model, masks

    def _narrow(self, model: nn.Module) -> tuple[ModelEntry, Masks]:
        """Take the weakest hidden channels out, in place; of the smaller model nothing is masked."""
        entry = self.training.start.model
        widths = shrink(model, strongest(model, self.asked.sparsity, self.asked.ranked))
        if not widths:
            raise InputError(
                "no channel goes", where=self.training.path, found=f"sparsity {self.asked.sparsity:g}", expected="more"
            )
        return ModelEntry(entry.name, msgspec.structs.replace(entry.config, widths={**entry.config.widths, **widths})), {}

    def _generate(self) -> None:
        asked, training = self.asked, self.training
        schedule = Schedule((asked.sparsity,), asked.scope, asked.warmup, asked.ramp)
        training.train(GeneratorTrainer, training.start, training.anew(), self.out, schedule=schedule)

    def _draw_tickets(self) -> None:
        asked, training, start = self.asked, self.training, self.training.start
        config, tuned = start.model.config, start.recipe.get("name") == FINE_TUNING["name"]
        if "seed" not in start.recipe or tuned or config.ranks or config.widths:
            raise InputError(
                "tickets go back to the weights that the model began with, which are not known",
                where=training.path,
                expected="a checkpoint that star-edge train made from nothing",
                hint="--method magnitude",
            )
        torch.manual_seed(int(start.recipe["seed"]))
        fresh = build_model(start.model.name, start.model.config)  # as the training of the checkpoint began
        tickets = Tickets(fresh.state_dict(), maskable(fresh), asked.sparsity, asked.rounds, asked.ranked)
        tickets.prune(start.state_dict)
        while True:
            begun = msgspec.structs.replace(start, state_dict=tickets.start(), quantisation=None)
            last = tickets.finished
            folder = self.out if last else self.out / f"round-{tickets.round}"
            self.say(f"round {tickets.round} of {asked.rounds}: {tickets.sparsity_after(tickets.round):.1%} are gone")
            training.train(MaskedTrainer, begun, training.anew(), folder, masks=tickets.masks)
            if last:
                return
            tickets.prune(load_checkpoint(folder / "ckpt.pt").state_dict)


def _check_channels(start: Checkpoint, model: nn.Module, path: Path) -> None:
    if start.model.config.ranks:
        raise InputError(
            "the model has low rank, and channels are taken out of whole matrices",
            where=path,
            hint="compress sparse --pattern channel on the checkpoint it was made from, then compress lowrank",
        )
    if not pairs(model):
        raise InputError(
            "the model has no hidden channels that one layer makes and one other reads",
            where=path,
            found=start.model.name,
            expected=f"one of {', '.join(filter(_has_channels, MODELS))}",
            hint="--pattern unstructured, or compress lowrank",
        )


def _has_channels(name: str) -> bool:
    with torch.device("meta"):
        return bool(pairs(build_model(name, model_config(name, NTU25, 4, 60))))


def _report(
    model: nn.Module,
    start: Checkpoint,
    path: Path,
    written: Path,
    asked: Asked,
    judge: Judge | None,
    cut: float | None,
    epochs: int,
    clips: int,
) -> SparseReport:
    after = build_from_checkpoint(load_checkpoint(written))
    arrays = parse_workload(WORKLOAD).make(start.skeleton, start.features)
    features, cu_seqlens = (torch.from_numpy(array) for array in arrays)
    times = median_seconds({"before": lambda: model(features, cu_seqlens), "after": lambda: after(features, cu_seqlens)})
    applications = count_applications(model, features, cu_seqlens)
    removed = _fewer_channels(model, after) if asked.pattern == "channel" else _zeros(after, asked.pattern)
    return SparseReport(
        checkpoint=str(written),
        start=str(path),
        model=start.model.name,
        method=asked.method,
        pattern=asked.pattern,
        before=size_of(model, applications, path, times["before"], judge),
        after=size_of(after, applications, written, times["after"], judge),
        cut_top1=cut,
        epochs=epochs,
        validation_clips=clips,
        **removed,
    )


def _fewer_channels(before: nn.Module, after: nn.Module) -> dict[str, Any]:
    """Fields of the report that say what is gone, of pattern channel."""
    widths = {path: (_width(before, path), _width(after, path)) for path in pairs(after)}
    whole, left = (sum(side) for side in zip(*widths.values(), strict=True))
    return {
        "sparsity": 1 - left / whole,
        "of_model": 1 - _parameters(after) / _parameters(before),
        "layers": (),
        "channels": tuple(NarrowedLayer(path, *width) for path, width in widths.items()),
        "stored": {"dense": 4 * _parameters(after)},
    }


def _zeros(after: nn.Module, pattern: SparsePattern) -> dict[str, Any]:
    """Fields of the report that say what is zero."""
    weights = weights_of(maskable(after))
    parameters, masked = _parameters(after), sum(weight.numel() for weight in weights.values())
    zeros = masked - sum(int(weight.count_nonzero()) for weight in weights.values())
    return {
        "sparsity": zeros / masked,
        "of_model": zeros / parameters,
        "layers": tuple(SparseLayer(name, tuple(weight.shape), density(weight)) for name, weight in weights.items()),
        "channels": (),
        "stored": _stored(weights, 4 * (parameters - masked), pattern),
    }


def _width(model: nn.Module, path: str) -> int:
    return len(model.get_parameter(f"{path}.weight"))


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _stored(weights: dict[str, torch.Tensor], others: int, pattern: SparsePattern) -> dict[str, int]:
    """Bytes by form of storage; ``others`` are those of what is never masked."""
    found = stored_forms(weights.values(), others)
    if pattern == "2:4":
        kept = sum(int(weight.count_nonzero()) for weight in weights.values())
        found["2:4"] = others + 4 * kept + -(-kept // 4)
    return found
