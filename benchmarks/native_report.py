"""What ``benchmarks/native.py`` keeps, and how its figures are compared with what the native runtime promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from star_edge.bench import BenchReport, BenchResult
from star_edge.bench.report import Host

WORKLOADS = ("1x32", "1x300", "mix8")
SMALL, LARGE = "star-64", "star-128"
_RIVALS = ("torch", "onnxruntime", "openvino")  # how the names of all that is no engine of ours begin
_LOWER = ("bf16", "int8")


class FrameTime(msgspec.Struct, frozen=True):
    """The native engine on one clip of so many frames: median milliseconds of a call over its frames."""

    precision: str
    frames: int
    calls: int
    ms_per_frame: float


class Memory(msgspec.Struct, frozen=True):
    """High-water mark of ``star-run`` recognising one clip from an .npz file, in MB of 1024 KB."""

    precision: str
    frames: int
    peak_rss_mb: float


class Load(msgspec.Struct, frozen=True):
    """Medians of opening a model from Python, in milliseconds, with its files in the system's cache.

    Attributes:
        parse_ms: ``star_model_load_bytes`` alone, of bytes in memory: manifest and weights are read, packed for the kernels and,
            in int8, quantised.
        engine_ms: the engine of an opened bundle: the files it needs read and hashed, ``star_model_load_bytes``, and a first
            context with its threads. Loading the library, once a process, is not in it.
        bundle_ms: ``Bundle.open`` before that, which hashes every file, the ONNX models that the engine does not need included.
    """

    model: str
    precision: str
    parse_ms: float
    engine_ms: float
    bundle_ms: float


class StreamRun(msgspec.Struct, frozen=True, kw_only=True):
    """Frames pushed through ``star-run --stream -``.

    Attributes:
        tracks: persons who came and went.
        results: lines that came back; ``compared`` of them with the same windows run alone by the engine.
        rss_mb: resident memory after each tenth of the frames.
        max_confidence_err: largest difference of a probability. other_labels: predictions of another class.
    """

    precision: str
    frames: int
    tracks: int
    seconds: float
    results: int
    compared: int
    rss_mb: tuple[float, ...]
    max_confidence_err: float
    other_labels: int


class Profile(msgspec.Struct, frozen=True):
    """Where the time of the native engine goes on one clip of 300 frames: each stage's share of the time of all threads."""

    model: str
    precision: str
    median_ms: float
    shares: dict[str, float]


class Asked(msgspec.Struct, frozen=True):
    """One promise. ``found`` and ``met`` are None where it was not measured, or a row it needs has no speed."""

    what: str
    asked: str
    found: float | None
    met: bool | None
    of: str = ""


class NativeReport(msgspec.Struct, frozen=True, kw_only=True):
    """``results/native-*.json``. ``bench`` is by model; ``quick`` says that it was a trial run, whose times mean nothing."""

    command: str
    host: Host
    quick: bool
    threads: int
    bench: dict[str, BenchReport]
    frame_times: tuple[FrameTime, ...]
    memory: tuple[Memory, ...]
    load: tuple[Load, ...]
    stream: StreamRun
    wheel_bytes: int | None
    asked: tuple[Asked, ...]
    profiles: tuple[Profile, ...] = ()
    schema: str = "star-edge/native/1"


class _Ratio(NamedTuple):
    value: float | None
    of: str


