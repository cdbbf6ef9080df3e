"""Files read in processes, in order, with bounded memory."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from runtime.errors import InputError, StarEdgeError
from runtime.readers.ntu import Recording
from star_edge.data.sources.base import Problem

_FILES_PER_WORKER = 64  # starting a process costs as much as reading some dozens of files
_WINDOW = 64  # files in flight per worker process: enough to keep it busy, little enough to bound the memory


def read_files(read: Callable[[Path], Recording], files: Sequence[Path], workers: int) -> Iterator[Recording | Problem]:
    """Apply a reader to files, in order; what it cannot read becomes a Problem. ``read`` must be importable by its name."""
    return _map_files(partial(_read_file, read), files, workers)


def _read_file(read: Callable[[Path], Recording], path: Path) -> Recording | Problem:
    try:
        return read(path)
    except InputError as error:
        return Problem.of(error)
    except OSError as error:
        return Problem("file cannot be read", str(path), error.strerror or str(error), "a readable file")


def _map_files(
    read: Callable[[Path], Recording | Problem], files: Sequence[Path], workers: int
) -> Iterator[Recording | Problem]:
    """Apply ``read`` in order, in processes where that pays; at most _WINDOW files a worker are in flight."""
    workers = min(workers, len(files) // _FILES_PER_WORKER)
    if workers <= 1:
        yield from map(read, files)
        return
    # spawned, not forked: a fork of a process that runs torch threads may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        pending: deque[Future[Recording | Problem]] = deque()
        try:
            for file in files:
                pending.append(pool.submit(read, file))
                if len(pending) >= workers * _WINDOW:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise StarEdgeError("a conversion process died", hint="free some memory, or convert with --workers 1") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it: a worker of a killed parent would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
