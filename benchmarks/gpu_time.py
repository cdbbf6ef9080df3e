"""Times of calls on a GPU, which have to be right first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

CALLS, WARM_UP, FEWEST = 100, 10, 5
SECONDS = 1.0  # after which slow calls are not repeated any more
Call = Callable[[], torch.Tensor]


def time_ms(call: Callable[[], object]) -> dict[str, float]:
    """Median, p10 and p90 milliseconds of a call, each between two events; the GPU is idle before each."""
    begun = time.monotonic()
    for _ in range(WARM_UP):
        call()
        torch.cuda.synchronize()
        if time.monotonic() - begun > SECONDS / 2:
            break
    begun = time.monotonic()
    times: list[float] = []
    while len(times) < CALLS and (len(times) < FEWEST or time.monotonic() - begun < SECONDS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    median, low, high = np.percentile(times, [50, 10, 90])
    return {"median_ms": float(median), "p10_ms": float(low), "p90_ms": float(high), "calls": len(times)}


def captured(call: Call) -> Call:
    """The same work as a CUDA graph."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        result = call()

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay


def measure(make: Callable[[], Call], expected: torch.Tensor, tolerance: float) -> dict[str, Any]:
    """Times of a call whose answer is right before and after them; the reason where there are none."""
    try:
        with torch.no_grad():
            call = make()
            error = _error(call, expected)
            if error <= tolerance:
                times = time_ms(call)
                error = max(error, _error(call, expected))
                if error <= tolerance:
                    return {"relative_error": error, **times}
            return {"relative_error": error if math.isfinite(error) else None, "reason": "wrong answer"}
    except Exception as error:
        return {"reason": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


def _error(call: Call, expected: torch.Tensor) -> float:
    """Largest difference over the largest logit; infinite where an answer is not finite."""
    call().fill_(math.nan)  # a call that writes nothing leaves the last one's answer where it was
    error = float((call().double() - expected).abs().max() / expected.abs().max())
    return error if math.isfinite(error) else math.inf
