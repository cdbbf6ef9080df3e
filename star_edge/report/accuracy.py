"""Sections on accuracy: per class, per clip length, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from star_edge.report.content import (
    ACCENT,
    COLOURS,
    REFERENCE,
    SYMBOLS,
    Chart,
    Section,
    Table,
    label,
    make_chart,
    percent,
)
from star_edge.report.sources import Sources
from star_edge.verification.compare import BUCKETS
from star_edge.verification.gates import wilson_interval
from star_edge.verification.report import Answers, PredictionsReport

_COUNTS_SHOWN = 25  # classes; in a larger matrix the numbers would be too small to read
_NAMES_SHOWN = 60  # of its classes along an axis; the table has the names of those confused
_BAR = 26  # pixels
_BARS = 30  # in one chart, which has to fit a page of paper


def accuracy_sections(sources: Sources) -> list[Section]:
    """By class, by length, and the confusion matrix of the bundle's default precision."""
    classes = Section(
        "classes",
        "Accuracy per class",
        "Share of a class's clips that were named right. Grey bars are PyTorch with the 95 % range that this many clips allow;"
        " marks are the exported models. A mark off the end of its bar is a difference that the export made.",
    )
    lengths = Section(
        "lengths",
        "Accuracy by clip length",
        "The same, by the rows of a clip (frames, of all persons together). Few clips say little: mind the counts.",
    )
    matrix = Section(
        "confusion",
        "What is taken for what",
        "A row is what the clip showed, a column what the model answered; the diagonal is right. Dark cells off it are habits.",
    )
    sections = [classes, lengths, matrix]
    predictions = sources.predictions
    if predictions is None:
        reason, command = sources.missing["predictions"], sources.command("predictions")
        return [Section(part.name, part.title, part.how, missing=reason, command=command) for part in sections]
    names = sources.bundle.class_names
    return [
        _filled(classes, *_by_class(predictions, names)),
        _filled(lengths, *_by_length(predictions)),
        _filled(
            matrix, *_confusion(predictions, names, default_answers(predictions, sources.bundle.manifest.default_precision))
        ),
    ]


def default_answers(predictions: PredictionsReport, precision: str) -> Answers:
    """The answers of the engine under test in a precision, else of its first row."""
    rows = predictions.answers[1:] or predictions.answers
    return next((row for row in rows if row.precision == precision and row.engine != "torch"), rows[0])


