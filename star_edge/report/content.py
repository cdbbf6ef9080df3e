"""What a page is made of: sections with charts and tables. The templates draw them; nothing here knows HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

INK, MUTED, GRID, ACCENT = "#1d2433", "#5f6b7c", "#e4e8ee", "#0b5fa5"
REFERENCE = "#c3cad5"
# of the palette of Okabe and Ito, which stays apart in every form of colour vision
COLOURS = {"fp32": "#56b4e9", "fp16": "#0072b2", "bf16": "#009e73", "int8": "#d55e00"}
SYMBOLS = {"onnxruntime": "circle", "torch": "diamond-open"}
_FONT = {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", "size": 13, "color": INK}
_AXIS = {"gridcolor": GRID, "linecolor": GRID, "automargin": True, "fixedrange": True, "zeroline": False}


class Chart(NamedTuple):
    """A plotly figure as plain JSON, its height in pixels, and the same in words for those who do not see it."""

    name: str
    figure: dict[str, Any]
    height: int
    alt: str
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Cells are text; ``words`` is a table of text, whose columns are not aligned as numbers."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        how: one line that says how to read it.
        missing, command: why there is nothing to show, and what to type for it.
        small: charts are many and stand side by side; those in ``more`` are shown on demand.
    """

    name: str
    title: str
    how: str
    charts: Sequence[Chart] = ()
    more: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    missing: str = ""
    command: str = ""
    small: bool = False


def make_chart(name: str, traces: Sequence[dict[str, Any]], alt: str, *, height: int, title: str = "", **layout: Any) -> Chart:
    """A chart in the page's style; plotly refuses a property that it does not know."""
    from plotly import graph_objects

    axes = {key: _axis(layout.pop(key, {})) for key in ("xaxis", "yaxis")}
    style: dict[str, Any] = {
        "template": "none",
        "font": _FONT,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {
            "orientation": "h",
            "y": 1.0,
            "yanchor": "bottom",
            "x": 0,
            "xanchor": "left",
            "maxheight": 1000,
            "font": {"size": 12},
        },
        "hoverlabel": {"bgcolor": "white", "bordercolor": GRID, "font": {"color": INK}},
        "dragmode": False,
        "height": height,
    }
    figure = graph_objects.Figure(data=list(traces), layout=style | axes | layout)
    return Chart(name, json.loads(figure.to_json()), height, alt, title)


def _axis(own: dict[str, Any]) -> dict[str, Any]:
    title = {"font": {"size": 12, "color": MUTED}, "standoff": 8} | own.get("title", {})
    return _AXIS | own | {"title": title}


def label(text: str) -> str:
    """Text for a chart, where plotly would read markup."""
    return escape(text, quote=False)


def percent(share: float | None) -> str:
    """One decimal, but never rounded up to all of them."""
    if share is None:
        return "-"
    return f"{100 * share:.{1 if share == 1 or share < 0.9995 else 3}f} %"


def megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.2f} MB"


def number(value: float | None, form: str = "{:.3g}") -> str:
    return "-" if value is None else form.format(value)


def milliseconds(value: float | None) -> str:
    """Three digits: 1.23, 12.3, 123."""
    return "-" if value is None else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} ms"
