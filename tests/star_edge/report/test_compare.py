"""Bundles side by side: differences where they can be compared, and only there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import msgspec
import pytest

from runtime.bundle import Bundle
from star_edge.report import make_page


@pytest.fixture
def other(reported, by_hand) -> Path:
    """The same bundle again, where every clip is named right and every engine is twice as fast."""
    path = reported.parent / "other.star"
    shutil.copytree(reported, path)
    bundle = Bundle.open(path)
    predictions = by_hand.predictions(bundle)
    right = tuple(msgspec.structs.replace(row, classes=predictions.labels) for row in predictions.answers)
    by_hand.write(bundle, "predictions", msgspec.structs.replace(predictions, answers=right))
    verify = by_hand.verify(bundle)
    results = tuple(msgspec.structs.replace(row, top1=1.0, passed=True) for row in verify.results)
    by_hand.write(bundle, "verify", msgspec.structs.replace(verify, results=results, passed=True))
    bench = by_hand.bench(bundle)
    rows = tuple(msgspec.structs.replace(row, median_ms=row.median_ms / 2) for row in bench.results)
    by_hand.write(bundle, "bench", msgspec.structs.replace(bench, results=rows))
    return path


def page(*paths: Path, out: Path) -> tuple[str, dict]:
    made = make_page(paths, out)
    text = Path(made.made).read_text(encoding="utf-8")
    data = re.search(r'id="page-data">(.*?)</script>', text, re.DOTALL)
    assert data
    visible = text.split('<script type="application/json"')[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", visible.split("</style>")[1])), json.loads(data[1])


def test_differences_from_the_first(reported, other, tmp_path):
    text, data = page(reported, other, out=tmp_path / "compare.html")
    assert "tiny.star: The exported model does not answer like the original." in text
    assert "other.star: The exported model answers like the original." in text
    assert (
        "Beside tiny.star (fp32): other.star (fp32): +25.0 percentage points of top-1, 2.00 times the speed, 1.00 times the size."
        in text
    )
    assert "top-1 75.0 % 100.0 % (+25.0 points)" in text
    assert "median, 1x300 20.0 ms 10.0 ms (x 0.50)" in text
    assert "GMAC, 1x300 1.23 1.23 (x 1.00)" in text
    chart = data["charts"]["differences"]
    shares = dict(zip(chart["layout"]["yaxis"]["ticktext"], chart["data"][0]["x"], strict=True))
    assert shares == {"wave": 33.33, "kick": 0, "bow": 0, "clap": 100}
    assert data["player"]["motions"]


def test_the_order_decides_who_is_the_baseline(reported, other, tmp_path):
    text, _ = page(other, reported, out=tmp_path / "compare.html")
    assert "top-1 100.0 % 75.0 % (-25.0 points)" in text


def test_what_cannot_be_compared_is_not(reported, other, by_hand, tmp_path):
    bundle = Bundle.open(other)
    by_hand.write(bundle, "verify", by_hand.verify(bundle, data_sha256="cd" * 32))
    by_hand.write(bundle, "predictions", by_hand.predictions(bundle, data_sha256="cd" * 32, clips=tuple("abcdefgh")))
    host = msgspec.structs.replace(by_hand.bench(bundle).host, cpu="Another processor")
    by_hand.write(bundle, "bench", by_hand.bench(bundle, host=host))
    text, data = page(reported, other, out=tmp_path / "compare.html")
    assert "percentage points of top-1" not in text
    assert "times the speed" not in text
    assert "(+0.0 points)" not in text
    assert "Not all accuracies are of the same clips" in text
    assert "Not all latencies are of one undisturbed machine" in text
    assert "no other bundle answered the same clips" in text
    assert "differences" not in data["charts"]


def test_a_bundle_without_reports_beside_one_with(reported, tmp_path, by_hand):
    bare = tmp_path / "bare.star"
    shutil.copytree(reported, bare, ignore=shutil.ignore_patterns("reports"))
    text, _ = page(reported, bare, out=tmp_path / "compare.html")
    assert "bare.star: Nobody has compared" in text
    assert f"star-edge verify {bare}" in text
    text, _ = page(bare, reported, out=tmp_path / "compare.html")
    assert "1.00 times the size" in text


def test_bundles_of_one_name_are_told_apart(reported, tmp_path):
    again = tmp_path / "elsewhere" / reported.name
    shutil.copytree(reported, again)
    text, data = page(reported, again, out=tmp_path / "compare.html")
    assert str(again) in text
    names = [trace["name"] for trace in data["charts"]["latency-1x300"]["data"]]
    assert names == [str(reported), str(again)]
