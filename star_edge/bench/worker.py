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
from star_edge.bench.peers import PEERS, Peer
from star_edge.bench.protocol import Failed, Open, Opened, Ran, Rate, Reply, Request, Run, receive, send
from star_edge.bench.workloads import parse_workload
from star_edge.engines import choice_of_device, open_engine

_MATMUL_SIZE = {"cpu": 1024, "cuda": 4096}
_MATMUL_SECONDS = 1.0


class Worker:
    """An opened engine and the workloads it has run."""

    def answer(self, request: Request) -> Reply:
        """Fulfil one request."""
        if isinstance(request, Open):
            return self._open(request)
        if isinstance(request, Run):
            return self._run(request)
        return Rate(_matmul_rate(self._device))

    def _open(self, request: Open) -> Opened:
        bundle = Bundle.open(request.bundle)
        manifest = bundle.manifest
        self._batch = cache(lambda name: parse_workload(name).make(manifest.skeleton, manifest.features))
        self._device = request.device
        peer = _open_peer(bundle, request)
        if peer is not None:
            self._forward, self._device_seconds = peer.run, peer.device_seconds
            return Opened(peer.compute, peer.provider)
        engine = open_engine(
            bundle,
            request.engine,
            precision=request.precision,
            threads=request.threads,
            mode=cast("Mode", request.mode),
            device=choice_of_device(request.engine, request.device),
        )
        self._forward, self._device_seconds = engine.run, getattr(engine, "device_seconds", None)
        report = engine.report()
        return Opened(report.compute, report.provider)

    def _run(self, request: Run) -> Ran:
        features, cu_seqlens = self._batch(request.workload)
        deadline = time.monotonic() + request.seconds
        times: list[float] = []
        device_times: list[float] = []
        preempted = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        for _ in range(request.untimed + request.timed):
            time.sleep(request.gap_s)
            begun = time.perf_counter()
            logits = self._forward(features, cu_seqlens)
            times.append(time.perf_counter() - begun)
            if self._device_seconds is not None:
                device_times.append(self._device_seconds())
            if time.monotonic() > deadline and len(times) > request.untimed:
                break
        preempted = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - preempted
        timed = slice(request.untimed, None)
        return Ran(times[0], times[timed], logits.tolist(), _peak_rss_mb(), preempted, device_times[timed])


def _open_peer(bundle: Bundle, request: Open) -> Peer | None:
    """A form of the model that is no engine of ours; None where an engine is asked for."""
    if request.device == "cuda":
        from star_edge.bench import cuda

        return cuda.open_peer(bundle, request.engine, request.precision, request.mode)
    return PEERS[request.engine](bundle, request.precision, request.threads) if request.engine in PEERS else None


def _matmul_rate(device: str) -> float:
    """Largest float32 multiply-accumulates per second of a square product in torch."""
    import torch

    size = _MATMUL_SIZE[device]
    a, b = torch.rand(2, size, size, device=device)
    best, deadline = float("inf"), time.monotonic() + _MATMUL_SECONDS
    while time.monotonic() < deadline:
        begun = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return size**3 / best


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
