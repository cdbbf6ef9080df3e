"""Recognition of a stream: a sliding window over tracked persons, one result per hop."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from runtime.clip import Clip
from runtime.errors import InputError
from runtime.recognizer import Prediction, Recognizer

WINDOW, HOP = 64, 16


@dataclass(frozen=True)
class StreamResult:
    """What one hop of the stream shows.

    Attributes:
        frame: frames pushed so far; the window ends with the last of them.
        persons: ids of the tracked persons in the window, in the order of their rows.
        rows: rows of the window's clip.
        prediction: None when nobody is tracked in the window.
    """

    frame: int
    persons: tuple[Hashable, ...]
    rows: int
    prediction: Prediction | None


class Stream:
    """A sliding window over frames of tracked persons.

    Every ``hop`` frames :meth:`push` returns a result; it equals recognising the clip of the last ``window`` frames (fewer
    at the start: the first result comes after ``hop`` frames). In that clip the persons stand one after the other, in the order
    in which they are first tracked in the window. A person absent from a frame has no row there, nor one whose joints
    are all zero (lost). When nobody is tracked in the window the result has no prediction.

    Holds ``window`` frames and nothing older, whatever ids come and go. Not for several threads at once; streams may
    share a recogniser.

    Args:
        recognizer: what recognises the window.
        window: frames looked at.
        hop: frames between two results.
    """

    def __init__(self, recognizer: Recognizer, window: int = WINDOW, hop: int = HOP) -> None:
        for name, value in (("window", window), ("hop", hop)):
            if value < 1:
                raise InputError(f"{name} of a stream without frames", found=value, expected="at least 1")
        self._recognizer, self._hop = recognizer, hop
        self._frames: deque[dict[Hashable, np.ndarray]] = deque(maxlen=window)
        self._count = 0

    @property
    def frames(self) -> int:
        """Frames taken so far."""
        return self._count

    def push(self, persons: Iterable[tuple[Hashable, np.ndarray]]) -> StreamResult | None:
        """Take one frame of (id, joints [V, 3]) pairs; returns a result when a hop is complete.

        Raises InputError for a wrong shape, a coordinate that is not finite or an id given twice; the frame is then not
        taken.
        """
        frame: dict[Hashable, np.ndarray] = {}
        for identity, joints in persons:
            if identity in frame:
                raise InputError(
                    "a person appears twice in one frame", found=f"id {identity!r}", expected="one entry a person"
                )
            frame[identity] = self._checked(identity, joints)
        self._frames.append({identity: joints for identity, joints in frame.items() if joints.any()})
        self._count += 1
        return self._result() if self._count % self._hop == 0 else None

    def window(self) -> Clip | None:
        """The clip of the frames now in the window, or None when nobody is tracked in it."""
        return self._assemble()[1]

    def _result(self) -> StreamResult:
        persons, clip = self._assemble()
        if clip is None:
            return StreamResult(self._count, (), 0, None)
        return StreamResult(self._count, persons, len(clip), self._recognizer(clip)[0])

    def _assemble(self) -> tuple[tuple[Hashable, ...], Clip | None]:
        tracks: dict[Hashable, list[np.ndarray]] = {}
        for frame in self._frames:
            for identity, joints in frame.items():
                tracks.setdefault(identity, []).append(joints)
        if not tracks:
            return (), None
        persons = [np.stack(rows) for rows in tracks.values()]
        return tuple(tracks), Clip.from_persons(persons, f"window ending at frame {self._count}")

    def _checked(self, identity: Hashable, joints: np.ndarray) -> np.ndarray:
        skeleton = self._recognizer.bundle.manifest.skeleton
        try:
            with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite and is refused below
                array = np.array(joints, dtype=np.float32)  # a copy: the caller may reuse its buffer
        except (TypeError, ValueError):
            raise InputError("joints are no array of numbers", where=f"person {identity!r}", expected="[V, 3]") from None
        if array.shape != (skeleton.num_joints, 3):
            raise InputError(
                "wrong joint count",
                where=f"person {identity!r}",
                found=f"shape {array.shape}",
                expected=f"({skeleton.num_joints}, 3) for {skeleton.name}",
            )
        if not np.isfinite(array).all():
            joint = int(np.argmin(np.isfinite(array).all(1)))
            raise InputError(
                "joints hold NaN or infinity",
                where=f"person {identity!r}",
                found=f"joint {joint}",
                expected="finite coordinates (zeros where a joint is lost)",
            )
        return array
