"""What the bench and its worker processes say to each other: msgpack documents behind a length, over two pipes."""

from __future__ import annotations

import os
import select
import time

import msgspec

_LENGTH_BYTES = 8


class Open(msgspec.Struct, tag=True):
    """Open an engine that is measured on ``device``, ``cpu`` or ``cuda``. Answered by Opened."""

    bundle: str
    engine: str
    precision: str
    mode: str
    threads: int
    device: str


class Run(msgspec.Struct, tag=True):
    """Run a workload ``untimed`` times and then ``timed`` times, fewer once ``seconds`` have passed; sleep for ``gap_s``
    before each call. Answered by Ran."""

    workload: str
    untimed: int
    timed: int
    seconds: float
    gap_s: float


class MeasureMatmul(msgspec.Struct, tag=True):
    """Measure the largest rate of a float32 matrix product. Answered by Rate."""


class Opened(msgspec.Struct, tag=True):
    """What the engine reports to be really used."""

    compute: str
    provider: str


class Ran(msgspec.Struct, tag=True):
    """Seconds of each timed call, and of the first of all as ``first_s``; logits [B][K] of the last call; how often the
    system took a core away from this process meanwhile; seconds of each timed call on the GPU, where it counts them."""

    first_s: float
    times_s: list[float]
    logits: list[list[float]]
    peak_rss_mb: float
    preemptions: int
    device_times_s: list[float] = []


class Rate(msgspec.Struct, tag=True):
    """Multiply-accumulates per second."""

    macs_per_s: float


class Failed(msgspec.Struct, tag=True):
    """Why a request could not be fulfilled; the worker goes on."""

    reason: str


Request = Open | Run | MeasureMatmul
Reply = Opened | Ran | Rate | Failed


def send(descriptor: int, message: Request | Reply) -> None:
    """Write one message; raises BrokenPipeError when the other side is gone."""
    body = msgspec.msgpack.encode(message)
    data = memoryview(len(body).to_bytes(_LENGTH_BYTES, "little") + body)
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int, seconds: float | None = None) -> bytes:
    """One message's bytes; raises EOFError when the other side is gone, TimeoutError when it is not there in time."""
    deadline = None if seconds is None else time.monotonic() + seconds
    length = int.from_bytes(_read(descriptor, _LENGTH_BYTES, deadline), "little")
    return _read(descriptor, length, deadline)


def _read(descriptor: int, count: int, deadline: float | None) -> bytes:
    data = bytearray()
    while len(data) < count:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([descriptor], [], [], left)[0]:
            raise TimeoutError
        chunk = os.read(descriptor, count - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)
