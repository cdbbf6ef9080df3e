"""Latency of a checkpoint and of one compressed from it in the engines that run bundles, side by side."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from runtime.bundle import Bundle
from runtime.errors import GateError, MismatchError
from star_edge.bench.workloads import parse_workload
from star_edge.compression.judging import WORKLOAD, EngineTimes, median_seconds
from star_edge.engines import open_engine
from star_edge.export import export_checkpoint

_ENGINES = ("onnxruntime", "native")


def engine_times(before: Path, after: Path, say: Callable[[str], None] = lambda text: None) -> tuple[EngineTimes, ...]:
    """Times of both checkpoints in each engine, exported to a folder that goes again.

    None where an exported model does not give its checkpoint's answers, which is said: the checkpoint is written by now, and what else
    was measured of it is not to be lost.
    """
    with tempfile.TemporaryDirectory() as folder:
        bundles = {}
        for name, path in (("before", before), ("after", after)):
            say(f"exporting {path} to time it")
            try:
                bundles[name] = Bundle.open(export_checkpoint(path, Path(folder) / f"{name}.star").bundle)
            except GateError as error:
                say(f"engines are not timed, {path} cannot be exported: {error.what}")
                return ()
        manifest = bundles["before"].manifest
        clip = parse_workload(WORKLOAD).make(manifest.skeleton, manifest.features)
        return tuple(_times(engine, bundles, clip) for engine in _ENGINES)


def _times(engine: str, bundles: Mapping[str, Bundle], clip: tuple[np.ndarray, np.ndarray]) -> EngineTimes:
    calls = {}
    for name, bundle in bundles.items():
        with contextlib.suppress(MismatchError):  # it has no kernels for the model, or is not built here
            calls[name] = functools.partial(open_engine(bundle, engine, precision="fp32").run, *clip)
    times = {name: seconds * 1e3 for name, seconds in median_seconds(calls).items()}
    return EngineTimes(engine, times.get("before"), times.get("after"))
