"""Measure every engine of a bundle beside PyTorch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runtime.bundle import Bundle, write_report
from runtime.errors import InputError, MismatchError
from star_edge import __version__
from star_edge.bench import cuda
from star_edge.bench.host import read_host, usable_cores
from star_edge.bench.jetson import read_jetson
from star_edge.bench.macs import macs, padded_macs
from star_edge.bench.measure import Contender, Plan, Trial
from star_edge.bench.peak import Peak, measure_fma_peak
from star_edge.bench.process import EngineProcess, WorkerError
from star_edge.bench.report import BenchReport, BenchResult, Latency, Limit, WorkloadEntry
from star_edge.bench.workloads import DEFAULT_WORKLOADS, Workload, parse_workload
from star_edge.engines import ENGINES as BUNDLE_ENGINES
from star_edge.engines import choice_of_device
from star_edge.engines import precisions as precisions_of
from star_edge.models.config import StarConfig
from star_edge.models.registry import config_of

# engine -> its modes; one that has both is run per clip alone where a workload is a single clip
ENGINES = {
    "torch": ("per-clip", "packed"),
    "torch-pyg": ("packed",),
    "torch-compile": ("per-clip",),
    "torch-compile-static": ("per-clip",),
    "onnxruntime": ("per-clip", "packed"),
    "onnxruntime-clip": ("per-clip",),
    "openvino": ("per-clip",),
    "openvino-static": ("per-clip",),
    "native": ("packed",),
    "native-avx2": ("packed",),
}
# the others take packages of their own, or minutes to compile: they are measured when they are named
DEFAULT_ENGINES = ("torch", "torch-pyg", "torch-compile", "onnxruntime", "native")
_REFERENCE = ("torch", "fp32", "per-clip")
# the same on an NVIDIA GPU: PyTorch in its forms, and of our engines those that run there
CUDA_ENGINES = {
    "torch": ("per-clip", "packed"),
    "torch-pyg": ("packed",),
    "torch-compile": ("per-clip",),
    "native": ("packed",),
    **({"tensorrt": ("packed",)} if "tensorrt" in BUNDLE_ENGINES else {}),
}
_MODES = {"cpu": ENGINES, "cuda": CUDA_ENGINES}
# engines measured in every precision that this engine runs the bundle in; the others are measured in fp32
_PRECISIONS_OF = {"onnxruntime": "onnxruntime", "native": "native", "native-avx2": "native", "tensorrt": "tensorrt"}

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
Key = tuple[str, str, str]  # engine, precision, mode


def bench_bundle(
    bundle: Bundle | str | Path,
    *,
    workloads: Sequence[str] = DEFAULT_WORKLOADS,
    engines: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    threads: int | None = None,
    device: str = "cpu",
    plan: Plan = Plan(),
    track: Track | None = None,
) -> BenchReport:
    """Time engines on the same generated clips, device and threads, and write ``reports/bench.json``.

    Each engine runs in a process of its own; per workload they take turns. Eager PyTorch is always among them: its fp32
    answers are the reference, and a row that leaves its precision's tolerance (runtime.tolerances) gets no speed. Engines
    that are not installed or fail are rows with the reason.

    Args:
        bundle: an opened bundle or its folder.
        workloads: names, see ``parse_workload``.
        engines: names of ``ENGINES``, default ``DEFAULT_ENGINES``; on a GPU of ``CUDA_ENGINES``, default all.
        precisions: default: all that an engine runs the bundle in.
        threads: threads of every engine; default: the cores this process may use.
        device: ``cpu`` or ``cuda``.
        plan: how long to measure.
        track: wraps the iteration for a progress bar.

    Raises InputError (unknown workload or engine), MismatchError (a precision the bundle lacks; no PyTorch on the device to
    compare with).
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    bundle.require_folder("bench")  # said before the work: the report is written into it
    chosen = sorted(map(parse_workload, dict.fromkeys(workloads)), key=lambda workload: sum(workload.rows))
    keys = _keys(bundle, engines, precisions, any(workload.clips > 1 for workload in chosen), device)
    threads = threads or usable_cores()
    host, peak = read_host(), measure_fma_peak(threads) if device == "cpu" else None
    with _opened(bundle, keys, threads, device) as contenders:
        trials = _measure(contenders, chosen, plan, track)
        if host.jetson is not None:
            host = msgspec.structs.replace(host, jetson_after=read_jetson())
        again = measure_fma_peak(threads) if device == "cpu" else None
        if peak is None or again is None:
            peak = _matmul_peak(contenders[_REFERENCE], threads)
        else:
            peak = max(peak, again, key=lambda measured: measured.macs_per_s)
    results = _compare_speeds([trial.result() for trial in trials], chosen)
    entries = workload_entries(bundle, chosen)
    report = BenchReport(
        star_edge_version=__version__,
        bundle=bundle.path.resolve().name,
        bundle_id=bundle.manifest.bundle_id,
        host=host,
        device=device,
        threads=threads,
        rounds=plan.rounds,
        workloads=entries,
        results=results,
        limit=tuple(Limit(e.name, e.macs / peak.macs_per_s * 1e3, peak.macs_per_s, peak.how) for e in entries),
        latency=latency_gate(results),
        idle=tuple(row for trial in trials for row in trial.idle_results()),
    )
    write_report(bundle, "bench", msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    return report


def _keys(
    bundle: Bundle, engines: Sequence[str] | None, precisions: Sequence[str] | None, batches: bool, device: str
) -> list[Key]:
    """Contenders in the order of their turns, the reference first."""
    modes = _MODES[device]
    named = (CUDA_ENGINES if device == "cuda" else DEFAULT_ENGINES) if engines is None else engines
    unknown = set(named) - modes.keys()
    if unknown:
        other = [name for name, held in _MODES.items() if name != device and min(unknown) in held]
        raise InputError(
            f"no engine '{min(unknown)}' to measure on {device}",
            expected=f"one of {', '.join(modes)}",
            hint=f"--device {other[0]}" if other else None,
        )
    chosen = [engine for engine in modes if engine in named or engine == _REFERENCE[0]]
    computed = {
        engine: precisions_of(bundle, like, choice_of_device(like, device))
        for engine, like in _PRECISIONS_OF.items()
        if engine in chosen
    }
    if device == "cuda":
        computed |= {engine: form.precisions for engine, form in cuda.FORMS.items() if engine in chosen}
    for precision in precisions or ():
        if not any(precision in held for held in computed.values()):
            bundle.precision(precision)  # raises unless the bundle has a model of it
    return [
        (engine, precision, mode)
        for engine in chosen
        for precision in computed.get(engine, ("fp32",))
        if precisions is None or precision in precisions or engine not in computed or (engine, precision) == _REFERENCE[:2]
        for mode in modes[engine]
        if batches or mode == modes[engine][0]
    ]


@contextlib.contextmanager
def _opened(bundle: Bundle, keys: Sequence[Key], threads: int, device: str) -> Iterator[dict[Key, Contender]]:
    """Every contender's process, opened; ended on leaving."""
    with contextlib.ExitStack() as stack:
        contenders = {key: Contender(stack.enter_context(EngineProcess(*key, threads, device))) for key in keys}
        for contender in contenders.values():
            try:
                contender.opened = contender.process.open(str(bundle.path.resolve()))
            except WorkerError as error:
                contender.failure = str(error)
        yield contenders


def _measure(contenders: dict[Key, Contender], workloads: Sequence[Workload], plan: Plan, track: Track | None) -> list[Trial]:
    """All trials, workload by workload, smallest first."""
    turns: Iterable[tuple[Workload, int]] = [(workload, turn) for workload in workloads for turn in range(plan.rounds + 1)]
    total = len(workloads) * (plan.rounds + 1)
    if track is not None:
        turns = track(turns, "measuring", total)
    done: list[Trial] = []
    trials: list[Trial] = []
    for workload, turn in turns:
        if turn == 0:
            trials = [
                Trial(contender, workload.name, plan)
                for (engine, _, mode), contender in contenders.items()
                if workload.clips > 1 or mode == _MODES[contender.process.device][engine][0]
            ]
            reference = _warm_up(trials)
            done += trials
        else:
            for trial in trials:
                trial.take_turn(reference)
        if turn == plan.rounds:
            for gap_ms in plan.idle_ms:
                for trial in trials:
                    trial.call_after_idling(gap_ms, reference)
    return done


def _warm_up(trials: Sequence[Trial]) -> np.ndarray:
    """First calls of a workload; returns the reference's logits [B, K], which every other's are compared with."""
    reference = trials[0].warm_up()
    if reference is None:
        contender = trials[0].contender
        on_cpu = contender.process.device == "cpu"
        raise MismatchError(
            "there is no PyTorch to compare with",
            where=f"--device {contender.process.device}",
            found=contender.failure,
            expected="the torch engine running the bundle",
            hint="pip install 'star-edge[export]'"
            if on_cpu
            else "install a PyTorch with CUDA for this machine, or --device cpu",
        )
    for trial in trials[1:]:
        logits = trial.warm_up()
        if logits is not None:
            trial.judge(logits, reference)
    return reference


def _matmul_peak(reference: Contender, threads: int) -> Peak:
    if reference.process.device == "cuda":
        how = f"largest float32 matrix product rate of {reference.opened.provider}; tensor cores are faster"
    else:
        on = f"on {threads} thread{'s' if threads > 1 else ''}"
        how = f"largest float32 matrix product rate of torch {on}: no C compiler here to measure the FMA units"
    return Peak(reference.process.matmul_rate(), how)


def _compare_speeds(results: Sequence[BenchResult], workloads: Sequence[Workload]) -> tuple[BenchResult, ...]:
    """The rows with clips per second and speed beside both forms of PyTorch."""
    clips = {workload.name: workload.clips for workload in workloads}
    medians = {(row.engine, row.mode, row.workload): row.median_ms for row in results if row.precision == "fp32"}
    compared = []
    for row in results:
        if row.median_ms is not None:
            eager = medians["torch", "packed" if clips[row.workload] > 1 else "per-clip", row.workload]
            paper = medians.get(("torch-pyg", "packed", row.workload))
            row = msgspec.structs.replace(
                row,
                clips_per_s=clips[row.workload] / row.median_ms * 1e3,
                faster_than_torch=eager / row.median_ms if eager else None,
                faster_than_pyg=paper / row.median_ms if paper else None,
            )
        compared.append(row)
    return tuple(compared)


def workload_entries(bundle: Bundle, workloads: Sequence[Workload]) -> tuple[WorkloadEntry, ...]:
    """What the bundle's model has to do in each workload."""
    config = config_of(bundle)
    if isinstance(config, StarConfig):
        counted = {workload.name: macs(config, workload.rows) for workload in workloads}
    else:
        clip = padded_macs(bundle.manifest.model.name, config)
        counted = {workload.name: workload.clips * clip for workload in workloads}
    return tuple(
        WorkloadEntry(workload.name, workload.clips, sum(workload.rows), workload.persons, counted[workload.name])
        for workload in workloads
    )


def latency_gate(results: Sequence[BenchResult]) -> tuple[Latency, ...]:
    """Where int8 was measured beside other precisions of the same engine and mode: which one to keep."""
    groups: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in results:
        if row.median_ms is not None:
            groups.setdefault((row.engine, row.mode, row.workload), {})[row.precision] = row.median_ms
    gates = []
    for (engine, mode, workload), medians in groups.items():
        others = {precision: median for precision, median in medians.items() if precision != "int8"}
        if "int8" in medians and others:
            best = min(others, key=lambda precision: others[precision])
            faster = others[best] / medians["int8"]
            keep = "int8" if faster > 1 else best
            statement = (
                f"keep int8: {faster:.2f} times faster than {best} here"
                if faster > 1
                else f"keep {best}: int8 is not faster here ({medians['int8']:.2f} ms beside {others[best]:.2f} ms)"
            )
            gates.append(Latency(engine, mode, workload, medians, keep, statement))
    return tuple(gates)
