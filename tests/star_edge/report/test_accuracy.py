"""Charts and tables of many classes: all of them named, none too tall for a page of paper."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from runtime.bundle import Bundle
from star_edge.report.accuracy import accuracy_sections

_PAPER = 1000  # pixels of an A4 page without its margins


@pytest.mark.parametrize("classes", [4, 25, 60, 120])
def test_charts_of_many_classes_fit_a_page_of_paper(tiny_bundle, by_hand, classes):
    bundle = Bundle.open(tiny_bundle)
    count = 2 * classes
    labels = tuple(range(classes)) * 2
    report = by_hand.predictions(
        bundle, clips=tuple(map(str, range(count))), labels=labels, rows=(30,) * count, persons=(1,) * count
    )
    wrong = tuple((label + 1) % classes for label in labels[:classes])
    rows = (
        msgspec.structs.replace(row, classes=labels[:classes] + wrong, confidences=(0.5,) * count) for row in report.answers
    )
    report = msgspec.structs.replace(report, answers=tuple(rows))
    names = tuple(f"class {i}" for i in range(classes))
    manifest = SimpleNamespace(default_precision="fp32")
    sources = SimpleNamespace(predictions=report, bundle=SimpleNamespace(class_names=names, manifest=manifest))
    by_class, _, confusion = accuracy_sections(sources)
    assert all(chart.height <= _PAPER for chart in (*by_class.charts, *confusion.charts))
    ticks = [tick for chart in by_class.charts for tick in chart.figure["layout"]["yaxis"]["ticktext"]]
    assert sorted(ticks) == sorted(f"{name}  (2)" for name in names)
    assert len({chart.name for chart in by_class.charts}) == len(by_class.charts)
    assert {row[2] for row in by_class.tables[0].rows} == {"50.0 %"}
    assert len(confusion.tables[0].rows) == min(classes, 15)
    assert len(confusion.charts[0].figure["layout"]["xaxis"]["ticktext"]) == min(classes, 60)
