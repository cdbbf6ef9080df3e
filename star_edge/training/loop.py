"""The training loop: packed batches, best checkpoint by validation, exact resume."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from runtime.clip import Clip
from runtime.errors import GateError, InputError, MismatchError
from runtime.skeleton import Skeleton
from star_edge.data import Dataset
from star_edge.models.config import manifest_fields
from star_edge.models.registry import build_model, model_config, registered
from star_edge.training.averaging import MovingAverage
from star_edge.training.batches import AugmentedBatches, Batch, most_persons
from star_edge.training.checkpoint import Checkpoint, DataEntry, ModelEntry, load_torch, save_checkpoint, save_torch
from star_edge.training.distillation import Teacher, distillation_loss
from star_edge.training.evaluate import model_logits, top_k_accuracy
from star_edge.training.event_log import append_scalars, new_event_file
from star_edge.training.parallel import ALONE, Group, share_batch_norms
from star_edge.training.recipe import Recipe

STATE_SCHEMA = "star-edge/training-state/1"

_EPOCHS_TO_LEARN = 10  # fewer may pass before a loss falls
_LEARNED_NOTHING = 0.99


@dataclass(frozen=True)
class Task:
    """What to train on.

    Attributes:
        fit, validation: clips and their labels int [N]; ``validation`` may be empty: then the last epoch is saved.
        data: where the clips come from, for the checkpoint.
    """

    fit: Sequence[Clip]
    fit_labels: np.ndarray
    validation: Sequence[Clip]
    validation_labels: np.ndarray
    skeleton: Skeleton
    class_names: tuple[str, ...]
    data: DataEntry

    @classmethod
    def of(cls, dataset: Dataset, split: str | None = None, fit: Sequence[str] = ("train",)) -> Task:
        """Fit the named parts of a split; validate on ``val`` unless it is fitted too."""
        scheme = split or dataset.meta.default_split
        fitted = np.concatenate([dataset.indices(scheme, part) for part in fit])
        validation = dataset.indices(scheme, "val") if "val" not in fit else fitted[:0]
        data = DataEntry(
            source=dataset.meta.source if dataset.path is None else str(dataset.path.resolve()),
            name=dataset.meta.name,
            split=scheme,
            sha256=dataset.meta.sha256,
            terms=dataset.meta.terms,
            fitted=tuple(fit),
        )
        return cls(
            fit=dataset.clips(fitted),
            fit_labels=dataset.labels[fitted],
            validation=dataset.clips(validation),
            validation_labels=dataset.labels[validation],
            skeleton=dataset.meta.skeleton,
            class_names=dataset.meta.class_names,
            data=data,
        )


@dataclass(frozen=True)
class Epoch:
    """One finished epoch, for progress and logs; accuracies are fractions, ``validation`` None without such clips."""

    number: int
    epochs: int
    loss: float
    accuracy: float
    validation: float | None
    best: bool


def learning_rate(recipe: Recipe, dim: int, step: int, steps_per_epoch: int) -> float:
    """Learning rate of the ``step``-th update (from 1). STAR, eq. 8 for ``noam``."""
    warmup = max(1.0, recipe.warmup_epochs * steps_per_epoch)
    if recipe.schedule == "noam":
        return recipe.lr * dim**-0.5 * min(step**-0.5, step * warmup**-1.5)
    if step <= warmup:
        return recipe.lr * step / warmup
    progress = (step - warmup) / max(1.0, recipe.epochs * steps_per_epoch - warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def constant_loss(labels: np.ndarray, classes: int, label_smoothing: float) -> float:
    """Least mean loss of a model that answers every clip alike: the entropy of the smoothed label frequencies."""
    shares = np.bincount(labels, minlength=classes) / len(labels) * (1 - label_smoothing) + label_smoothing / classes
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


class Trainer:
    """Trains one model into the folder ``out``: ``ckpt.pt`` (the best epoch), ``last.pt`` (to resume), TensorBoard events.

    The same task, recipe and seed give the same weights, also after a kill and ``resume``: every epoch draws from
    generators seeded with (seed, epoch). Any number of processes takes the same steps on the same batches, each on its part;
    without dropout the weights are the same but for rounding. The first process alone writes.

    Args:
        attention: ``sparse`` or ``full``. teacher: a model to learn from beside the labels. group: the processes.
    """

    def __init__(
        self,
        task: Task,
        model_name: str,
        recipe: Recipe,
        out: Path,
        seed: int = 0,
        attention: Any = "sparse",
        teacher: Teacher | None = None,
        group: Group = ALONE,
    ) -> None:
        if not len(task.fit):
            raise InputError("no clips to train on", where=task.data.source, found=f"split {task.data.split}")
        if teacher is not None:
            teacher.check(task.skeleton, task.class_names)
        self.task, self.recipe, self.out, self.seed = task, recipe, out, seed
        self.teacher, self.group = teacher, group
        self.model_entry = self._entry(model_name, attention)
        torch.manual_seed(seed)
        self.model = self._build().to(group.device)
        if group.size > 1:
            share_batch_norms(self.model)
        self._parallel = group.wrap(self.model)
        self.averaged = MovingAverage(self.model, recipe.ema) if recipe.ema else None
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
        self.optimizer = optimizer(
            _decay_groups(self.model, recipe.weight_decay), lr=recipe.lr, betas=recipe.betas, eps=recipe.eps
        )
        self.epoch, self.step, self.best = 0, 0, -1.0

    @property
    def evaluated(self) -> nn.Module:
        """The weights that are validated and saved: averaged ones if the recipe has them."""
        return self.averaged.module if self.averaged is not None else self.model

    def run(self, on_epoch: Callable[[Epoch], None] = lambda epoch: None) -> Path:
        """Train the remaining epochs and return the path of the checkpoint."""
        log = self._open_log()
        while self.epoch < self.recipe.epochs:
            loss, accuracy = self._fit_epoch()
            self._check_learning(loss)
            epoch = self._finish_epoch(loss, accuracy)
            validation = {} if epoch.validation is None else {"accuracy/validation": epoch.validation}
            if log is not None:
                append_scalars(log, self.epoch, {"loss": loss, "accuracy/fit": accuracy, **validation})
            on_epoch(epoch)
        return self.out / "ckpt.pt"

    def _open_log(self) -> Path | None:
        """TensorBoard's file of this run; None in all processes but the first."""
        if not self.group.is_first:
            return None
        self.out.mkdir(parents=True, exist_ok=True)
        return new_event_file(self.out)

    def resume(self) -> None:
        """Continue from ``last.pt`` of an interrupted run.

        Raises:
            InputError: there is none. MismatchError: it belongs to another recipe, seed, model or data.
        """
        path = self.out / "last.pt"
        state = self.group.from_first(lambda: load_torch(path))
        if state.get("schema") != STATE_SCHEMA:
            raise MismatchError("not a training state", where=path, found=state.get("schema"), expected=STATE_SCHEMA)
        for key, value in self._identity().items():
            if state.get(key) != value:
                raise MismatchError(
                    f"the interrupted run in {self.out} used another {key}",
                    where=path,
                    found=_short(state.get(key)),
                    expected=_short(value),
                    hint="repeat the options of that run, or choose another --out",
                )
        self.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]

    def _entry(self, model_name: str, attention: Any) -> ModelEntry:
        """Name and shape of the model to train."""
        recipe, task = self.recipe, self.task
        sizes = (task.skeleton, recipe.features.channels, len(task.class_names))
        fields: dict[str, Any] = {"dropout": recipe.dropout}
        if registered(model_name).padded:
            if recipe.features.channels not in (4, 10):
                raise InputError(
                    f"{model_name} has to tell persons apart",
                    found=f"a recipe with {recipe.features.channels} channels",
                    expected="4 or 10 channels, of which the last is the person's number",
                )
            fields |= {"persons": recipe.persons or most_persons(task.fit), "frames": recipe.frames}
        else:
            fields |= {
                "attention": attention,
                "attention_dropout": recipe.attention_dropout,
                "head_dropout": recipe.head_dropout,
            }
        return ModelEntry(model_name, model_config(model_name, *sizes, **fields))

    def _build(self) -> nn.Module:
        """The model to begin with."""
        return build_model(self.model_entry.name, self.model_entry.config)

    def _identity(self) -> dict[str, Any]:
        """What has to be equal for a run to be the continuation of another."""
        return {
            "model": {"name": self.model_entry.name, "config": manifest_fields(self.model_entry.config)},
            "seed": self.seed,
            "recipe": msgspec.to_builtins(self.recipe),
            "data": msgspec.to_builtins(self.task.data),
            "teacher": None if self.teacher is None else self.teacher.sha256,
        }

    def _fit_epoch(self) -> tuple[float, float]:
        """One pass over the clips: mean loss and accuracy on the augmented clips."""
        rng = np.random.default_rng((self.seed, self.epoch))
        torch.manual_seed(int(rng.integers(2**63)) + self.group.rank)
        task = self.task
        batches = AugmentedBatches(task.fit, task.skeleton, self.recipe, rng, self.group.rank, self.group.size)
        steps = math.ceil(len(batches) / self.recipe.accumulate)
        self.model.train()
        totals = torch.zeros(2, dtype=torch.float64)  # loss, right answers
        iterator = iter(batches)
        while step := list(itertools.islice(iterator, self.recipe.accumulate)):
            totals += self._step(step, steps)
        loss, correct = (self.group.total(totals) / len(task.fit)).tolist()
        return loss, correct

    def _step(self, batches: Sequence[Batch], steps: int) -> torch.Tensor:
        """One update from some batches, of ``steps`` in an epoch; summed loss and right answers of this process's clips."""
        recipe = self.recipe
        self.step += 1
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(recipe, self.model_entry.config.dim, self.step, steps)
        self.optimizer.zero_grad(set_to_none=True)
        size = sum(batch.size for batch in batches)
        totals = torch.zeros(2, dtype=torch.float64)
        for batch in batches:
            with self._exchange(batch is batches[-1]):
                loss, correct = self._loss(batch)
                # the mean over the step's clips of all processes, whose gradients are averaged
                (loss * (len(batch.indices) / size * self.group.size)).backward()
            totals += torch.tensor([loss.item() * len(batch.indices), correct], dtype=torch.float64)
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return totals

    def _loss(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """Mean loss of a batch's clips, and how many answers were right; a batch without clips has the loss 0."""
        device, recipe = self.group.device, self.recipe
        labels = torch.from_numpy(self.task.fit_labels[batch.indices]).long().to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.amp == "bf16"):
            logits = self._parallel(
                torch.from_numpy(batch.features).to(device), torch.from_numpy(batch.cu_seqlens).to(device)
            ).float()
        if not batch.clips:
            return logits.sum() * 0, 0
        taught = None if self.teacher is None else self.teacher.logits(batch.clips)

        def criterion(logits: torch.Tensor) -> torch.Tensor:
            loss = nn.functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            if taught is None:
                return loss
            return (1 - recipe.distillation) * loss + recipe.distillation * distillation_loss(
                logits, taught, recipe.temperature
            )

        loss, answers = self._objective(logits, criterion)
        loss = loss + self._penalty()
        self._check_finite(loss)
        return loss, int((answers.argmax(1) == labels).sum())

    def _objective(
        self, logits: torch.Tensor, criterion: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of what the model puts out in training, and its answers [B, K]; ``criterion`` takes logits [B, K]."""
        return criterion(logits), logits

    def _penalty(self) -> torch.Tensor | float:
        """What is added to the loss of a batch."""
        return 0.0

    def _exchange(self, now: bool) -> contextlib.AbstractContextManager[None]:
        """Whether gradients go round after this batch, or wait for the step's last one."""
        if now or not isinstance(self._parallel, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._parallel.no_sync()

    def _check_finite(self, value: torch.Tensor) -> None:
        if not bool(value.isfinite()):
            raise GateError(
                "training diverged",
                where=f"epoch {self.epoch + 1}, step {self.step}",
                found=f"{value.item()}",
                expected="finite loss and logits",
                hint="repeat with a lower --lr",
            )

    def _check_learning(self, loss: float) -> None:
        """Stop half-way in a run that has learned nothing: its outputs have become the same for every clip, and stay so.

        Large steps early on can bring this about: on one of five folds of some 220 clips ``lr`` 2e-3 did, with two seeds, and
        1e-3 did not.
        """
        halfway = self.recipe.epochs // 2
        constant = constant_loss(self.task.fit_labels, len(self.task.class_names), self.recipe.label_smoothing)
        if halfway >= _EPOCHS_TO_LEARN and self.epoch + 1 == halfway and loss > _LEARNED_NOTHING * constant > 0:
            raise GateError(
                "training has learned nothing",
                where=f"epoch {halfway} of {self.recipe.epochs}",
                found=f"loss {loss:.3f}",
                expected=f"well below {constant:.3f}, which one and the same answer for every clip would have",
                hint="repeat with a lower --lr",
            )

    def _finish_epoch(self, loss: float, accuracy: float) -> Epoch:
        """Validate, save the best weights and the state to resume from."""
        self.epoch += 1
        validation = self._validate()
        best = validation is None or self._is_better(validation)
        if best:
            self.best = self.best if validation is None else validation
        if self.group.is_first:
            self._save(accuracy, validation, best)
        return Epoch(self.epoch, self.recipe.epochs, loss, accuracy, validation, best)

    def _save(self, accuracy: float, validation: float | None, best: bool) -> None:
        if best:
            if self.epoch == 1:  # the state of an earlier run in this folder does not belong to the checkpoint that comes now
                (self.out / "last.pt").unlink(missing_ok=True)
            save_checkpoint(self._checkpoint(accuracy, validation), self.out / "ckpt.pt")
        state = {
            "schema": STATE_SCHEMA,
            **self._identity(),
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
        }
        save_torch(state, self.out / "last.pt")

    def _is_better(self, validation: float) -> bool:
        """Whether an epoch is kept; of equal ones the first."""
        return validation > self.best

    def _validate(self) -> float | None:
        if not len(self.task.validation):
            return None
        logits = model_logits(self.evaluated, self.task.validation, self.task.skeleton, self.recipe.features, self.group)
        self._check_finite(torch.from_numpy(logits).sum())
        return top_k_accuracy(logits, self.task.validation_labels)

    def _saved_weights(self) -> dict[str, torch.Tensor]:
        """State dict that goes into the checkpoint."""
        return self.evaluated.state_dict()

    def _checkpoint(self, accuracy: float, validation: float | None) -> Checkpoint:
        task = self.task
        return Checkpoint(
            model=self.model_entry,
            state_dict=self._saved_weights(),
            skeleton=task.skeleton,
            features=self.recipe.features,
            class_names=task.class_names,
            data=task.data,
            metrics={
                "epoch": self.epoch,
                "fit_accuracy": accuracy,
                "validation_accuracy": validation,
                "fit_clips": len(task.fit),
                "validation_clips": len(task.validation),
            },
            recipe={
                **msgspec.to_builtins(self.recipe),
                "seed": self.seed,
                **({} if self.teacher is None else {"teacher": str(self.teacher.path), "teacher_sha256": self.teacher.sha256}),
            },
        )


def _short(value: object) -> str:
    """A value as an error shows it; a model's edges alone would fill a screen."""
    text = str(value)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only: not on biases and norms."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
