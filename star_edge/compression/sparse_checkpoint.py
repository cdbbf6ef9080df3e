"""A sparse checkpoint from a trained one: masks by magnitude, lottery tickets, or a sparse generator; zeros are baked in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import torch
from torch import nn

from runtime.errors import InputError
from runtime.files import sha256_of
from star_edge.bench.workloads import parse_workload
from star_edge.compression.judging import WORKLOAD, FineTuning, Judge, Size, median_seconds, recorded_task, size_of
from star_edge.compression.masks import Scope, apply_masks, density, make_masks, maskable, stored_bytes, weights_of
from star_edge.compression.pruning import Tickets
from star_edge.compression.ranks import count_applications
from star_edge.models.registry import build_model
from star_edge.training.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint, save_checkpoint
from star_edge.training.distillation import Teacher
from star_edge.training.fine_tuning import FineTuner
from star_edge.training.loop import Task
from star_edge.training.parallel import ALONE, Group
from star_edge.training.recipe import FINE_TUNING, Recipe, continued_recipe
from star_edge.training.sparse import GeneratorTrainer, MaskedTrainer, Schedule

Method: TypeAlias = Literal["magnitude", "tickets", "generator"]
SparsePattern: TypeAlias = Literal["unstructured", "2:4"]


class SparseLayer(msgspec.Struct, frozen=True):
    """A layer whose weights were masked: share that is left."""

    path: str
    shape: tuple[int, ...]
    density: float


class SparseReport(msgspec.Struct, frozen=True):
    """What ``star-edge compress sparse --json`` prints.

    Attributes:
        checkpoint: the sparse one. start: the one it was made from.
        sparsity: share of the masked layers' weights that are zero; of_model: of all parameters.
        layers: those that were masked.
        before, after: the model, and the sparse one as it was written; its parameters are all that are stored, zeros too.
        stored: bytes of all parameters in float32: ``dense``; masked layers as ``bitmap`` and values, as ``csr``; and, of
            pattern 2:4, as ``2:4``, values and two bits each.
        cut_top1: on val clips of the masked model before fine-tuning; None where masks were learnt in training.
        epochs: of training, of the last round.
    """

    checkpoint: str
    start: str
    model: str
    method: Method
    pattern: SparsePattern
    sparsity: float
    of_model: float
    layers: tuple[SparseLayer, ...]
    before: Size
    after: Size
    stored: dict[str, int]
    cut_top1: float | None
    epochs: int
    validation_clips: int
    schema: str = "star-edge/compress-sparse/1"


class Asked(msgspec.Struct, frozen=True):
    """How sparse, and by which method.

    Attributes:
        sparsity: share of the masked layers' weights to remove; of pattern 2:4 always a half.
        scope: whether weights are ranked over the network, or within each layer (of a generator: block).
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
) -> SparseReport:
    """Write ``out/ckpt.pt``, a sparse model of the kind in the checkpoint at ``path``.

    Args:
        data, split: default: the recorded dataset, and its split; needed for training, and for accuracies.
        tuning: epochs of training under masks; of tickets in each round, and of the generator from nothing.
        say: takes what people should know while it runs. run: trains.

    Raises InputError (a checkpoint that cannot be used, no data to train on), MismatchError.
    """
    start = load_checkpoint(path)
    if path.resolve() == (out / "ckpt.pt").resolve():
        raise InputError("the checkpoint to begin with would be overwritten", where=path, hint="another --out")
    task = recorded_task(start, path, data, split, required=tuning.epochs > 0, verb="compress sparse")
    judge = None if task is None else Judge(task, start)
    model = build_from_checkpoint(start)
    maker = _Maker(start, path, out, asked, task, tuning, seed, group, say, run)
    out.mkdir(parents=True, exist_ok=True)
    cut = maker.make(model, judge)
    written = out / "ckpt.pt"
    return _report(model, start, path, written, asked, judge, cut, tuning.epochs, 0 if task is None else len(task.validation))


