"""The parent's side of a worker process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

import star_edge
from star_edge.bench.protocol import Failed, MeasureMatmul, Open, Opened, Ran, Rate, Reply, Request, Run, receive, send

_REPLY_LIMIT_S = 600.0
_ROOT = Path(star_edge.__file__).resolve().parents[1]

Answer = TypeVar("Answer", Opened, Ran, Rate)


class WorkerError(Exception):
    """A worker could not do what was asked; the text is the reason."""


class EngineProcess:
    """One engine in a process of its own, started at once; a context manager that ends it."""

    def __init__(self, engine: str, precision: str, mode: str, threads: int, device: str = "cpu") -> None:
        self.engine, self.precision, self.mode, self.threads, self.device = engine, precision, mode, threads, device
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "star_edge.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(threads),
            cwd=_ROOT,  # where -m looks first: no folder of the user's can stand in for a package of ours
            bufsize=0,
            start_new_session=True,  # torch.compile starts compilers and workers: they end with their group
        )

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def open(self, bundle: str) -> Opened:
        """Open the bundle; WorkerError when the engine refuses."""
        request = Open(bundle, self.engine, self.precision, self.mode, self.threads, self.device)
        return self._ask(request, Opened, _REPLY_LIMIT_S)

    def run(
        self,
        workload: str,
        *,
        untimed: int,
        timed: int,
        seconds: float = float("inf"),
        gap_s: float = 0.0,
        limit_s: float | None = None,
    ) -> Ran:
        """Run a workload, see :class:`~star_edge.bench.protocol.Run`; WorkerError when it fails or takes over ``limit_s``."""
        return self._ask(Run(workload, untimed, timed, seconds, gap_s), Ran, limit_s or _REPLY_LIMIT_S)

    def matmul_rate(self) -> float:
        """Largest rate of a float32 matrix product, multiply-accumulates per second; needs a torch engine."""
        return self._ask(MeasureMatmul(), Rate, _REPLY_LIMIT_S).macs_per_s

    def _ask(self, request: Request, kind: type[Answer], limit_s: float) -> Answer:
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: PT018
        try:
            send(self._process.stdin.fileno(), request)
            reply = msgspec.msgpack.decode(receive(self._process.stdout.fileno(), limit_s), type=Reply)
        except TimeoutError:
            self._kill()
            raise WorkerError(f"stopped: no answer within {limit_s:.0f} s") from None
        except (EOFError, BrokenPipeError):
            raise WorkerError(f"its process ended: {self._last_words()}") from None
        if isinstance(reply, Failed):
            raise WorkerError(reply.reason)
        assert isinstance(reply, kind)
        return reply

    def _kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}"


def _environment(threads: int) -> dict[str, str]:
    """The parent's environment with every thread pool at ``threads``."""
    return {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))}
