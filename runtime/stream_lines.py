"""Streams as JSON lines: frames of tracked persons in, one result per hop out.

A frame is ``{"t": 12.3, "persons": [{"id": 1, "joints": [[x, y, z], ...]}]}``; ``t`` is optional and comes back in the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import msgspec
import numpy as np

from runtime.errors import InputError
from runtime.readers.decoding import JSON_ERRORS
from runtime.streaming import Stream, StreamResult

_LINE_LIMIT = 4 << 20  # bytes; a line without an end must not fill the memory


class TrackedPerson(msgspec.Struct, frozen=True):
    """A person of one frame: id of the tracker, V joints of x, y, z or x, y, score."""

    id: int | str
    joints: list[tuple[float, float, float]]


class Frame(msgspec.Struct, frozen=True):
    """One frame of the stream."""

    persons: list[TrackedPerson]
    t: float | None = None


class ResultLine(msgspec.Struct, frozen=True, kw_only=True):
    """What is written for one hop; label, name and confidence are null when nobody is tracked in the window.

    Attributes:
        t: time of the window's last frame, as it was given.
        frame: frames read so far.
        persons: ids in the window. rows: rows of its clip.
        label, name, confidence: the prediction.
    """

    t: float | None
    frame: int
    persons: tuple[int | str, ...]
    rows: int
    label: int | None = None
    name: str | None = None
    confidence: float | None = None


def recognise_lines(lines: BinaryIO, stream: Stream, source: str) -> Iterator[ResultLine]:
    """Push every line of ``lines`` into ``stream``; empty lines are passed over.

    Raises InputError naming ``source`` and the line when a line is no frame or its joints cannot be used.
    """
    number = 0
    while line := lines.readline(_LINE_LIMIT):
        number += 1
        where = f"{source}, line {number}"
        if len(line) == _LINE_LIMIT:
            raise InputError("line too long", where=where, expected=f"less than {_LINE_LIMIT} bytes")
        if not line.strip():
            continue
        frame = _decode(line, where)
        persons = [(person.id, np.array(person.joints)) for person in frame.persons]
        try:
            result = stream.push(persons)
        except InputError as error:
            place = where if error.where is None else f"{where}, {error.where}"
            raise InputError(error.what, where=place, found=error.found, expected=error.expected, hint=error.hint) from None
        if result is not None:
            yield _line_of(frame, result)


def _decode(line: bytes, where: str) -> Frame:
    try:
        return msgspec.json.decode(line, type=Frame)
    except JSON_ERRORS as error:
        raise InputError(
            f"not a frame: {error}",
            where=where,
            found=line[:80].decode(errors="replace").strip(),
            expected='{"t": 12.3, "persons": [{"id": 1, "joints": [[x, y, z], ...]}]}',
        ) from None


def _line_of(frame: Frame, result: StreamResult) -> ResultLine:
    line = ResultLine(t=frame.t, frame=result.frame, persons=result.persons, rows=result.rows)  # type: ignore[arg-type]
    prediction = result.prediction
    if prediction is None:
        return line
    return msgspec.structs.replace(line, label=prediction.label, name=prediction.name, confidence=prediction.confidence)