def right_by_class(predictions: PredictionsReport, answers: Answers, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips of each class that were named right, and clips of it: int64 [K] each."""
    labels = np.array(predictions.labels)
    right = labels[np.array(answers.classes) == labels]
    return np.bincount(right, minlength=classes), np.bincount(labels, minlength=classes)


def row_name(answers: Answers, reference: bool = False) -> str:
    """How a row of answers is called on the page."""
    if reference:
        return f"PyTorch {answers.precision}"
    return f"{answers.engine} {answers.precision}" if answers.engine != "torch" else f"PyTorch rounded to {answers.precision}"


def _filled(section: Section, charts: Sequence[Chart], table: Table) -> Section:
    return Section(section.name, section.title, section.how, charts=charts, tables=[table])


def _by_class(predictions: PredictionsReport, names: Sequence[str]) -> tuple[list[Chart], Table]:
    counted = [right_by_class(predictions, answers, len(names)) for answers in predictions.answers]
    clips = counted[0][1]
    order = [int(i) for i in np.argsort(-counted[0][0] / np.maximum(clips, 1), kind="stable") if clips[i]]
    right, clips, names = np.array([row[order] for row, _ in counted]), clips[order], [names[i] for i in order]
    charts = []
    for start in range(0, len(order), _BARS):
        part = slice(start, start + _BARS)
        name = f"classes-{start // _BARS}" if start else "classes"
        charts.append(_shares(name, predictions, right[:, part], clips[part], names[part]))
    return charts, _table("Clips named right, per class", "class", predictions, right, clips, names)


def _by_length(predictions: PredictionsReport) -> tuple[list[Chart], Table]:
    rows, labels = np.array(predictions.rows), np.array(predictions.labels)
    held = [(low, high, (rows >= low) & (rows <= (high or rows.max()))) for low, high in BUCKETS]
    held = [bucket for bucket in held if bucket[2].any()]
    names = [f"{low} to {high} rows" if high else f"{low} rows and more" for low, high, _ in held]
    clips = np.array([inside.sum() for _, _, inside in held])
    right = np.array(
        [[(np.array(row.classes) == labels)[inside].sum() for _, _, inside in held] for row in predictions.answers]
    )
    chart = _shares("lengths", predictions, right, clips, names)
    return [chart], _table("Clips named right, by length", "clips of", predictions, right, clips, names)


def _shares(name: str, predictions: PredictionsReport, right: np.ndarray, clips: np.ndarray, groups: Sequence[str]) -> Chart:
    """Bars of the reference with their Wilson intervals, and one mark a row of answers: right [R, G] of clips [G]."""
    places = list(range(len(groups)))
    share = right[0] / clips
    bounds = np.array([wilson_interval(int(r), int(n)) for r, n in zip(right[0], clips, strict=True)])
    reference = {
        "type": "bar",
        "orientation": "h",
        "name": row_name(predictions.answers[0], reference=True),
        "y": places,
        "x": _rounded(100 * share),
        "error_x": {
            "type": "data",
            "array": _rounded(100 * (bounds[:, 1] - share)),
            "arrayminus": _rounded(100 * (share - bounds[:, 0])),
            "color": "#8a93a2",
            "thickness": 1.2,
            "width": 0,
        },
        "marker": {"color": REFERENCE},
        "width": 0.62,
        "hovertemplate": "%{x:.1f} %<extra>PyTorch</extra>",
    }
    traces: list[dict[str, Any]] = [reference]
    rows = predictions.answers[1:]
    for position, (answers, counts) in enumerate(zip(rows, right[1:], strict=True)):
        offset = (position - (len(rows) - 1) / 2) * 0.5 / len(rows)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": row_name(answers),
                "x": _rounded(100 * counts / clips),
                "y": [place + offset for place in places],
                "marker": {"color": COLOURS[answers.precision], "size": 7, "symbol": SYMBOLS.get(answers.engine, "square"),
                           "line": {"width": 1.4, "color": COLOURS[answers.precision]}},
                "hovertemplate": "%{x:.1f} %",
            }
        )  # fmt: skip
    ticks = [f"{label(group)}  ({count})" for group, count in zip(groups, clips, strict=True)]
    said = "; ".join(f"{group}: {percent(value)} of {count}" for group, value, count in zip(groups, share, clips, strict=True))
    return make_chart(
        name,
        traces,
        f"Named right by PyTorch, {said}. The figures of the other engines are in the table below.",
        height=130 + _BAR * len(ticks),
        xaxis={"range": [0, 101], "title": {"text": "named right, %"}},
        yaxis={"tickvals": places, "ticktext": ticks, "showgrid": False, "range": [len(ticks) - 0.4, -0.6]},
    )


def _table(
    caption: str, what: str, predictions: PredictionsReport, right: np.ndarray, clips: np.ndarray, names: Sequence[str]
) -> Table:
    head = [what, "clips", row_name(predictions.answers[0], reference=True), *map(row_name, predictions.answers[1:])]
    rows = [
        [name, str(n), *(f"{percent(count / n)}" for count in counts)]
        for name, n, counts in zip(names, clips, right.T, strict=True)
    ]
    return Table(caption, head, rows, folded=True)


def _confusion(predictions: PredictionsReport, names: Sequence[str], answers: Answers) -> tuple[list[Chart], Table]:
    labels, answered = np.array(predictions.labels), np.array(answers.classes)
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, (labels[answered >= 0], answered[answered >= 0]), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = [(int(counts[i, j]), i, j) for i, j in zip(*np.nonzero(counts), strict=True) if i != j]
    wrong.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
    most = "; ".join(f"{names[i]} taken for {names[j]} {count} times" for count, i, j in wrong[:3])
    annotated = len(names) <= _COUNTS_SHOWN
    cells = {
        "type": "heatmap",
        "z": _rounded(100 * shares),
        "x": list(range(len(names))),
        "y": list(range(len(names))),
        "zmin": 0,
        "zmax": 100,
        "colorscale": [[0, "#ffffff"], [0.001, "#e8f1f9"], [1, ACCENT]],
        "showscale": False,
        "xgap": int(annotated),
        "ygap": int(annotated),
        "text": [[str(count) if count else "" for count in row] for row in counts.tolist()],
        "hovertemplate": "%{text} clips, %{z:.0f} % of the row<extra></extra>",
    }
    if annotated:
        cells["texttemplate"] = "%{text}"
    named = range(0, len(names), -(-len(names) // _NAMES_SHOWN))
    axis = {"tickvals": list(named), "ticktext": [label(names[i]) for i in named], "showgrid": False, "ticks": "",
            "tickfont": {"size": 12 if annotated else 9}}  # fmt: skip
    chart = make_chart(
        "confusion",
        [cells],
        f"Confusion matrix of {row_name(answers)}. " + (f"Most frequent: {most}." if most else "No clip was named wrong."),
        title=f"{row_name(answers)}, {int(counts.sum())} clips; rows: shown, columns: answered",
        height=170 + min(30 * len(names), 760),
        xaxis=axis | {"tickangle": -45},
        yaxis=axis | {"autorange": "reversed"},
    )
    rows = [[names[i], names[j], str(count), percent(float(shares[i, j]))] for count, i, j in wrong[:15]]
    table = Table("The most frequent mistakes", ["shown", "answered", "clips", "of the class"], rows, folded=True)
    return [chart], table


def _rounded(values: np.ndarray) -> list[Any]:
    rounded: list[Any] = np.round(values, 2).tolist()
    return rounded