def summarise(
    bench: dict[str, BenchReport],
    frame_times: Sequence[FrameTime],
    memory: Sequence[Memory],
    load: Sequence[Load],
    wheel_bytes: int | None,
) -> tuple[Asked, ...]:
    """Every promise with what was found; ``bench`` is by model."""
    small, large = bench[SMALL].results, bench[LARGE].results
    lines = []
    for workload in WORKLOADS:
        ours = _fastest(small, workload, _is("native"))
        lines.append(_at_least(4, f"{workload}: fp32 beside the fastest fp32 peer", _times(_rival(small, workload), ours)))
        paper = _fastest(small, workload, _is("torch-pyg"))
        lines.append(_at_least(15, f"{workload}: fp32 beside torch-pyg", _times(paper, ours)))
    one, rival = _fastest(small, "1x300", _is("native")), _rival(small, "1x300")
    floor = next((limit.floor_ms for limit in bench[SMALL].limit if limit.workload == "1x300"), None)
    over = one.median_ms / floor if one and one.median_ms and floor else None
    lines.append(_at_most(1.8, "1x300: fp32 over the FMA floor", over, f"{_name(one)} over {floor:.2f} ms" if floor else ""))
    big = _times(_rival(large, "1x300"), _fastest(large, "1x300", _is("native")))
    lines.append(_at_least(2, "STAR-128, 1x300: fp32 beside the fastest fp32 peer", big))
    lower = _fastest(small, "1x300", lambda row: row.engine == "native" and row.precision in _LOWER)
    lines.append(_at_least(7, "1x300: the faster of bf16 and int8 beside the fastest fp32 peer", _times(rival, lower)))
    onnx = _fastest(small, "1x300", lambda row: row.engine.startswith("onnxruntime") and row.precision == "fp32")
    avx2 = _times(onnx, _fastest(small, "1x300", _is("native-avx2")))
    lines.append(_at_least(1, "1x300: fp32 held to AVX2 beside ONNX Runtime, which is not", avx2))
    for precision in dict.fromkeys(entry.precision for entry in frame_times):
        times = {entry.frames: entry.ms_per_frame for entry in frame_times if entry.precision == precision}
        of = f"{precision}, {', '.join(map(str, times))} frames"
        spread = max(times.values()) / min(times.values())
        lines.append(_at_most(1.25, f"{precision}: time a frame, largest over smallest", spread, of))
    peaks = [entry.peak_rss_mb for entry in memory if entry.frames == 300]
    lines.append(
        _at_most(64, "star-run on 300 frames: peak memory, MB", max(peaks, default=None), "largest of its precisions")
    )
    for model in dict.fromkeys(entry.model for entry in load):
        slowest = max(entry.engine_ms for entry in load if entry.model == model)
        lines.append(_at_most(30, f"{model}: opening the engine, ms", slowest, "slowest of its precisions"))
    wheel = None if wheel_bytes is None else wheel_bytes / 1e6
    lines.append(_at_most(5, "wheel, MB", wheel, "" if wheel_bytes is not None else "not built: --wheel"))
    return tuple(lines)


def _is(engine: str) -> Callable[[BenchResult], bool]:
    return lambda row: row.engine == engine and row.precision == "fp32"


def _fastest(rows: Sequence[BenchResult], workload: str, wanted: Callable[[BenchResult], bool]) -> BenchResult | None:
    """The row with the smallest median, of those with a right answer."""
    measured = [(row.median_ms, row) for row in rows if row.workload == workload and row.correct and wanted(row)]
    return min(((ms, row) for ms, row in measured if ms), key=lambda pair: pair[0], default=(0, None))[1]


def _rival(rows: Sequence[BenchResult], workload: str) -> BenchResult | None:
    return _fastest(rows, workload, lambda row: row.precision == "fp32" and row.engine.startswith(_RIVALS))


def _times(rival: BenchResult | None, ours: BenchResult | None) -> _Ratio:
    of = f"{_name(rival)} over {_name(ours)}"
    if rival is None or ours is None or not rival.median_ms or not ours.median_ms:
        return _Ratio(None, of)
    return _Ratio(rival.median_ms / ours.median_ms, of)


def _name(row: BenchResult | None) -> str:
    return f"{row.engine} {row.precision} {row.mode} {row.median_ms:.2f} ms" if row else "a row without a speed"


def _at_least(bound: float, what: str, ratio: _Ratio) -> Asked:
    return Asked(what, f">= {bound:g}", ratio.value, None if ratio.value is None else ratio.value >= bound, ratio.of)


def _at_most(bound: float, what: str, found: float | None, of: str) -> Asked:
    return Asked(what, f"<= {bound:g}", found, None if found is None else found <= bound, of)