class _Maker:
    """Makes the sparse checkpoint by one of the methods."""

    def __init__(
        self,
        start: Checkpoint,
        path: Path,
        out: Path,
        asked: Asked,
        task: Task | None,
        tuning: FineTuning,
        seed: int,
        group: Group,
        say: Callable[[str], None],
        run: Callable[[FineTuner], object],
    ) -> None:
        self.start, self.path, self.out, self.asked, self.task = start, path, out, asked, task
        self.tuning, self.seed, self.group, self.say, self.run = tuning, seed, group, say, run

    def make(self, model: nn.Module, judge: Judge | None) -> float | None:
        """Write the checkpoint; val accuracy of the masked model before training, where there is such."""
        if self.asked.method == "generator":
            self._generate()
            return None
        if self.asked.method == "tickets":
            self._draw_tickets()
            return None
        masks = make_masks(self.asked.pattern, weights_of(maskable(model)), self.asked.sparsity, self.asked.ranked)
        cut = copy.deepcopy(model)
        apply_masks(cut, masks)
        top1 = None if judge is None else judge.accuracy(cut)
        state = {name: tensor.clone() for name, tensor in cut.state_dict().items()}
        metrics = {**self.start.metrics, "validation_accuracy": top1}
        masked = msgspec.structs.replace(self.start, state_dict=state, metrics=metrics, quantisation=None)
        if self.tuning.epochs:
            self._train(MaskedTrainer(*self._begin(masked, self.out, self._fine_tuning()), **self._with(), masks=masks))
        else:
            save_checkpoint(masked, self.out / "ckpt.pt")
        return top1

    def _generate(self) -> None:
        asked = self.asked
        schedule = Schedule(asked.sparsity, "network" if asked.scope == "network" else "block", asked.warmup, asked.ramp)
        self._train(GeneratorTrainer(*self._begin(self.start, self.out, self._own()), **self._with(), schedule=schedule))

    def _draw_tickets(self) -> None:
        asked, start = self.asked, self.start
        if "seed" not in start.recipe or start.recipe.get("name") == FINE_TUNING["name"] or start.model.config.ranks:
            raise InputError(
                "tickets go back to the weights that the model began with, which are not known",
                where=self.path,
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
            trainer = MaskedTrainer(*self._begin(begun, folder, self._own()), **self._with(), masks=tickets.masks)
            self._train(trainer)
            if last:
                return
            tickets.prune(load_checkpoint(folder / "ckpt.pt").state_dict)

    def _begin(self, start: Checkpoint, folder: Path, recipe: Recipe) -> tuple[Task, Checkpoint, str, Recipe, Path, int]:
        assert self.task is not None
        return self.task, start, sha256_of(self.path), recipe, folder, self.seed

    def _with(self) -> dict[str, Any]:
        return {"teacher": Teacher(self.path, self.group.device) if self.tuning.distil else None, "group": self.group}

    def _fine_tuning(self) -> Recipe:
        return self._recipe(FINE_TUNING)

    def _own(self) -> Recipe:
        """The recipe of the checkpoint, for training from the beginning."""
        return self._recipe({})

    def _recipe(self, changes: dict[str, Any]) -> Recipe:
        start, tuning = self.start, self.tuning
        return continued_recipe(start.model.name, start.recipe, start.features, changes, epochs=tuning.epochs, lr=tuning.lr)

    def _train(self, trainer: FineTuner) -> None:
        if self.tuning.resume and (trainer.out / "last.pt").exists():
            trainer.resume()
        self.run(trainer)


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
    weights = weights_of(maskable(after))
    arrays = parse_workload(WORKLOAD).make(start.skeleton, start.features)
    features, cu_seqlens = (torch.from_numpy(array) for array in arrays)
    times = median_seconds({"before": model, "after": after}, features, cu_seqlens)
    applications = count_applications(model, features, cu_seqlens)
    masked = sum(weight.numel() for weight in weights.values())
    zeros = masked - sum(int(weight.count_nonzero()) for weight in weights.values())
    parameters = sum(parameter.numel() for parameter in after.parameters())
    return SparseReport(
        checkpoint=str(written),
        start=str(path),
        model=start.model.name,
        method=asked.method,
        pattern=asked.pattern,
        sparsity=zeros / masked,
        of_model=zeros / parameters,
        layers=tuple(SparseLayer(name, tuple(weight.shape), density(weight)) for name, weight in weights.items()),
        before=size_of(model, applications, path, times["before"], judge),
        after=size_of(after, applications, written, times["after"], judge),
        stored=_stored(list(weights.values()), 4 * (parameters - masked), asked.pattern),
        cut_top1=cut,
        epochs=epochs,
        validation_clips=clips,
    )


def _stored(weights: list[torch.Tensor], others: int, pattern: SparsePattern) -> dict[str, int]:
    """Bytes by form of storage; ``others`` are those of what is never masked."""
    each = [stored_bytes(weight) for weight in weights]
    found = {form: others + sum(sizes[form] for sizes in each) for form in ("dense", "bitmap", "csr")}
    if pattern == "2:4":
        kept = sum(int(weight.count_nonzero()) for weight in weights)
        found["2:4"] = others + 4 * kept + -(-kept // 4)
    return found
