"""Bundles beside the first one: what each gives up and what it gains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from star_edge.bench import ENGINES
from star_edge.engines import DEFAULT_ENGINE
from star_edge.report.accuracy import default_answers, right_by_class
from star_edge.report.content import ACCENT, COLOURS, Chart, Section, Table, label, make_chart, milliseconds, percent
from star_edge.report.provenance import provenance_section
from star_edge.report.sources import Sources
from star_edge.report.verdict import Verdict

_PALETTE = (ACCENT, COLOURS["int8"], "#009e73", "#cc79a7", "#e69f00")
_BAR = 30  # pixels


def compare_sentence(sources: Sequence[Sources], verdicts: Sequence[Verdict]) -> str:
    """Each bundle's default precision beside the first's, in words; only what can be compared."""
    names = _names(sources)
    base, said = verdicts[0].default, []
    for name, source, verdict in zip(names[1:], sources[1:], verdicts[1:], strict=True):
        row, parts = verdict.default, []
        if row.top1 is not None and base.top1 is not None and _same_clips(sources[0], source):
            parts.append(f"{100 * (row.top1 - base.top1):+.1f} percentage points of top-1")
        if row.median_ms and base.median_ms and verdict.workload == verdicts[0].workload and _same_machine(sources[0], source):
            parts.append(f"{base.median_ms / row.median_ms:.2f} times the speed")
        if row.size_mb and base.size_mb:
            parts.append(f"{row.size_mb / base.size_mb:.2f} times the size")
        said.append(f"{name} ({row.precision}): {', '.join(parts)}.")
    return f"Beside {names[0]} ({base.precision}): " + " ".join(said)


def compare_sections(sources: Sequence[Sources], verdicts: Sequence[Verdict]) -> list[Section]:
    """The figures side by side, per class, latency, and where each bundle comes from."""
    return [_figures(sources, verdicts), _by_class(sources), _latency(sources), *_origins(sources)]


def _names(sources: Sequence[Sources]) -> list[str]:
    """The bundles' folder names; whole paths where two are the same."""
    short = [source.bundle.path.resolve().name for source in sources]
    return short if len(set(short)) == len(short) else [str(source.bundle.path) for source in sources]


def _same_clips(one: Sources, other: Sources) -> bool:
    """Whether both were verified on the same clips."""
    judged = [
        (s.verify.data_sha256, s.verify.split, s.verify.part, s.verify.samples, s.verify.seed)
        for s in (one, other)
        if s.verify
    ]
    return len(judged) == 2 and judged[0] == judged[1]


def _same_machine(one: Sources, other: Sources) -> bool:
    """Whether both were measured on the same processor with as many threads, and undisturbed."""
    measured = [(s.bench.host.cpu, s.bench.threads, s.bench.disturbed) for s in (one, other) if s.bench]
    return len(measured) == 2 and measured[0] == measured[1] and not measured[0][2]


def _figures(sources: Sequence[Sources], verdicts: Sequence[Verdict]) -> Section:
    rows = [["gates", *(verdict.state for verdict in verdicts)]]
    rows.append(["default precision", *(source.bundle.manifest.default_precision for source in sources)])
    defaults = [verdict.default for verdict in verdicts]
    judged = [_same_clips(sources[0], source) for source in sources]
    measured = [_same_machine(sources[0], source) for source in sources]
    always = [True] * len(sources)
    rows.append(_line("top-1", [row.top1 for row in defaults], percent, _points, judged))
    rows.append(_line("same answer as PyTorch", [row.agreement for row in defaults], percent, _points, judged))
    sizes = [row.size_mb for row in defaults]
    rows.append(_line("model file", sizes, lambda value: f"{value:.2f} MB", _ratio, always))
    works = [{work.name: work.macs for work in source.bench.workloads} if source.bench else {} for source in sources]
    shared = [name for name in works[0] if any(name in work for work in works[1:])]
    for name in shared:
        macs = [work.get(name) for work in works]
        rows.append(_line(f"GMAC, {name}", macs, lambda value: f"{value / 1e9:.2f}", _ratio, always))
    engine = _engine(sources)
    times = [_medians(source, engine) for source in sources]
    for name in shared:
        medians = [time.get((name, row.precision)) for time, row in zip(times, defaults, strict=True)]
        rows.append(_line(f"median, {name}", medians, milliseconds, _ratio, measured))
    return Section(
        "figures",
        "Side by side",
        f"Each bundle's default precision, timed in {engine}; in brackets, where they can be compared, the difference from the first.",
        tables=[Table("Figures", ["", *_names(sources)], rows)],
        notes=_cautions(sources),
    )


def _points(value: float, base: float) -> str:
    return f"{100 * (value - base):+.1f} points"


def _ratio(value: float, base: float) -> str:
    return f"x {value / base:.2f}"


def _line(
    name: str,
    values: Sequence[float | None],
    form: Callable[[float], str],
    differ: Callable[[float, float], str],
    comparable: Sequence[bool],
) -> list[str]:
    """A row: each value, and behind all but the first how it differs from the first."""
    base, cells = values[0], []
    for position, (value, compared) in enumerate(zip(values, comparable, strict=True)):
        text = "-" if value is None else form(value)
        cells.append(f"{text} ({differ(value, base)})" if position and compared and value is not None and base else text)
    return [name, *cells]


def _engine(sources: Sequence[Sources]) -> str:
    """The default engine, unless a bundle was measured by a version that had only ONNX Runtime."""
    benches = [source.bench for source in sources if source.bench]
    everywhere = all(any(row.engine == DEFAULT_ENGINE for row in bench.results) for bench in benches)
    return DEFAULT_ENGINE if everywhere else "onnxruntime"


