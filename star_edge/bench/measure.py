"""Interleaved measurement: every contender takes a turn before the next round, so that drift of the machine hits all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from runtime.tolerances import TOLERANCES, relative_error
from star_edge.bench.process import EngineProcess, WorkerError
from star_edge.bench.protocol import Opened, Ran
from star_edge.bench.report import BenchResult, IdleResult

_MAX_CALLS = 2000
_WARM_UP_CALLS, _WARM_UP_SECONDS = 5, 0.3
_IDLE_CALLS = 20
_LONG_CALL_S = 0.2  # such a call hardly feels the caches and clocks it starts with


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: turns of each contender per workload.
        seconds: timed seconds of each contender per workload, of at least one call a round and at most 2000 calls.
        repeats: at least so many calls instead, the same in each turn; None: by ``seconds``.
        first_call_limit_s: longest first call, which may compile.
        idle_ms: afterwards, calls with so many milliseconds of sleep before each.
    """

    rounds: int = 5
    seconds: float = 1.0
    repeats: int | None = None
    first_call_limit_s: float = 180.0
    idle_ms: tuple[float, ...] = ()

    def calls_per_turn(self, call_s: float) -> int:
        """Timed calls in one turn of a contender whose call takes ``call_s``."""
        calls = self.repeats or min(max(round(self.seconds / max(call_s, 1e-9)), 1), _MAX_CALLS)
        return math.ceil(calls / self.rounds)


@dataclass(eq=False)
class Contender:
    """An engine process and what became of it."""

    process: EngineProcess
    opened: Opened = field(default_factory=lambda: Opened("", ""))
    failure: str = ""

    def attempt(self, action: Callable[[EngineProcess], Ran]) -> Ran | None:
        """The action's result; None, and the reason kept, when the process fails or has failed before."""
        if self.failure:
            return None
        try:
            return action(self.process)
        except WorkerError as error:
            self.failure = str(error)
            return None


