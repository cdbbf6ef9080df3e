"""What a conversion has done so far, one line a recording, so that a killed one can go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from runtime.readers.decoding import JSON_ERRORS
from star_edge.data.sources.base import Problem

Stamp = tuple[int, int]


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """A recording that went into the dataset: what the bytes of its clip do not say, and their CRC-32.

    Attributes:
        person_lengths, dropped: of the clip.
        frames, persons, label, class_name: of the recording.
    """

    crc32: int
    person_lengths: tuple[int, ...]
    frames: int
    persons: int
    dropped: int = 0
    label: int | None = None
    class_name: str | None = None


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One recording that is done, kept or left out; ``stamp`` tells the state of the file it was read from."""

    stamp: Stamp
    kept: Kept | None = None
    problem: Problem | None = None


class Journal:
    """Steps in a file of JSON lines, of which the first names the plan they belong to.

    A line that a kill cut off, and all after it, count as not written.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")

    def belongs_to(self, plan: str) -> bool:
        self._file.seek(0)
        return self._file.readline() == _line(plan)

    def start(self, plan: str) -> None:
        """Begin anew."""
        self._file.truncate(0)
        self._write(plan)

    def steps(self) -> Iterator[Step]:
        self._file.seek(0)
        self._file.readline()
        for line in self._file:
            try:
                step = msgspec.json.decode(line, type=Step)
            except JSON_ERRORS:
                return
            if not line.endswith(b"\n"):
                return
            yield step

    def cut(self, steps: int) -> None:
        """Forget all but the first ``steps``."""
        self._file.seek(0)
        for _ in range(1 + steps):
            self._file.readline()
        self._file.truncate(self._file.tell())

    def append(self, step: Step) -> None:
        self._write(step)

    def close(self) -> None:
        self._file.close()

    def _write(self, content: object) -> None:
        self._file.write(_line(content))
        self._file.flush()


def stamp_of(file: Path) -> Stamp:
    """Size in bytes and time of the last change in nanoseconds, zeros for a file that cannot be looked at."""
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _line(content: object) -> bytes:
    return msgspec.json.encode(content) + b"\n"
