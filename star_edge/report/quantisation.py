"""Sections on INT8: which layers it costs, where activations are cut, and where the engine leaves the reference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from calibration.mixed import kind_of
from calibration.report import RangesReport, SensitivityReport, TensorRange
from calibration.score import noise_share
from star_edge.report.content import (
    ACCENT,
    COLOURS,
    MUTED,
    REFERENCE,
    Chart,
    Section,
    Table,
    label,
    make_chart,
    number,
    percent,
)
from star_edge.report.sources import Sources
from star_edge.verification.report import LayersReport

_SHOWN_RANGES = 12  # the rest is on demand
_BAR = 17  # pixels


def quantisation_sections(sources: Sources) -> list[Section]:
    """Sensitivity, ranges, and module by module."""
    return [_sensitivity(sources), _ranges(sources), _layers(sources)]


def _sensitivity(sources: Sources) -> Section:
    title = "Which layers INT8 costs"
    how = (
        "Each layer was put into INT8 alone, beside fp32: a long bar is a layer that rounding hurts. Microseconds are what its INT8"
        " saves on this machine; a layer that saves nothing had better stay float."
    )
    report = sources.sensitivity
    if report is None or report.latency is None or report.decision is None:
        reason = sources.missing.get("sensitivity", "the analysis was interrupted; the command goes on with it")
        return Section("sensitivity", title, how, missing=reason, command=sources.command("sensitivity"))
    notes = [report.decision.statement, "These choices were made on val clips, not on the test clips above."]
    return Section(
        "sensitivity", title, how, charts=[_noise(report)], tables=[_scores(report), _layer_table(report)], notes=notes
    )


def _noise(report: SensitivityReport) -> Chart:
    assert report.latency is not None
    assert report.decision is not None
    layers = sorted(report.layers, key=lambda layer: noise_share(layer.alone.sqnr_db))
    places, shares = range(len(layers)), [100 * noise_share(layer.alone.sqnr_db) ** 0.5 for layer in layers]
    traces: list[dict[str, Any]] = []
    for name, colour, wanted in (("stays INT8", COLOURS["int8"], True), (f"stays {report.base}", REFERENCE, False)):
        chosen = [i for i in places if (layers[i].module in report.decision.quantised) is wanted]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "x": [round(shares[i], 4) for i in chosen],
                "y": chosen,
                "marker": {"color": colour},
                "customdata": [_saved(report, layers[i].module) for i in chosen],
                "hovertemplate": "noise %{x:.2f} % of the logits, INT8 saves %{customdata}<extra></extra>",
            }
        )
    worst = ", ".join(layer.module for layer in layers[::-1][:3])
    return make_chart(
        "sensitivity",
        traces,
        f"Noise that each of {len(layers)} layers in INT8 alone puts into the logits. Most: {worst}. All figures are in the table below.",
        height=100 + min(_BAR * len(layers), 850),
        showlegend=True,
        barmode="overlay",
        xaxis={"title": {"text": "noise in the logits with this layer alone in INT8, % of their size"}, "rangemode": "tozero"},
        yaxis={"tickvals": list(places), "ticktext": [label(layer.module) for layer in layers], "showgrid": False,
               "tickfont": {"size": 11}, "range": [-0.6, len(layers) - 0.4]},
    )  # fmt: skip


def _saved(report: SensitivityReport, module: str) -> str:
    assert report.latency is not None
    return f"{report.latency.saved_us[kind_of(module)]:+.1f} µs"


def _scores(report: SensitivityReport) -> Table:
    assert report.decision is not None
    entries = [("no layer", report.float_score), ("every layer", report.int8_score), ("as chosen", report.decision.score)]
    rows = [
        [name, percent(score.top1), percent(score.agreement), str(score.lost), str(score.gained), _decibel(score.sqnr_db),
         "holds" if score.passed else "missed"]
        for name, score in entries
    ]  # fmt: skip
    head = ["layers in INT8", "top-1", "same answer as fp32", "lost", "gained", "signal to noise", "gate on val"]
    return Table(f"Three graphs on {report.clips} val clips of {Path(report.data).stem}", head, rows)


def _layer_table(report: SensitivityReport) -> Table:
    assert report.decision is not None
    rows = [
        [
            layer.module,
            _decibel(layer.alone.sqnr_db),
            percent(layer.alone.agreement),
            _decibel(layer.without.sqnr_db),
            percent(layer.without.agreement),
            _saved(report, layer.module),
            "int8" if layer.module in report.decision.quantised else report.base,
        ]
        for layer in report.layers
    ]
    head = ["layer", "alone: noise", "same answer", "all others: noise", "same answer", "INT8 saves", "stays"]
    return Table("Layer by layer", head, rows, folded=True)


def _ranges(sources: Sources) -> Section:
    title = "Where INT8 cuts the activations"
    how = (
        "Each picture is one tensor: how often a magnitude was seen in calibration, on a logarithmic scale. The line is the cut;"
        " what lies right of it is clipped. Triangles are the cuts that other methods would have taken."
    )
    report = sources.ranges
    if report is None:
        return Section("ranges", title, how, missing=sources.missing["ranges"], command=sources.command("ranges"))
    names = sorted(report.tensors, key=lambda name: report.tensors[name].chosen / max(report.tensors[name].amax, 1e-30))
    charts = [_histogram(f"range-{i}", name, report) for i, name in enumerate(names)]
    calibrated = sources.bundle.calibration()
    notes = [
        f"Ranges by {report.method} on {calibrated.samples} training clips, from calibration.json. The tensors that are cut most come first."
    ]
    return Section(
        "ranges",
        title,
        how,
        charts=charts[:_SHOWN_RANGES],
        more=charts[_SHOWN_RANGES:],
        tables=[_range_table(report.tensors, calibrated.ranges)],
        notes=notes,
        small=True,
    )


def _range_table(seen: dict[str, TensorRange], ranges: dict[str, float]) -> Table:
    """Every range in ``calibration.json`` beside the largest magnitude seen."""
    rows = []
    for name, amax in ranges.items():
        largest = seen[name].amax if name in seen else None
        rows.append([name, number(amax), number(largest), percent(amax / largest if largest else None)])
    return Table("Every range", ["tensor", "range", "largest seen", "range / largest"], rows, folded=True)


def _histogram(name: str, tensor: str, report: RangesReport) -> Chart:
    seen: TensorRange = report.tensors[tensor]
    width = seen.amax / len(seen.counts)
    others = {method: cut for method, cut in seen.ranges.items() if method != report.method}
    bars = {
        "type": "scatter",
        "mode": "lines",
        "line": {"shape": "hv", "width": 1, "color": MUTED},
        "fill": "tozeroy",
        "fillcolor": REFERENCE,
        "x": [round(width * i, 6) for i in range(len(seen.counts) + 1)],
        "y": [max(count, 0.5) for count in (*seen.counts, seen.counts[-1])],
        "hoverinfo": "skip",
    }
    marks = {
        "type": "scatter",
        "mode": "markers",
        "x": list(others.values()),
        "y": [0.8] * len(others),
        "text": [f"{method}: {cut:.3g}" for method, cut in others.items()],
        "marker": {"symbol": "triangle-up", "size": 7, "color": COLOURS["int8"]},
        "hovertemplate": "%{text}<extra></extra>",
    }
    cut = {"type": "line", "xref": "x", "yref": "paper", "x0": seen.chosen, "x1": seen.chosen, "y0": 0, "y1": 1,
           "line": {"color": ACCENT, "width": 2}}  # fmt: skip
    return make_chart(
        name,
        [bars, marks],
        f"{tensor}: cut at {seen.chosen:.3g} by {report.method}, largest magnitude {seen.amax:.3g}.",
        title=tensor,
        height=120,
        margin={"l": 2, "r": 8, "t": 4, "b": 20},
        showlegend=False,
        shapes=[cut],
        xaxis={"range": [0, seen.amax * 1.02], "nticks": 4, "showgrid": False, "tickfont": {"size": 10}},
        yaxis={"type": "log", "showticklabels": False, "showgrid": False, "zeroline": False, "rangemode": "tozero"},
    )


def _layers(sources: Sources) -> Section:
    title = "Module by module"
    how = "One engine beside fp32 PyTorch, on the clip whose logits are furthest apart: the noise in every module's output. Higher is closer."
    report = sources.layers
    if report is None:
        return Section("layers", title, how, missing=sources.missing["layers"], command=sources.command("layers"))
    bad = f"the first module below the limit is {report.first_bad}" if report.first_bad else "no module is below the limit"
    rows = [
        [
            layer.module,
            _decibel(layer.sqnr_db),
            number(layer.max_abs_err, "{:.1e}"),
            number(layer.cosine, "{:.6f}"),
            "bad" if layer.bad else "",
        ]
        for layer in report.layers
    ]
    table = Table("Every module", ["module", "signal to noise", "largest difference", "cosine", ""], rows, folded=True)
    notes = [f"{report.contender} beside {report.reference}, clip {report.clip}, {report.rows} rows: {bad}."]
    return Section("layers", title, how, charts=[_noise_by_module(report, bad)], tables=[table], notes=notes)


def _noise_by_module(report: LayersReport, bad: str) -> Chart:
    places = list(range(len(report.layers)))
    noise = [layer.sqnr_db for layer in report.layers]
    limit = -20 * math.log10(report.tolerance)
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": places,
        "y": noise,
        "text": [label(layer.module) for layer in report.layers],
        "marker": {"color": [COLOURS["int8"] if layer.bad else ACCENT for layer in report.layers], "size": 6},
        "line": {"color": REFERENCE, "width": 1},
        "hovertemplate": "%{text}: %{y:.1f} dB<extra></extra>",
    }
    line = {"type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": limit, "y1": limit,
            "line": {"color": MUTED, "width": 1, "dash": "dash"}}  # fmt: skip
    return make_chart(
        "layers",
        [trace],
        f"Signal to noise of {len(places)} modules in the order they are computed; {bad}.",
        height=280,
        showlegend=False,
        shapes=[line],
        annotations=[{"xref": "paper", "x": 1, "y": limit, "yref": "y", "text": f"limit {limit:.0f} dB", "showarrow": False,
                      "xanchor": "right", "yanchor": "bottom", "font": {"color": MUTED, "size": 11}}],
        xaxis={"title": {"text": "modules, in the order they are computed"}, "showticklabels": False},
        yaxis={"title": {"text": "signal to noise, dB"}},
    )  # fmt: skip


def _decibel(value: float | None) -> str:
    return "no noise" if value is None else f"{value:.1f} dB"
