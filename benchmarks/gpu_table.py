"""Lines for people of what benchmarks/gpu.py measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

PRECISIONS = ("fp32", "fp16", "int8")


def line_of(row: dict[str, Any]) -> str:
    """A row, as soon as it is there."""
    head = f"{row['model']:8} {row['workload']:8} {row['engine']:30} {row['precision']:4}"
    if "median_ms" not in row:
        return f"{head} {row['reason']}"
    return f"{head} {row['median_ms']:9.4f} ms, {_over(row):6.1f} times the limit, error {row['relative_error']:.1e}"


def table_of(rows: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each engine on each workload: milliseconds in every precision and, in brackets, how many times the limit."""
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        cell = f"{row['median_ms']:.4f} ({_over(row):.1f}x)" if "median_ms" in row else "none"
        cells.setdefault((row["model"], row["workload"], row["engine"]), {})[row["precision"]] = cell
    lines = [["model", "workload", "engine", *(f"{precision}, ms" for precision in PRECISIONS)]]
    for names, found in cells.items():
        lines.append([*names, *(found.get(precision, "") for precision in PRECISIONS)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _over(row: dict[str, Any]) -> float:
    over: float = row["median_ms"] / row["floor_ms"]
    return over
