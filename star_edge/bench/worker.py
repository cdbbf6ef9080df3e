"""The process that runs one engine: ``python -m star_edge.bench.worker``, requests on stdin, replies on stdout.

A process of its own gives each engine its own memory figure, its own thread pools and its own crash.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from functools import cache
from pathlib import Path
from typing import cast

import msgspec

from runtime.bundle import Bundle
from runtime.engine import Mode
from runtime.errors import StarEdgeError
from star_edge.bench.peers import PEERS
from star_edge.bench.protocol import Failed, Open, Opened, Ran, Rate, Reply, Request, Run, receive, send
from star_edge.bench.workloads import parse_workload
from star_edge.engines import open_engine

_MATMUL_SIZE, _MATMUL_SECONDS = 1024, 1.0


class Worker:
    """An opened engine and the workloads it has run."""

    def answer(self, request: Request) -> Reply:
        """Fulfil one request."""
        if isinstance(request, Open):
            return self._open(request)
        if isinstance(request, Run):
            return self._run(request)
        return Rate(_matmul_rate())

    def _open(self, request: Open) -> Opened:
        bundle = Bundle.open(request.bundle)
        manifest = bundle.manifest
        self._batch = cache(lambda name: parse_workload(name).make(manifest.skeleton, manifest.features))
        if request.engine in PEERS:
            self._forward, compute, provider = PEERS[request.engine](bundle, request.precision, request.threads)
            return Opened(compute, provider)
        engine = open_engine(
            bundle, request.engine, precision=request.precision, threads=request.threads, mode=cast("Mode", request.mode)
        )
        self._forward = engine.run
        report = engine.report()
        return Opened(report.compute, report.provider)

    def _run(self, request: Run) -> Ran:
        features, cu_seqlens = self._batch(request.workload)
        deadline = time.monotonic() + request.seconds
        times: list[float] = []
        preempted = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        for _ in range(request.untimed + request.timed):
            begun = time.perf_counter()
            logits = self._forward(features, cu_seqlens)
            times.append(time.perf_counter() - begun)
            if time.monotonic() > deadline and len(times) > request.untimed:
                break
        preempted = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - preempted
        return Ran(times[0], times[request.untimed :], logits.tolist(), _peak_rss_mb(), preempted)


def _matmul_rate() -> float:
    """Largest float32 multiply-accumulates per second of a square product in torch."""
    import torch

    a, b = torch.rand(2, _MATMUL_SIZE, _MATMUL_SIZE)
    best, deadline = float("inf"), time.monotonic() + _MATMUL_SECONDS
    while time.monotonic() < deadline:
        begun = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begun)
    return _MATMUL_SIZE**3 / best


def _peak_rss_mb() -> float:
    """High-water mark of this process. ``ru_maxrss`` alone would start at the size of the process that started this one."""
    try:
        status = Path("/proc/self/status").read_text()
        kilobytes = float(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kilobytes = peak / 1024 if sys.platform == "darwin" else float(peak)
    return kilobytes / 1024


def main() -> None:
    """Answer requests until the pipe closes. What libraries print goes to stderr, so that replies stay readable."""
    replies = os.dup(1)
    os.dup2(2, 1)
    worker = Worker()
    while True:
        try:
            request = msgspec.msgpack.decode(receive(0), type=Request)
        except EOFError:
            return
        try:
            reply: Reply = worker.answer(request)
        except StarEdgeError as error:
            reply = Failed(f"{error.what}; {error.hint}" if error.hint else error.what)
        except Exception as error:  # whatever a library raises belongs in the report, not in a traceback
            reply = Failed(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")
        send(replies, reply)


if __name__ == "__main__":
    main()
