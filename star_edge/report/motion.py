"""Clips as the player draws them: joints turned upright, and the prediction after every few frames."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from runtime.clip import Clip
from runtime.errors import GateError
from runtime.recognizer import Recognizer, softmax
from runtime.skeleton import Skeleton
from star_edge.report.clips import Shown

_SCALE = 1000  # joints are whole thousandths of half the scene
_MAX_FRAMES = 600  # drawn of one clip; a longer one is thinned out
_STEPS = 40  # predictions along a clip
_LINES = 4  # classes in the chart
_FPS = 30.0  # where the recording does not tell
_UPPER, _LOWER = ("head", "nose", "neck", "eye", "ear"), ("ankle", "foot", "heel", "knee")


class Line(msgspec.Struct, frozen=True):
    """Probability of a class after each step; ``truth`` where it is what the clip shows."""

    name: str
    values: tuple[float, ...]
    truth: bool


class Motion(msgspec.Struct, frozen=True, kw_only=True):
    """One clip for the player.

    Attributes:
        frames: how many are drawn; fps: of those. every: drawn frame i is frame ``i * every`` of the recording.
        persons: joints of each person, frame by frame and joint by joint: x to the right, y up, then z towards the viewer, or in 2-D
            layouts the score; None where a joint is lost.
        floor: the height of the feet.
        steps: frames after which a prediction was made; lines: its probabilities, the largest anywhere first.
        answer, confidence: of the whole clip. note: why there are none.
    """

    name: str
    why: str
    truth: str
    frames: int
    fps: float
    every: int
    persons: tuple[tuple[tuple[tuple[int, int, int] | None, ...], ...], ...]
    floor: int
    steps: tuple[int, ...]
    lines: tuple[Line, ...]
    answer: str
    confidence: float
    note: str = ""


def make_motions(recognizer: Recognizer, shown: Sequence[Shown], fps: float | None) -> tuple[Motion, ...]:
    """Every clip with the predictions of ``recognizer``; which way is up is decided over all of them."""
    skeleton = recognizer.bundle.manifest.skeleton
    up = upward(skeleton, [entry.clip.joints for entry in shown])
    return tuple(_motion(recognizer, entry, up, fps or _FPS) for entry in shown)


def upward(skeleton: Skeleton, joints: Sequence[np.ndarray]) -> tuple[int, int]:
    """The axis that points up and its sign, by where heads are above feet; (1, 1), y up, in a layout without such names.

    Args:
        joints: float32 [n, V, 3] of any number of clips.
    """
    upper, lower = (
        [i for i, name in enumerate(skeleton.joints) if any(part in name for part in parts)] for parts in (_UPPER, _LOWER)
    )
    rows = np.concatenate(joints)
    tracked = (rows[..., : skeleton.dims] != 0).any(-1)
    if not tracked[:, upper].any() or not tracked[:, lower].any():
        return 1, 1
    above = np.median(rows[:, upper][tracked[:, upper]], axis=0) - np.median(rows[:, lower][tracked[:, lower]], axis=0)
    axis = 1 if skeleton.dims == 2 or abs(above[1]) >= abs(above[2]) else 2
    return axis, 1 if above[axis] >= 0 else -1


def turned(joints: np.ndarray, up: tuple[int, int], dims: int) -> np.ndarray:
    """Joints [n, V, 3] as a viewer sees them: x to the right, y up, z towards the viewer; 2-D joints keep their score.

    In three dimensions this is a rotation, so that left stays left: cameras with y up look along z, with x to their left.
    """
    x, y, z = np.moveaxis(joints, -1, 0)
    if dims == 2:
        return np.stack([x, up[1] * y, z], axis=-1)
    views = {(1, 1): (-x, y, -z), (1, -1): (x, -y, -z), (2, 1): (x, z, -y), (2, -1): (x, -z, y)}
    return np.stack(views[up], axis=-1)


def prefix(clip: Clip, frames: int) -> Clip:
    """The clip as it was after ``frames`` frames: that many rows of each person."""
    persons = np.split(clip.joints, np.cumsum(clip.person_lengths)[:-1])
    kept = [person[:frames] for person in persons]
    return Clip(np.concatenate(kept), tuple(len(person) for person in kept), clip.name)


def _motion(recognizer: Recognizer, shown: Shown, up: tuple[int, int], fps: float) -> Motion:
    skeleton, clip = recognizer.bundle.manifest.skeleton, shown.clip
    frames = max(clip.person_lengths)
    every = -(-frames // _MAX_FRAMES)
    tracked = (clip.joints[..., : skeleton.dims] != 0).any(-1)
    view = _scaled(turned(clip.joints, up, skeleton.dims), tracked, skeleton.dims)
    persons = []
    for rows, seen in zip(*(np.split(array, np.cumsum(clip.person_lengths)[:-1]) for array in (view, tracked)), strict=True):
        persons.append(tuple(_row(row, there) for row, there in zip(rows[::every], seen[::every], strict=True)))
    steps = tuple(int(step) for step in np.unique(np.linspace(1, frames, min(frames, _STEPS)).round().astype(int)))
    truth = "" if shown.label is None else recognizer.class_names[shown.label]
    lines, answer, confidence, note = _predictions(recognizer, clip, steps, shown.label)
    return Motion(
        name=clip.name,
        why=shown.why,
        truth=truth,
        frames=len(range(0, frames, every)),
        fps=fps / every,
        every=every,
        persons=tuple(persons),
        floor=int(np.percentile(view[..., 1][tracked], 1)) if tracked.any() else -_SCALE,
        steps=steps,
        lines=lines,
        answer=answer,
        confidence=confidence,
        note=note,
    )


def _scaled(view: np.ndarray, tracked: np.ndarray, dims: int) -> np.ndarray:
    """Whole numbers: the scene around zero, reaching to about ``_SCALE``; scores of 2-D joints in thousandths."""
    low, high = np.percentile(view[tracked][:, :dims], (1, 99), axis=0) if tracked.any() else (np.zeros(dims), np.ones(dims))
    reach = max(float((high - low).max()) / 2, 1e-6)
    scaled = np.round(view * _SCALE)
    scaled[..., :dims] = np.round((view[..., :dims] - (low + high) / 2) / reach * _SCALE)
    return scaled.astype(np.int64)


def _row(joints: np.ndarray, tracked: np.ndarray) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(
        (int(x), int(y), int(z)) if there else None for (x, y, z), there in zip(joints.tolist(), tracked, strict=True)
    )


def _predictions(
    recognizer: Recognizer, clip: Clip, steps: Sequence[int], label: int | None
) -> tuple[tuple[Line, ...], str, float, str]:
    """Lines of the chart, the answer to the whole clip, its confidence, and a note where the engine has no answer."""
    try:
        probabilities = softmax(recognizer.logits([prefix(clip, step) for step in steps]))
    except GateError as error:
        return (), "", 0.0, error.what
    names, last = recognizer.class_names, int(probabilities[-1].argmax())
    order = np.argsort(-probabilities.max(0), kind="stable").tolist()
    first = [i for i in dict.fromkeys([label, last]) if i is not None]
    shown = [*first, *(i for i in order if i not in first)][:_LINES]
    lines = tuple(Line(names[i], tuple(np.round(probabilities[:, i], 3).tolist()), i == label) for i in shown)
    return lines, names[last], round(float(probabilities[-1, last]), 4), ""
