"""From joints to named actions: features, an engine, and the checks between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from runtime.bundle import Bundle
from runtime.clip import Clip, pack_clips
from runtime.engine import Engine
from runtime.errors import GateError, InputError
from runtime.features import compute_features
from runtime.readers import read_clips
from runtime.tolerances import relative_error

ClipLike: TypeAlias = Clip | np.ndarray | str | Path


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one clip shows.

    Attributes:
        label: index of the class.
        name: its name.
        confidence: its softmax probability.
        logits: float32 [K].
        class_names: K names.
    """

    label: int
    name: str
    confidence: float
    logits: np.ndarray
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, logits: np.ndarray, class_names: tuple[str, ...]) -> Prediction:
        """The prediction that logits [K] stand for; of equal logits the first class wins."""
        label = int(np.argmax(logits))
        return cls(label, class_names[label], float(softmax(logits)[label]), logits, class_names)

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The k most probable classes, (name, probability), best first."""
        probabilities = softmax(self.logits)
        order = np.argsort(-probabilities, kind="stable")[:k]
        return [(self.class_names[i], float(probabilities[i])) for i in order]


@dataclass(frozen=True)
class SelfTest:
    """Golden clips through the engine: the largest error relative to the largest logit, and the one allowed."""

    precision: str
    clips: int
    error: float
    tolerance: float


class Recognizer:
    """A bundle opened with an engine; ``star_edge.load`` makes one. Safe to call from several threads.

    Attributes:
        bundle: the opened bundle.
        engine: the opened engine.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle, self.engine = bundle, engine

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.bundle.class_names

    def __call__(self, clips: ClipLike | Sequence[ClipLike]) -> list[Prediction]:
        """Recognise clips.

        Args:
            clips: one or several of: Clip; array [n, V, 3] of one person (rows with all joints zero are dropped);
                path of a file that ``runtime.readers`` reads.

        Returns:
            One prediction per clip, in order.

        Raises InputError naming the clip when there is nothing to recognise, the joints do not fit the bundle's
        skeleton, or a coordinate is not finite.
        """
        return [Prediction.of(logits, self.class_names) for logits in self.logits(clips)]

    def logits(self, clips: ClipLike | Sequence[ClipLike]) -> np.ndarray:
        """Logits float32 [B, K] of clips, given and checked as in :meth:`__call__`."""
        read = self._read(clips)
        if not read:
            raise InputError("no clips to recognise", found="an empty list", expected="at least one clip")
        for index, clip in enumerate(read):
            self._check(clip, clip.name or f"clip {index}")
        joints, cu_seqlens, person_lengths = pack_clips(read)
        logits = self._run(joints, cu_seqlens, person_lengths)
        bad = np.flatnonzero(~np.isfinite(logits).all(1))
        if len(bad):
            name = read[bad[0]].name or f"clip {bad[0]}"
            raise GateError(
                f"the engine's answer is not finite: {self.engine.precision} overflows on this clip",
                where=name,
                hint="use --precision fp32, and check the units of the joints",
            )
        return logits

    def self_test(self) -> SelfTest:
        """Run the golden clips through the engine; GateError unless its logits are within the bundle's tolerance."""
        golden = self.bundle.golden()
        logits = self._run(golden.joints, golden.cu_seqlens, golden.person_lengths)
        precision = self.engine.precision
        error, tolerance = relative_error(logits, golden.logits), golden.tolerances[precision]
        if not error <= tolerance:
            raise GateError(
                f"the golden clips give other logits with {self.engine.name} {precision}",
                where=self.bundle.path,
                found=f"relative error {error:.2e}",
                expected=f"at most {tolerance:.0e}",
                hint="star-edge verify",
            )
        return SelfTest(precision, len(golden.names), error, tolerance)

    def _run(self, joints: np.ndarray, cu_seqlens: np.ndarray, person_lengths: np.ndarray) -> np.ndarray:
        manifest = self.bundle.manifest
        features = compute_features(joints, person_lengths, manifest.skeleton, manifest.features)
        return self.engine.run(features, cu_seqlens)

    def _read(self, clips: ClipLike | Sequence[ClipLike]) -> list[Clip]:
        if isinstance(clips, (Clip, np.ndarray, str, Path)):
            clips = [clips]
        read: list[Clip] = []
        for index, clip in enumerate(clips):
            if isinstance(clip, Clip):
                read.append(clip)
            elif isinstance(clip, np.ndarray):
                read.append(self._clip_of(clip, f"clip {index}"))
            elif isinstance(clip, (str, Path)):
                read.extend(read_clips(Path(clip)))
            else:
                raise InputError(
                    "not a clip", where=f"clip {index}", found=type(clip).__name__, expected="Clip, array [n, V, 3] or path"
                )
        return read

    def _clip_of(self, array: np.ndarray, name: str) -> Clip:
        joints = self.bundle.manifest.skeleton.num_joints
        if array.ndim != 3 or array.dtype.kind not in "fiu":
            raise InputError(
                "an array is no clip", where=name, found=f"{array.dtype} {array.shape}", expected=f"numbers [n, {joints}, 3]"
            )
        if len(array) == 0:
            raise InputError("empty clip", where=name, found="no rows", expected="at least one row")
        return Clip.from_persons([array], name)

    def _check(self, clip: Clip, name: str) -> None:
        """Raise InputError unless the clip is non-empty, of the bundle's layout and finite."""
        skeleton = self.bundle.manifest.skeleton
        if len(clip) == 0:
            raise InputError("empty clip", where=name, found="no rows", expected="at least one row")
        if clip.joints.shape[1:] != (skeleton.num_joints, 3):
            raise InputError(
                "wrong joint count" if clip.joints.shape[1] != skeleton.num_joints else "wrong number of coordinates",
                where=name,
                found=f"{clip.joints.shape[1]} joints of {clip.joints.shape[2]} numbers",
                expected=f"{skeleton.num_joints} joints of 3 numbers ({skeleton.name})",
                hint="use a bundle trained on this skeleton",
            )
        finite = np.isfinite(clip.joints).all(axis=(1, 2))
        if not finite.all():
            row = int(np.argmin(finite))
            joint = int(np.argmin(np.isfinite(clip.joints[row]).all(1)))
            raise InputError(
                "joints hold NaN or infinity",
                where=name,
                found=f"row {row}, joint {joint}",
                expected="finite coordinates (zeros where a joint is lost)",
            )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float64 [..., K] of logits [..., K]."""
    wide = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(wide - wide.max(-1, keepdims=True))
    probabilities: np.ndarray = shifted / shifted.sum(-1, keepdims=True)
    return probabilities
