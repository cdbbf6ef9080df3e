"""Sections on cost: latency of every engine, size of the models, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.manifest import WEIGHTS, model_file
from star_edge.bench.report import BenchReport, BenchResult, WorkloadEntry
from star_edge.report.content import (
    COLOURS,
    MUTED,
    REFERENCE,
    Chart,
    Section,
    Table,
    label,
    make_chart,
    megabytes,
    milliseconds,
    number,
)
from star_edge.report.sources import Sources

_BAR = 30  # pixels
_WIDE = 20  # times the fastest engine
_MANY = 20  # calls, of which 5 % is one


def speed_sections(sources: Sources) -> list[Section]:
    """Latency distributions, and what the model is made of."""
    return [_latency(sources), _size(sources)]


def engine_name(row: BenchResult) -> str:
    """How an engine and precision are called on the page; the mode where it is not the plain one."""
    return f"{row.engine} {row.precision}" + (", packed" if row.mode == "packed" else "")


def _latency(sources: Sources) -> Section:
    title = "Latency"
    how = (
        "From features to logits. A box holds the middle half of all calls with the median in it, whiskers go from 5 % to 95 % of"
        " them. Left is faster; the dashed line is the least time the arithmetic alone takes on this machine."
    )
    bench = sources.bench
    if bench is None:
        return Section("latency", title, how, missing=sources.missing["bench"], command=sources.command("bench"))
    return Section(
        "latency",
        title,
        how,
        charts=[_boxes(bench, workload) for workload in bench.workloads],
        tables=[_table(bench)],
        notes=_notes(bench),
    )


def _notes(bench: BenchReport) -> list[str]:
    host = bench.host
    notes = [
        f"{host.cpu}, {bench.threads} of {host.cores} cores, {host.date[:10]}; every engine in turn, {bench.rounds} rounds."
    ]
    if bench.disturbed:
        notes.append(
            f"This machine was busy: others took cores away up to {bench.disturbed:.0f} times a second, which slows engines down"
            " unequally. Read these times roughly, and measure again on an idle machine before quoting a ratio."
        )
    few = [row.calls for row in bench.results if 0 < row.calls < _MANY]
    if few:
        notes.append(
            f"{len(few)} of {len(bench.results)} rows rest on fewer than {_MANY} calls, the fewest on {min(few)}: their boxes are rough."
        )
    if any(row.median_ms is not None and not row.quantiles_ms for row in bench.results):
        notes.append("Measured by a version that kept median, 90 % and 99 % alone: those are drawn in place of boxes.")
    notes += [f"{gate.engine} {gate.mode}, {gate.workload}: {gate.statement}." for gate in bench.latency]
    notes += [f"{engine_name(row)} on {row.workload} has no speed: {row.reason}" for row in bench.results if row.reason]
    return notes


def _boxes(bench: BenchReport, workload: WorkloadEntry) -> Chart:
    rows = [row for row in bench.results if row.workload == workload.name and row.median_ms is not None][::-1]
    limit = next((entry for entry in bench.limit if entry.workload == workload.name), None)
    boxes = [_box(row, place) for place, row in enumerate(rows)]
    fastest = min(rows, key=lambda row: row.median_ms or 0, default=None)
    alt = f"Latency on {workload.name}. " + "; ".join(
        f"{engine_name(row)} {milliseconds(row.median_ms)}" for row in rows[::-1]
    )
    title = f"{workload.name}: {workload.clips} clip{'s' if workload.clips > 1 else ''}, {workload.frames} rows"
    return make_chart(
        f"latency-{workload.name}",
        [*boxes, _floor(limit.floor_ms, len(rows))] if limit else boxes,
        alt,
        title=title + (f"; fastest {engine_name(fastest)}, {milliseconds(fastest.median_ms)}" if fastest else ""),
        height=80 + _BAR * len(rows),
        showlegend=False,
        margin={"l": 8, "r": 12, "t": 22, "b": 40},
        xaxis=_time_axis([row.median_ms for row in rows if row.median_ms]),
        yaxis={"tickvals": list(range(len(rows))), "ticktext": [label(engine_name(row)) for row in rows], "showgrid": False,
               "range": [-0.6, len(rows) - 0.4]},
    )  # fmt: skip


def _time_axis(medians: Sequence[float]) -> dict[str, Any]:
    """Linear from zero; logarithmic where the fast engines would vanish beside the slow ones."""
    if medians and max(medians) > _WIDE * min(medians):
        return {"type": "log", "dtick": 1, "title": {"text": "milliseconds a call, logarithmic"}}
    return {"rangemode": "tozero", "title": {"text": "milliseconds a call"}}


def _box(row: BenchResult, place: int) -> dict[str, Any]:
    colour = "#8a93a2" if row.engine.startswith("torch") else COLOURS[row.precision]
    if not row.quantiles_ms:
        marks = [row.median_ms, row.p90_ms, row.p99_ms]
        return {"type": "scatter", "mode": "lines+markers", "x": marks, "y": [place] * 3, "line": {"color": colour, "width": 1},
                "marker": {"color": colour, "size": [10, 6, 6], "symbol": ["circle", "line-ns-open", "line-ns-open"]},
                "text": ["median", "90 %", "99 %"], "hovertemplate": "%{text}: %{x:.1f} ms<extra></extra>"}  # fmt: skip
    at = dict(zip(range(0, 101, 5), row.quantiles_ms, strict=True))
    return {
        "type": "box",
        "orientation": "h",
        "name": engine_name(row),
        "y": [place],
        "lowerfence": [at[5]],
        "q1": [at[25]],
        "median": [at[50]],
        "q3": [at[75]],
        "upperfence": [at[95]],
        "line": {"color": colour, "width": 1.6},
        "fillcolor": colour + "55",
        "width": 0.56,
        "hoverinfo": "x",
    }


def _floor(floor_ms: float, rows: int) -> dict[str, Any]:
    """The limit as a line over all rows."""
    return {
        "type": "scatter",
        "mode": "lines+text",
        "x": [floor_ms, floor_ms],
        "y": [-0.6, rows - 0.4],
        "text": ["", f"limit {milliseconds(floor_ms)}"],
        "textposition": "top right",
        "textfont": {"color": MUTED, "size": 11},
        "line": {"color": MUTED, "width": 1.2, "dash": "dash"},
        "cliponaxis": False,
        "hoverinfo": "skip",
    }


def _table(bench: BenchReport) -> Table:
    rows = [
        [
            row.workload,
            engine_name(row),
            *(milliseconds(value) for value in (row.median_ms, row.p90_ms, row.p99_ms)),
            str(row.calls or "-"),
            number(row.clips_per_s),
            number(row.faster_than_torch, "{:.2f}"),
            number(row.faster_than_pyg, "{:.2f}"),
            number(row.peak_rss_mb, "{:.0f} MB"),
            {True: "yes", False: "NO", None: "not run"}[row.correct],
        ]
        for row in bench.results
    ]
    head = [
        "workload",
        "engine",
        "median",
        "90 %",
        "99 %",
        "calls",
        "clips/s",
        "times PyTorch",
        "times paper's kernels",
        "memory",
        "right",
    ]
    return Table("Every engine on every workload", head, rows, folded=True)


def _size(sources: Sources) -> Section:
    manifest = sources.bundle.manifest
    whole = manifest.files[WEIGHTS].bytes
    sizes = [(precision, manifest.files[model_file(precision)].bytes) for precision in manifest.precisions]
    rows = [["PyTorch weights, fp32", megabytes(whole), "1.00"]]
    rows += [[f"model, {precision}", megabytes(size), f"{size / whole:.2f}"] for precision, size in sizes]
    tables = [Table("Files", ["", "size", "of the weights"], rows)]
    if sources.bench:
        tables.append(_work(sources.bench))
    notes = [] if sources.bench else [f"Multiply-accumulates are counted by {sources.command('bench')}"]
    return Section(
        "size",
        "Size and arithmetic",
        "What has to be stored, and what has to be computed: multiply-accumulates, attention counted along the bones it looks along.",
        charts=[_bars(whole, sizes)],
        tables=tables,
        notes=notes,
    )


def _bars(whole: int, sizes: Sequence[tuple[str, int]]) -> Chart:
    entries = [("weights fp32", whole, REFERENCE), *((f"model {name}", size, COLOURS[name]) for name, size in sizes)][::-1]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [round(size / 1e6, 3) for _, size, _ in entries],
        "y": [name for name, _, _ in entries],
        "marker": {"color": [colour for _, _, colour in entries]},
        "text": [megabytes(size) for _, size, _ in entries],
        "textposition": "auto",
        "hoverinfo": "skip",
        "width": 0.62,
    }
    alt = "Sizes: " + "; ".join(f"{name} {megabytes(size)}" for name, size, _ in entries[::-1])
    return make_chart("size", [trace], alt, height=60 + _BAR * len(entries), showlegend=False,
                      xaxis={"title": {"text": "MB"}, "rangemode": "tozero"}, yaxis={"showgrid": False})  # fmt: skip


def _work(bench: BenchReport) -> Table:
    limits = {limit.workload: limit for limit in bench.limit}
    rows = [
        [work.name, str(work.clips), str(work.frames), f"{work.macs / 1e9:.2f}", milliseconds(limits[work.name].floor_ms)]
        for work in bench.workloads
    ]
    how = f", at {bench.limit[0].macs_per_s / 1e9:.0f} GMAC/s: {bench.limit[0].how}" if bench.limit else ""
    return Table(f"Arithmetic{how}", ["workload", "clips", "rows", "GMAC", "least time in fp32"], rows)