class Trial:
    """One contender on one workload: its calls, and the distance of its answers to the reference."""

    def __init__(self, contender: Contender, workload: str, plan: Plan) -> None:
        self.contender, self.workload, self.plan = contender, workload, plan
        self.times_s: list[float] = []
        self.device_times_s: list[float] = []
        self.idle_s: dict[float, list[float]] = {}
        self.first_s: float | None = None
        self.peak_rss_mb: float | None = None
        self.preemptions = 0
        self.max_abs_err = self.relative_err = 0.0
        self.ran = False
        self._calls = self._untimed = 0

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.contender.process.precision]

    @property
    def correct(self) -> bool | None:
        """Whether every answer seen is within tolerance; None when there was none, or the process failed later."""
        return self.relative_err <= self.tolerance if self.ran else None

    def warm_up(self) -> np.ndarray | None:
        """First calls, untimed; the logits [B, K], or None when the contender failed."""
        limit = self.plan.first_call_limit_s
        first = self.contender.attempt(lambda process: process.run(self.workload, untimed=0, timed=1, limit_s=limit))
        if first is None:
            return None
        warm = self.contender.attempt(
            lambda process: process.run(self.workload, untimed=0, timed=_WARM_UP_CALLS, seconds=_WARM_UP_SECONDS)
        )
        if warm is None:
            return None
        self.ran, self.first_s = True, first.first_s
        call_s = float(np.median(warm.times_s))
        self._calls, self._untimed = self.plan.calls_per_turn(call_s), int(call_s < _LONG_CALL_S)
        return np.array(warm.logits)

    def take_turn(self, reference: np.ndarray) -> None:
        """An untimed call where calls are short, then the timed ones of a turn; nothing once an answer was wrong."""
        if not self.correct:
            return
        ran = self.contender.attempt(lambda process: process.run(self.workload, untimed=self._untimed, timed=self._calls))
        if ran is None:
            self.ran = False
            return
        self.times_s += ran.times_s
        self.device_times_s += ran.device_times_s
        self.peak_rss_mb = ran.peak_rss_mb
        self.preemptions += ran.preemptions
        self.judge(np.array(ran.logits), reference)

    def call_after_idling(self, gap_ms: float, reference: np.ndarray) -> None:
        """Calls with ``gap_ms`` of sleep before each; nothing once an answer was wrong."""
        if not self.correct:
            return
        ran = self.contender.attempt(
            lambda process: process.run(self.workload, untimed=0, timed=_IDLE_CALLS, gap_s=gap_ms / 1e3)
        )
        if ran is None:
            self.ran = False
            return
        self.idle_s[gap_ms] = ran.times_s
        self.judge(np.array(ran.logits), reference)

    def idle_results(self) -> list[IdleResult]:
        """A row a gap, none unless correct."""
        if not self.correct:
            return []
        process, rows = self.contender.process, []
        for gap_ms, times_s in self.idle_s.items():
            median, p90, _ = percentiles_ms(times_s)
            rows.append(
                IdleResult(
                    engine=process.engine,
                    mode=process.mode,
                    precision=process.precision,
                    workload=self.workload,
                    gap_ms=gap_ms,
                    calls=len(times_s),
                    median_ms=median,
                    p90_ms=p90,
                    max_ms=max(times_s) * 1e3,
                )
            )
        return rows

    def judge(self, logits: np.ndarray, reference: np.ndarray) -> None:
        """Keep the largest distance to the reference seen."""
        finite = bool(np.isfinite(logits).all())
        self.max_abs_err = max(self.max_abs_err, float(np.abs(logits - reference).max()) if finite else math.inf)
        self.relative_err = max(self.relative_err, relative_error(logits, reference))

    def result(self) -> BenchResult:
        """The row of the report, without speed unless correct."""
        process, opened = self.contender.process, self.contender.opened
        row = BenchResult(
            engine=process.engine,
            mode=process.mode,
            precision=process.precision,
            workload=self.workload,
            compute=opened.compute,
            provider=opened.provider,
            correct=self.correct,
            tolerance=self.tolerance,
            max_abs_err=self.max_abs_err if self.ran and math.isfinite(self.max_abs_err) else None,
            relative_err=self.relative_err if self.ran and math.isfinite(self.relative_err) else None,
            reason=self._reason(),
        )
        if not self.correct:
            return row
        median, p90, p99 = percentiles_ms(self.times_s)
        device_median, device_p90, _ = percentiles_ms(self.device_times_s) if self.device_times_s else (None, None, None)
        return msgspec.structs.replace(
            row,
            calls=len(self.times_s),
            median_ms=median,
            p90_ms=p90,
            p99_ms=p99,
            quantiles_ms=quantiles_ms(self.times_s),
            first_call_s=self.first_s,
            peak_rss_mb=self.peak_rss_mb,
            preemptions_per_s=self.preemptions / sum(self.times_s),
            device_median_ms=device_median,
            device_p90_ms=device_p90,
        )

    def _reason(self) -> str:
        if not self.ran:
            return self.contender.failure
        if self.correct:
            return ""
        distance = f"{self.relative_err:.1e} from the reference" if math.isfinite(self.relative_err) else "not finite"
        return f"wrong answer: {distance}, {self.tolerance:.0e} allowed"


def percentiles_ms(times_s: Sequence[float]) -> tuple[float, float, float]:
    """Median, p90 and p99 in milliseconds; the latter two are times that were really seen (nearest rank)."""
    milliseconds = np.asarray(times_s) * 1e3
    p90, p99 = np.percentile(milliseconds, (90, 99), method="inverted_cdf")
    return float(np.median(milliseconds)), float(p90), float(p99)


def quantiles_ms(times_s: Sequence[float]) -> tuple[float, ...]:
    """0, 5, 10, ..., 100 % of the calls in milliseconds, nearest rank."""
    values = np.percentile(np.asarray(times_s) * 1e3, range(0, 101, 5), method="inverted_cdf")
    return tuple(float(value) for value in values)
