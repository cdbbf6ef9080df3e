"""Lines and the table of benchmarks/gpu.py."""

from __future__ import annotations

from gpu_table import line_of, table_of

ROW = {"model": "star-64", "workload": "1x300", "engine": "ours", "precision": "fp16", "floor_ms": 0.5}


def test_a_line_says_how_far_from_the_floor_or_why_there_is_no_time() -> None:
    assert "2.0 times the limit" in line_of({**ROW, "median_ms": 1.0, "relative_error": 1e-4})
    assert line_of({**ROW, "reason": "wrong answer"}).endswith("wrong answer")


def test_the_table_has_a_line_for_each_engine_and_a_column_for_each_precision() -> None:
    rows = [
        {**ROW, "median_ms": 1.0},
        {**ROW, "precision": "int8", "reason": "wrong answer"},
        {**ROW, "workload": "64 clips", "precision": "fp32", "median_ms": 0.25},
    ]
    lines = [" ".join(line.split()) for line in table_of(rows)]
    assert lines == [
        "model workload engine fp32, ms fp16, ms int8, ms",
        "star-64 1x300 ours 1.0000 (2.0x) none",
        "star-64 64 clips ours 0.2500 (0.5x)",
    ]
    head, first, _ = table_of(rows)
    assert first.index("1.0000") == head.index("fp16")
