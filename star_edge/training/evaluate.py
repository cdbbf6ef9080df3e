"""Logits and accuracy of a model over clips."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from torch import nn

from runtime.clip import Clip
from runtime.features import FeatureRecipe
from runtime.skeleton import Skeleton
from star_edge.training.batches import featurise, group_by_frames, rows_of
from star_edge.training.parallel import ALONE, Group

FRAMES_PER_BATCH = 4096


class ClassAccuracy(msgspec.Struct, frozen=True):
    """Correct and all clips of one class."""

    name: str
    correct: int
    clips: int


class EvaluationReport(msgspec.Struct, frozen=True):
    """What ``star-edge evaluate --json`` prints."""

    checkpoint: str
    data: str
    split: str
    part: str
    clips: int
    correct: int
    top1: float
    top5: float
    classes: tuple[ClassAccuracy, ...]
    schema: str = "star-edge/evaluate/1"


@torch.no_grad()
def model_logits(
    model: nn.Module, clips: Sequence[Clip], skeleton: Skeleton, features: FeatureRecipe, group: Group = ALONE
) -> np.ndarray:
    """Logits float32 [N, K] of ``model`` (put in eval mode for the call), clips packed in order; the group's processes take
    batches in turn."""
    batches = group_by_frames(rows_of(clips), FRAMES_PER_BATCH)
    own = batches[group.rank :: group.size]
    training = model.training
    model.eval()
    found = []
    for indices in own or batches[:1]:  # a process without a batch takes one for the number of classes
        packed = featurise([clips[i] for i in indices], skeleton, features)
        found.append(model(*(torch.from_numpy(array).to(group.device) for array in packed)).float().cpu())
    model.train(training)
    logits = torch.zeros(len(clips), found[0].shape[1])
    for indices, answers in zip(own, found, strict=False):
        logits[indices] = answers
    return group.total(logits).numpy()


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Fraction of clips [N] whose label is among the k largest logits [N, K]; ties count by lower class index first."""
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((ranked == labels[:, None]).any(1).mean())


def class_accuracies(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> tuple[ClassAccuracy, ...]:
    """Per-class counts, in class order."""
    correct = logits.argmax(1) == labels
    return tuple(
        ClassAccuracy(name, int(correct[labels == label].sum()), int((labels == label).sum()))
        for label, name in enumerate(class_names)
    )
