"""Rows that say what a smaller model costs beside the one it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from star_edge.compression.low_rank_checkpoint import LowRankReport
    from star_edge.compression.sparse_checkpoint import SparseReport

_NOT_RUN = "cannot run it"
_FASTER = 0.9  # less is within what times vary by


def add_sizes(table: Table, report: LowRankReport | SparseReport) -> None:
    before, after = report.before, report.after
    for name, one, two, form in (
        ("parameters", before.parameters, after.parameters, "{:,.0f}"),
        ("MMAC of layers, 1x300", before.macs / 1e6, after.macs / 1e6, "{:,.1f}"),
        ("checkpoint, MB", before.bytes / 1e6, after.bytes / 1e6, "{:.2f}"),
    ):
        table.add_row(name, form.format(one), form.format(two), f"{two / one:.2f}")


def add_times(table: Table, report: LowRankReport | SparseReport) -> None:
    for name, before, after in _times(report):
        one, two = (_NOT_RUN if ms is None else f"{ms:.1f}" for ms in (before, after))
        table.add_row(f"{name}, ms, 1x300", one, two, f"{after / before:.2f}" if before and after else "")


def add_accuracies(table: Table, report: LowRankReport | SparseReport) -> None:
    before, after = report.before, report.after
    if before.top1 is None or after.top1 is None:
        return
    table.add_row(f"val top-1 of {report.validation_clips}", f"{before.top1:.1%}", f"{after.top1:.1%}", "")
    if report.epochs and report.cut_top1 is not None:
        table.add_row("  before fine-tuning", "", f"{report.cut_top1:.1%}", "")


def _times(report: LowRankReport | SparseReport) -> list[tuple[str, float | None, float | None]]:
    """Name, and milliseconds before and after, of each engine that was asked to run both."""
    rest = ((each.engine, each.before_ms, each.after_ms) for each in report.engines)
    return [("eager PyTorch", report.before.torch_ms, report.after.torch_ms), *rest]


def gain(report: LowRankReport | SparseReport) -> str:
    """Whether time is gained, from the fastest way before to the fastest after."""
    times = _times(report)
    before, engine = min((one, name) for name, one, _ in times if one is not None)
    after, other = min((two, name) for name, _, two in times if two is not None)
    verdict = f"{1 - after / before:.0%} of the time are gained" if after < _FASTER * before else "no time is gained"
    found = f"{verdict}: {before:.1f} ms before ({engine}), {after:.1f} ms after ({other})"
    return found if report.engines else f"{found}; --latency engines times ONNX Runtime and the native engine, too"