def _medians(source: Sources, engine: str) -> dict[tuple[str, str], float]:
    """(workload, precision) -> median milliseconds of an engine in its first mode."""
    rows = source.bench.results if source.bench else ()
    return {
        (row.workload, row.precision): row.median_ms
        for row in rows
        if row.engine == engine and row.mode == ENGINES[engine][0] and row.median_ms is not None
    }


def _cautions(sources: Sequence[Sources]) -> list[str]:
    """What makes two figures not comparable."""
    notes = []
    for name, source in zip(_names(sources), sources, strict=True):
        for report in ("verify", "bench"):
            if report in source.missing:
                notes.append(f"{name}: {source.missing[report]}; {source.command(report)}")
    first = sources[0]
    if any(s.verify and first.verify and not _same_clips(first, s) for s in sources[1:]):
        notes.append("Not all accuracies are of the same clips: such differences would say nothing and are left out.")
    if any(s.bench and first.bench and not _same_machine(first, s) for s in sources[1:]):
        notes.append(
            "Not all latencies are of one undisturbed machine: such ratios would say nothing about the models and are left out."
        )
    return notes


def _by_class(sources: Sequence[Sources]) -> Section:
    title = "Difference per class"
    how = "Percentage points of a class's clips named right that a bundle has more, or fewer, than the first one."
    base = sources[0].predictions
    if base is None:
        return Section(
            "classes", title, how, missing=sources[0].missing["predictions"], command=sources[0].command("predictions")
        )
    names = sources[0].bundle.class_names
    same = [s for s in sources[1:] if s.predictions and s.predictions.clips == base.clips and s.bundle.class_names == names]
    if not same:
        return Section("classes", title, how, missing="no other bundle answered the same clips")
    shares = [_shares(source) for source in (sources[0], *same)]
    labels = _names([sources[0], *same])
    order = np.argsort(-shares[0], kind="stable").tolist()
    traces: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": label(name),
            "y": list(range(len(order))),
            "x": [round(100 * float(share[i] - shares[0][i]), 2) for i in order],
            "marker": {"color": colour},
            "hovertemplate": "%{x:+.1f} points",
        }
        for name, share, colour in zip(labels[1:], shares[1:], _PALETTE[1:] * len(shares), strict=False)
    ]
    chart = make_chart(
        "differences",
        traces,
        f"Differences of {len(order)} classes from {labels[0]}; all figures are in the table below.",
        height=100 + min(_BAR * len(order), 850),
        barmode="group",
        showlegend=True,
        xaxis={"title": {"text": f"percentage points more than {label(labels[0])}"}},
        yaxis={"tickvals": list(range(len(order))), "ticktext": [label(names[i]) for i in order], "showgrid": False,
               "autorange": "reversed"},
    )  # fmt: skip
    rows = [[names[i], *(percent(float(share[i])) for share in shares)] for i in order]
    return Section(
        "classes",
        title,
        how,
        charts=[chart],
        tables=[Table("Clips named right, per class", ["class", *labels], rows, folded=True)],
    )


def _shares(source: Sources) -> np.ndarray:
    """float64 [K]: of each class, how many clips the default precision names right."""
    assert source.predictions is not None
    answers = default_answers(source.predictions, source.bundle.manifest.default_precision)
    right, clips = right_by_class(source.predictions, answers, len(source.bundle.class_names))
    shares: np.ndarray = right / np.maximum(clips, 1)
    return shares


def _latency(sources: Sequence[Sources]) -> Section:
    engine = _engine(sources)
    title, how = "Latency", f"Median of one call in {engine}, {ENGINES[engine][0]}, by precision. Left is faster."
    measured = [_medians(source, engine) for source in sources]
    workloads = [
        name
        for name in dict.fromkeys(name for name, _ in measured[0])
        if any((name, p) in m for m in measured[1:] for p in COLOURS)
    ]
    if not workloads:
        lacking = next((s for s in sources if s.bench is None), sources[0])
        return Section(
            "latency", title, how, missing="no workload was measured on two of them", command=lacking.command("bench")
        )
    charts = [_medians_chart(name, measured, _names(sources)) for name in workloads]
    return Section("latency", title, how, charts=charts)


def _medians_chart(workload: str, measured: Sequence[dict[tuple[str, str], float]], names: Sequence[str]) -> Chart:
    precisions = [precision for precision in COLOURS if any((workload, precision) in medians for medians in measured)]
    traces: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": label(name),
            "y": precisions,
            "x": [medians.get((workload, precision)) for precision in precisions],
            "marker": {"color": colour},
            "hovertemplate": "%{x:.1f} ms",
        }
        for name, medians, colour in zip(names, measured, _PALETTE * len(names), strict=False)
    ]
    alt = f"Medians on {workload}: " + "; ".join(
        f"{name} {precision} {milliseconds(value)}"
        for name, medians in zip(names, measured, strict=True)
        for (work, precision), value in medians.items()
        if work == workload
    )
    return make_chart(
        f"latency-{workload}",
        traces,
        alt,
        title=workload,
        height=90 + 22 * len(precisions) * len(names),
        barmode="group",
        showlegend=True,
        xaxis={"title": {"text": "milliseconds a call"}, "rangemode": "tozero"},
        yaxis={"showgrid": False, "autorange": "reversed"},
    )


def _origins(sources: Sequence[Sources]) -> list[Section]:
    sections = []
    for position, (name, source) in enumerate(zip(_names(sources), sources, strict=True)):
        origin = provenance_section(source)
        sections.append(
            Section(f"provenance-{position}", f"What ran where: {name}", origin.how, tables=origin.tables, notes=origin.notes)
        )
    return sections
