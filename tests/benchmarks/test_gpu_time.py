"""What has a time: calls with the right answer, however often they are repeated."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import gpu_time
import pytest
import torch
from gpu_time import measure

EXPECTED = torch.tensor([[1.0, -4.0]], dtype=torch.float64)


class Event:
    """As torch.cuda.Event, on the host's clock."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.at - self.at)


@pytest.fixture(autouse=True)
def _host_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def answers(*found: torch.Tensor) -> gpu_time.Call:
    """Writes these in turn, the last one again and again, into the same memory, as a captured graph does."""
    memory, state = torch.empty(found[0].shape), SimpleNamespace(calls=0)

    def call() -> torch.Tensor:
        memory.copy_(found[min(state.calls, len(found) - 1)])
        state.calls += 1
        return memory

    return call


def test_a_right_answer_has_times() -> None:
    row = measure(lambda: answers(EXPECTED + 4e-3), EXPECTED, 1e-3 + 1e-6)
    assert row["relative_error"] == pytest.approx(1e-3, rel=1e-3)
    assert row["calls"] == gpu_time.CALLS
    assert 0 < row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]


def test_a_wrong_answer_has_none() -> None:
    assert measure(lambda: answers(EXPECTED + 4e-3), EXPECTED, 0.9e-3) == {
        "relative_error": pytest.approx(1e-3, rel=1e-3),
        "reason": "wrong answer",
    }
    not_finite = measure(lambda: answers(EXPECTED * math.nan), EXPECTED, 1.0)
    assert not_finite == {"relative_error": None, "reason": "wrong answer"}


def test_an_answer_that_goes_wrong_while_it_is_timed_has_none() -> None:
    row = measure(lambda: answers(EXPECTED, EXPECTED, EXPECTED + 1), EXPECTED, 1e-3)
    assert row == {"relative_error": 0.25, "reason": "wrong answer"}


def test_a_call_that_writes_nothing_has_none() -> None:
    left = EXPECTED.clone()
    assert measure(lambda: lambda: left, EXPECTED, 1e-3)["reason"] == "wrong answer"


def test_an_error_is_a_reason() -> None:
    def make() -> gpu_time.Call:
        raise RuntimeError("out of memory\nand more of it")

    assert measure(make, EXPECTED, 1e-3) == {"reason": "RuntimeError: out of memory"}


def test_slow_calls_are_repeated_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_time, "SECONDS", 0.2)
    times = gpu_time.time_ms(lambda: time.sleep(0.01))
    assert gpu_time.FEWEST <= times["calls"] <= 20
    assert times["median_ms"] >= 10
    monkeypatch.setattr(gpu_time, "SECONDS", 0.0)
    assert gpu_time.time_ms(lambda: time.sleep(0.01))["calls"] == gpu_time.FEWEST
