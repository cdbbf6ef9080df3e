"""``reports/bench.json``."""

from __future__ import annotations

import msgspec

from star_edge.bench.jetson import JetsonState

# an engine alone on its cores is preempted a few times a second, one that shares them at every slice of some milliseconds
DISTURBED_PER_S = 50


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and the versions. An empty text or None says that the machine does not tell.

    Attributes:
        jetson: a Jetson before the measurement, None on another machine and in reports of before; jetson_after: and after it.
    """

    cpu: str
    cores: int
    isa: tuple[str, ...]
    governor: str
    clock_mhz: float | None
    clocks_locked: bool | None
    memory_mb: int | None
    load_average: float | None
    system: str
    versions: dict[str, str]
    date: str
    jetson: JetsonState | None = None
    jetson_after: JetsonState | None = None


class WorkloadEntry(msgspec.Struct, frozen=True):
    """Clips of a workload; ``frames`` counts the rows of all persons, ``macs`` is the sparse form."""

    name: str
    clips: int
    frames: int
    persons: int
    macs: int


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """One engine, mode and precision on one workload.

    Attributes:
        mode: ``packed`` is one call for all clips, ``per-clip`` one call each. Of an engine that is measured in both, a workload
            of one clip has ``per-clip`` alone, where both would be the same call.
        compute, provider: arithmetic and library really used.
        correct: the logits of warm-up and timed calls are within ``tolerance`` of the fp32 reference. None: it did not run.
        reason: why there is no speed; empty when there is one.
        max_abs_err, relative_err: largest distance to the reference seen, the second relative to its largest |logit|.
        calls: timed calls, each over all clips of the workload, from features to logits.
        median_ms, p90_ms, p99_ms: nearest-rank percentiles of a call, the median interpolated.
        quantiles_ms: 0, 5, 10, ..., 100 % of the calls, nearest rank: times that were really seen. Empty in reports of before.
        clips_per_s: clips over the median.
        faster_than_torch: median of eager PyTorch (packed) over this median; faster_than_pyg: of the paper's scatter form.
        first_call_s: the first call in its process, including any compilation; not part of the timed calls.
        peak_rss_mb: high-water mark of the process that ran this engine alone, up to the end of this workload.
        preemptions_per_s: how often the system gave the engine's cores to others while it was timed.
        device_median_ms, device_p90_ms: of the GPU's own time in a call, between CUDA events, where the engine counts it.
    """

    engine: str
    mode: str
    precision: str
    workload: str
    compute: str = ""
    provider: str = ""
    correct: bool | None
    reason: str = ""
    tolerance: float
    max_abs_err: float | None = None
    relative_err: float | None = None
    calls: int = 0
    median_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    quantiles_ms: tuple[float, ...] = ()
    clips_per_s: float | None = None
    faster_than_torch: float | None = None
    faster_than_pyg: float | None = None
    first_call_s: float | None = None
    peak_rss_mb: float | None = None
    preemptions_per_s: float | None = None
    device_median_ms: float | None = None
    device_p90_ms: float | None = None


class IdleResult(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of an engine after the machine was left alone for ``gap_ms`` before each, as between a camera's frames."""

    engine: str
    mode: str
    precision: str
    workload: str
    gap_ms: float
    calls: int
    median_ms: float
    p90_ms: float
    max_ms: float


class Limit(msgspec.Struct, frozen=True):
    """The time below which no engine of this precision-independent arithmetic can get in fp32: MACs over the FMA peak."""

    workload: str
    floor_ms: float
    macs_per_s: float
    how: str


class Latency(msgspec.Struct, frozen=True):
    """The latency gate: the precision to keep on this engine, where int8 was measured beside others.

    Attributes:
        medians_ms: precision -> median.
        keep: the fastest precision.
        statement: the same for people, e.g. ``keep fp16: int8 is not faster here``.
    """

    engine: str
    mode: str
    workload: str
    medians_ms: dict[str, float]
    keep: str
    statement: str


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``star-edge bench`` measured.

    Attributes:
        bundle, bundle_id: name and identity of the bundle it was made from.
        threads: threads of every engine.
        device: where it was measured, ``cpu`` or ``cuda``.
        rounds: turns each engine had per workload; all engines take a turn before the next round.
        idle: of engines with right answers, where it was asked for.
    """

    star_edge_version: str
    bundle: str
    bundle_id: str
    host: Host
    device: str
    threads: int
    rounds: int
    workloads: tuple[WorkloadEntry, ...]
    results: tuple[BenchResult, ...]
    limit: tuple[Limit, ...]
    latency: tuple[Latency, ...]
    idle: tuple[IdleResult, ...] = ()
    schema: str = "star-edge/bench/1"

    @property
    def disturbed(self) -> float | None:
        """The most preemptions a second of any row, if so many that the times are those of a busy machine; else None."""
        most = max((row.preemptions_per_s or 0 for row in self.results), default=0)
        return most if most > DISTURBED_PER_S else None

    @property
    def wrong(self) -> tuple[BenchResult, ...]:
        """Rows whose answers are not the reference's."""
        return tuple(result for result in self.results if result.correct is False)
