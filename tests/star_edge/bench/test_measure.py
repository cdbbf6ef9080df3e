"""Statistics and the correctness gate of a measurement, with engines whose answers are planted."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from star_edge.bench.bench import latency_gate
from star_edge.bench.measure import Contender, Plan, Trial, percentiles_ms, quantiles_ms
from star_edge.bench.process import WorkerError
from star_edge.bench.protocol import Opened, Ran
from star_edge.bench.report import BenchResult

REFERENCE = np.array([[1.0, -2.0, 0.5]])


class PlantedProcess:
    """Answers the reference changed by ``answer(turn)``; a call takes 10 ms. Turn 0 and 1 warm up."""

    engine, precision, mode = "planted", "fp32", "per-clip"

    def __init__(self, answer: Callable[[int], np.ndarray]) -> None:
        self.answer, self.turn = answer, 0
        self.timed: list[int] = []
        self.gaps_s: list[float] = []

    def run(self, workload, *, untimed, timed, seconds=math.inf, gap_s=0.0, limit_s=None):
        self.gaps_s.append(gap_s)
        logits = self.answer(self.turn)
        self.turn += 1
        self.timed.append(timed)
        return Ran(0.5, [0.010] * timed, logits.tolist(), 100.0, 2)


def measure(answer: Callable[[int], np.ndarray], rounds: int = 3) -> tuple[BenchResult, PlantedProcess]:
    process = PlantedProcess(answer)
    trial = Trial(Contender(process, Opened("fp32", "planted 1.0")), "1x300", Plan(rounds=rounds, seconds=0.3))
    logits = trial.warm_up()
    if logits is not None:
        trial.judge(logits, REFERENCE)
    for _ in range(rounds):
        trial.take_turn(REFERENCE)
    return trial.result(), process


def test_a_right_engine_gets_its_speed():
    row, process = measure(lambda turn: REFERENCE + 1e-6)
    assert row.correct is True
    assert (row.median_ms, row.p90_ms, row.p99_ms) == pytest.approx((10, 10, 10))
    assert row.quantiles_ms == pytest.approx([10] * 21)
    assert row.calls == 30  # 0.3 s of 10 ms, in three turns
    assert process.timed[2:] == [10, 10, 10]
    assert row.max_abs_err == pytest.approx(1e-6, rel=1e-3)
    assert row.relative_err == pytest.approx(5e-7, rel=1e-3)
    assert (row.first_call_s, row.peak_rss_mb, row.reason) == (0.5, 100.0, "")
    assert row.preemptions_per_s == pytest.approx(20)  # two in each turn of 100 ms


def speeds(row: BenchResult) -> set[object]:
    return {row.median_ms, row.p90_ms, row.p99_ms, row.clips_per_s, row.faster_than_torch, row.faster_than_pyg}


def test_a_wrong_engine_gets_no_speed_and_no_further_turn():
    row, process = measure(lambda turn: REFERENCE + 0.1)
    assert row.correct is False
    assert speeds(row) == {None}
    assert row.relative_err == pytest.approx(0.05)
    assert "wrong answer: 5.0e-02" in row.reason
    assert process.turn == 2


def test_an_answer_that_turns_wrong_under_load_takes_the_speed_away():
    row, process = measure(lambda turn: REFERENCE + (0.1 if turn == 3 else 0))
    assert row.correct is False
    assert speeds(row) == {None}
    assert process.turn == 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_answer_that_is_not_finite_is_wrong(value):
    row, _ = measure(lambda turn: np.where(REFERENCE == 0.5, value, REFERENCE))
    assert row.correct is False
    assert row.max_abs_err is None
    assert "not finite" in row.reason


@pytest.mark.parametrize("failing_turn", [0, 1, 3])
def test_an_engine_that_fails_is_a_row_with_the_reason(failing_turn):
    def answer(turn):
        if turn == failing_turn:
            raise WorkerError("its process ended: Killed")
        return REFERENCE

    row, _ = measure(answer)
    assert row.correct is None
    assert speeds(row) == {None}
    assert row.reason == "its process ended: Killed"


@pytest.mark.parametrize(("answer", "rows"), [(lambda turn: REFERENCE, 2), (lambda turn: REFERENCE + (turn == 4), 0)])
def test_calls_after_gaps(answer, rows):
    """A wrong answer after a gap takes the speed away, too."""
    process = PlantedProcess(answer)
    trial = Trial(Contender(process, Opened("fp32", "planted 1.0")), "1x300", Plan(rounds=1, repeats=4))
    trial.warm_up()
    trial.take_turn(REFERENCE)
    for gap_ms in (0, 33):
        trial.call_after_idling(gap_ms, REFERENCE)
    assert process.gaps_s == [0, 0, 0, 0, 0.033]
    assert [(row.gap_ms, row.calls) for row in trial.idle_results()] == [(0, 20), (33, 20)][:rows]
    for row in trial.idle_results():
        assert (row.median_ms, row.p90_ms, row.max_ms) == pytest.approx((10, 10, 10))
    assert (trial.result().calls, trial.result().median_ms) == ((4, pytest.approx(10)) if rows else (0, None))


def test_percentiles_are_times_that_were_seen():
    median, p90, p99 = percentiles_ms([i / 1000 for i in range(1, 101)])
    assert (median, p90, p99) == pytest.approx((50.5, 90, 99))
    assert percentiles_ms([0.002]) == pytest.approx((2, 2, 2))
    assert percentiles_ms([0.001, 0.001, 0.009]) == pytest.approx((1, 9, 9))


def test_calls_per_turn():
    assert Plan(rounds=5, seconds=2).calls_per_turn(0.010) == 40
    assert Plan(rounds=5, seconds=2).calls_per_turn(30.0) == 1
    assert Plan(rounds=5, seconds=2).calls_per_turn(1e-9) == 400
    assert Plan(rounds=5, repeats=12).calls_per_turn(30.0) == 3


def row(precision: str, median_ms: float | None, engine: str = "onnxruntime", workload: str = "1x32") -> BenchResult:
    return BenchResult(
        engine=engine,
        mode="packed",
        precision=precision,
        workload=workload,
        correct=median_ms is not None,
        tolerance=1,
        median_ms=median_ms,
    )


def test_the_latency_gate_names_the_precision_to_keep():
    slower, faster = latency_gate(
        [row("fp32", 12), row("fp16", 10), row("int8", 11), row("fp32", 12, workload="mix8"), row("int8", 6, workload="mix8")]
    )
    assert (slower.keep, slower.statement) == ("fp16", "keep fp16: int8 is not faster here (11.00 ms beside 10.00 ms)")
    assert slower.medians_ms == {"fp32": 12, "fp16": 10, "int8": 11}
    assert (faster.keep, faster.workload) == ("int8", "mix8")
    assert faster.statement.startswith("keep int8: 2.00 times faster than fp32")


def test_the_latency_gate_is_silent_without_a_right_int8():
    assert latency_gate([row("fp32", 12), row("int8", None), row("fp32", 3, engine="torch")]) == ()


def test_quantiles_are_times_that_were_seen():
    times = [0.004, 0.001, 0.003, 0.002]
    assert quantiles_ms(times) == pytest.approx([1] * 6 + [2] * 5 + [3] * 5 + [4] * 5)
    assert quantiles_ms([0.5]) == pytest.approx([500] * 21)


def test_rows_of_before_have_no_quantiles():
    old = msgspec.json.decode(msgspec.json.encode(measure(lambda turn: REFERENCE)[0]))
    del old["quantiles_ms"]
    assert msgspec.convert(old, BenchResult).quantiles_ms == ()
