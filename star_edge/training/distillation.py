"""A trained model whose answers another one learns beside the labels (Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.clip import Clip
from runtime.errors import MismatchError
from runtime.files import sha256_of
from runtime.skeleton import Skeleton
from star_edge.training.batches import featurise
from star_edge.training.checkpoint import build_from_checkpoint, load_checkpoint


class Teacher:
    """The model of a checkpoint, in eval mode.

    Attributes:
        sha256: of the checkpoint.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        saved = load_checkpoint(path)
        self.path, self.sha256 = path, sha256_of(path)
        self.skeleton, self.class_names, self.features = saved.skeleton, saved.class_names, saved.features
        self._model = build_from_checkpoint(saved).to(device)
        self._device = device

    def check(self, skeleton: Skeleton, class_names: Sequence[str]) -> None:
        """Raise MismatchError where the student has other joints or classes."""
        for what, found, expected in (
            ("skeleton", self.skeleton.name, skeleton.name),
            ("joints", self.skeleton.joints, skeleton.joints),
            ("classes", tuple(self.class_names), tuple(class_names)),
        ):
            if found != expected:
                raise MismatchError(
                    f"the teacher has other {what} than the clips to learn from",
                    where=self.path,
                    found=_short(found),
                    expected=_short(expected),
                    hint="a teacher that was trained on this dataset",
                )

    @torch.no_grad()
    def logits(self, clips: Sequence[Clip]) -> Tensor:
        """[B, K], float32, by the features that it was trained with."""
        rows, cu_seqlens = featurise(clips, self.skeleton, self.features)
        logits: Tensor = self._model(torch.from_numpy(rows).to(self._device), torch.from_numpy(cu_seqlens).to(self._device))
        return logits.float()


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)), the mean over clips of [B, K] each."""
    student = (logits.float() / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(student, (teacher / temperature).log_softmax(1), reduction="batchmean", log_target=True)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
