"""What each kind of layer gains in speed by INT8, from graphs timed in turn in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from calibration.mixed import kind_of
from calibration.ranges import open_session
from calibration.report import LayerLatency

_WARM_UP = 3


def measure_layers(
    build: Callable[[tuple[str, ...]], bytes],
    modules: Sequence[str],
    inputs: Mapping[str, np.ndarray],
    *,
    workload: str,
    threads: int,
    rounds: int,
) -> LayerLatency:
    """Time the float graph, the INT8 graph, and the INT8 graph with each kind of layer left float.

    Args:
        build: the ONNX model in which just these modules are in INT8.
        modules: all that can be.
        inputs: of the graph; named by ``workload``.
        threads: of one call.
        rounds: calls of each graph, one a turn.
    """
    kinds = {kind: [module for module in modules if kind_of(module) == kind] for kind in dict.fromkeys(map(kind_of, modules))}
    graphs = {"float": build(()), "int8": build(tuple(modules))}
    graphs |= {kind: build(tuple(module for module in modules if module not in members)) for kind, members in kinds.items()}
    times = time_in_turn(graphs, inputs, threads, rounds)
    whole = times["int8"]
    return LayerLatency(
        workload=workload,
        threads=threads,
        rounds=rounds,
        float_ms=float(np.median(times["float"])) * 1e3,
        int8_ms=float(np.median(whole)) * 1e3,
        # paired by round: what slows the machine for a while slows both
        saved_us={kind: float(np.median(times[kind] - whole)) * 1e6 / len(members) for kind, members in kinds.items()},
    )


def time_in_turn(
    models: Mapping[str, bytes], inputs: Mapping[str, np.ndarray], threads: int, rounds: int
) -> dict[str, np.ndarray]:
    """Seconds of each call [rounds] of each ONNX model, one call of each a round, after a warm-up."""
    import onnx

    sessions = {
        name: open_session(onnx.load_model_from_string(model), optimise=True, threads=threads)
        for name, model in models.items()
    }
    seconds = {name: np.empty(rounds) for name in sessions}
    for turn in range(-_WARM_UP, rounds):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(["logits"], dict(inputs))
            if turn >= 0:
                seconds[name][turn] = time.perf_counter() - started
    return seconds
