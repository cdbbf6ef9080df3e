"""The page's content: verdict, figures, what is missing or stale, hostile names, nothing loaded."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from runtime.bundle import Bundle
from runtime.errors import InputError
from star_edge.report import make_page
from star_edge.report.content import percent

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'star-edge[report]'")

HOSTILE = "</script><script>alert(1)</script>"


class Page(HTMLParser):
    """Visible text, tags with their attributes, the embedded data, and the text of each table row by its first cell."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self.rows, self.table = "", [""], {}, []
        self._open, self._cells = "", [""]
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        self.data = json.loads(self.scripts[1])

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self._cells = []
        if tag in ("td", "th"):
            self._cells.append("")

    def handle_endtag(self, tag):
        self._open = "" if tag in ("script", "style") else self._open
        if tag == "tr" and self._cells:
            self.rows.setdefault(self._cells[0], self._cells[1:])
            self.table.append(self._cells)
            self._cells = []

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.text += data
            if self._cells:
                self._cells[-1] = (self._cells[-1] + " " + data.strip()).strip()


def page_of(*bundles: Path, **options: object) -> Page:
    made = make_page(bundles, **options)
    assert Path(made.made).stat().st_size == made.bytes
    return Page(Path(made.made))


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_the_verdict_stands_first_and_says_what_was_measured(reported):
    page = page_of(reported)
    text = squeezed(page.text)
    assert text.index("The exported model does not answer like the original.") < text.index("Accuracy per class")
    assert "onnxruntime int8 lost 1 and gained 1 clips (1 net losses allowed), answers differ on 2 (1 allowed)" in text
    assert "On 8 test clips of hand the fp32 model names the right action in 75.0 %, PyTorch in 75.0 %" in text
    assert "One clip of 300 frames takes 20.0 ms on 1 thread of A processor, 2.0 times faster than PyTorch." in text
    assert page.rows["onnxruntime int8"] == ["missed", "75.0 %", "75.0 %", "10.0 ms", "4.00", "0.00 MB"]
    assert page.rows["torch fp32"][:5] == ["-", "75.0 %", "100.0 %", "40.0 ms", "1.00"]


def test_accuracy_per_class_and_length_is_counted_from_the_answers(reported):
    page = page_of(reported)
    # class 0 "wave": 2 of 3 right; class 3 "clap": only int8 has it; clips, PyTorch, onnxruntime fp32, int8
    assert page.rows["wave"] == ["3", "66.7 %", "66.7 %", "66.7 %"]
    assert page.rows["kick"] == ["2", "100.0 %", "100.0 %", "50.0 %"]
    assert page.rows["clap"] == ["1", "0.0 %", "0.0 %", "100.0 %"]
    assert page.rows["1 to 31 rows"] == ["3", "66.7 %", "66.7 %", "66.7 %"]
    assert page.rows["256 rows and more"] == ["1", "0.0 %", "0.0 %", "100.0 %"]
    matrix = page.data["charts"]["confusion"]["data"][0]
    assert matrix["text"] == [["2", "1", "", ""], ["", "2", "", ""], ["", "", "2", ""], ["1", "", "", ""]]


def test_every_report_has_its_section(reported):
    page = page_of(reported)
    charts = page.data["charts"]
    assert set(charts) == {"classes", "lengths", "confusion", "sensitivity", "range-0", "layers", "latency-1x300", "size"}
    drawn = [attributes["data-chart"] for _, attributes in page.tags if "data-chart" in attributes]
    assert sorted(drawn) == sorted(charts)
    assert all(attributes["aria-label"] for _, attributes in page.tags if "data-chart" in attributes)
    assert charts["range-0"]["layout"]["shapes"][0]["x0"] == 2.0  # the cut
    box = next(trace for trace in charts["latency-1x300"]["data"] if trace["name"] == "onnxruntime int8")
    assert (box["lowerfence"], box["median"], box["upperfence"]) == (
        [pytest.approx(5.5)],
        [pytest.approx(10)],
        [pytest.approx(14.5)],
    )
    assert charts["latency-1x300"]["data"][-1]["x"] == [5.0, 5.0]  # the limit
    assert ["1x300", "1", "300", "1.23", "5.00 ms"] in page.table
    assert "keep int8: it is faster" in page.text
    assert "hand.npz" not in page.text
    assert "/folder" not in page.text


def test_a_bundle_without_reports_says_what_is_missing(tiny_bundle):
    made = make_page([tiny_bundle])
    page = Page(Path(made.made))
    assert made.verdicts == ("not judged",)
    assert "Nobody has compared the exported model" in page.text
    commands = {entry.command for entry in made.missing}
    assert commands >= {
        f"star-edge verify {tiny_bundle}",
        f"star-edge bench {tiny_bundle}",
        f"star-edge calibrate {tiny_bundle}",
    }
    for command in commands:
        assert command in page.text
    assert "golden clips, generated and no recordings" in page.text
    assert [motion["name"] for motion in page.data["player"]["motions"]] == ["one row", "two persons"]
    assert all(motion["truth"] == "" and motion["answer"] for motion in page.data["player"]["motions"])


def test_reports_of_another_state_of_the_bundle_are_not_shown(reported, by_hand):
    by_hand.add_int8(reported, class_names=("wave", "kick", "bow", "clap hands"))
    made = make_page([reported])
    assert made.verdicts == ("not judged",)
    assert {entry.reason for entry in made.missing} == {"measured on another state of the bundle"}
    page = Page(Path(made.made))
    assert "75.0 %" not in page.text
    assert "star-edge verify" in page.text


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("bench", b"{", "not a star-edge/bench document"),
        ("bench", b'{"schema": "star-edge/bench/2"}', "written by a newer star-edge"),
        ("bench", b'{"schema": "star-edge/verify/1"}', "document of another kind"),
        ("verify", b'{"schema": "star-edge/verify/1"}', "the report cannot be read"),
    ],
)
def test_a_report_that_cannot_be_read_is_missing_with_the_reason(tiny_bundle, name, data, reason):
    bundle_id = Bundle.open(tiny_bundle).manifest.bundle_id.encode()
    (tiny_bundle / "reports").mkdir()
    if data.endswith(b"}"):
        data = data[:-1] + b', "bundle_id": "' + bundle_id + b'"}'
    (tiny_bundle / "reports" / f"{name}.json").write_bytes(data)
    reasons = [entry.reason for entry in make_page([tiny_bundle]).missing]
    expected = "measured on another state of the bundle" if data == b"{" else reason
    assert any(expected in found for found in reasons), reasons


def test_answers_of_another_run_are_not_mixed_with_the_verdict(reported, by_hand):
    bundle = Bundle.open(reported)
    by_hand.write(bundle, "predictions", by_hand.predictions(bundle, seed=1))
    made = make_page([reported])
    assert "answers of another run than the verification" in {entry.reason for entry in made.missing}
    assert made.verdicts == ("failed",)


@pytest.mark.parametrize("change", [{"rows": (1,)}, {"labels": (0, 0, 0, 1, 1, 2, 2, 9)}, {"clips": ()}, {"answers": ()}])
def test_answers_that_contradict_themselves_are_not_shown(reported, by_hand, change):
    bundle = Bundle.open(reported)
    by_hand.write(bundle, "predictions", by_hand.predictions(bundle, **change))
    assert "the report contradicts itself" in {entry.reason for entry in make_page([reported]).missing}


def test_figures_that_need_a_warning_have_one(reported, by_hand):
    bundle = Bundle.open(reported)
    rows = [msgspec.structs.replace(row, preemptions_per_s=900.0, calls=5) for row in by_hand.bench(bundle).results]
    by_hand.write(bundle, "bench", by_hand.bench(bundle, results=tuple(rows)))
    by_hand.write(bundle, "verify", by_hand.verify(bundle, part="train", available=900))
    by_hand.write(bundle, "predictions", by_hand.predictions(bundle, part="train"))
    text = squeezed(page_of(reported).text)
    assert "trained on these very clips" in text
    assert "Only 8 of 900 clips were compared." in text
    assert "others took cores away up to 900 times a second" in text
    assert "3 of 3 rows rest on fewer than 20 calls, the fewest on 5" in text
    assert "times faster than PyTorch." not in text


def test_old_measurements_without_quantiles_are_drawn(reported, by_hand):
    bundle = Bundle.open(reported)
    rows = [msgspec.structs.replace(row, quantiles_ms=()) for row in by_hand.bench(bundle).results]
    by_hand.write(bundle, "bench", by_hand.bench(bundle, results=tuple(rows)))
    page = page_of(reported)
    assert page.data["charts"]["latency-1x300"]["data"][0]["x"] == [10.0, 18.0, 20.0]
    assert "median, 90 % and 99 % alone" in page.text


def test_an_engine_with_wrong_answers_has_a_reason_and_no_speed(reported, by_hand):
    bundle = Bundle.open(reported)
    *right, wrong = by_hand.bench(bundle).results
    wrong = msgspec.structs.replace(wrong, correct=False, reason="wrong answer", median_ms=None, quantiles_ms=(), p90_ms=None,
                                    p99_ms=None, clips_per_s=None, faster_than_torch=None, calls=0)  # fmt: skip
    by_hand.write(bundle, "bench", by_hand.bench(bundle, results=(*right, wrong)))
    page = page_of(reported)
    assert [trace["name"] for trace in page.data["charts"]["latency-1x300"]["data"][:-1]] == ["onnxruntime fp32", "torch fp32"]
    assert "onnxruntime int8 on 1x300 has no speed: wrong answer" in page.text
    assert page.rows["onnxruntime int8"][3:5] == ["-", "-"]


def test_answers_that_are_not_finite_count_as_wrong(reported, by_hand):
    bundle = Bundle.open(reported)
    report = by_hand.predictions(bundle)
    answers = tuple(msgspec.structs.replace(row, classes=(-1, *row.classes[1:])) for row in report.answers)
    by_hand.write(bundle, "predictions", msgspec.structs.replace(report, answers=answers))
    page = page_of(reported)
    assert page.rows["wave"][1] == "33.3 %"
    assert page.data["charts"]["confusion"]["data"][0]["text"][0] == ["1", "1", "", ""]


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100.0 %"), (0.9998, "99.980 %"), (0.9994, "99.9 %"), (0.0, "0.0 %"), (None, "-")]
)
def test_a_share_is_never_rounded_up_to_all(share, text):
    assert percent(share) == text


def test_hostile_names_stay_text(tiny_bundle, by_hand):
    bundle = by_hand.add_int8(tiny_bundle, class_names=(HOSTILE, "<b>fett</b> & Söhne", "跳ぶ 💃", "{{ 7 * 7 }}"))
    for name in ("verify", "predictions", "bench"):
        by_hand.write(bundle, name, getattr(by_hand, name)(bundle))
    page = page_of(tiny_bundle)
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 4  # the data, plotly, charts, player
    assert "b" not in {tag for tag, _ in page.tags}
    assert HOSTILE in page.rows
    assert "<b>fett</b> & Söhne" in page.rows
    assert "跳ぶ 💃" in page.rows
    assert "{{ 7 * 7 }}" in page.rows
    ticks = page.data["charts"]["confusion"]["layout"]["xaxis"]["ticktext"]
    assert ticks[0] == "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;"  # plotly reads markup: there it is escaped


def test_nothing_is_loaded_from_anywhere(reported):
    page = page_of(reported)
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
        assert "url(" not in (attributes.get("style") or "")
        assert tag not in ("link", "iframe", "object", "embed", "base")
    style = re.search(r"<style>(.*?)</style>", (reported / "reports" / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policy = next(attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_the_same_bundle_gives_the_same_bytes(reported, tmp_path):
    first, second = tmp_path / "a.html", tmp_path / "b.html"
    make_page([reported], first)
    make_page([reported], second)
    assert first.read_bytes() == second.read_bytes()


def test_a_page_that_cannot_be_written_leaves_the_old_one(reported, tmp_path, monkeypatch):
    out = tmp_path / "page.html"
    out.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            make_page([reported], out)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp" or path.name.startswith(".page")] == []
    with pytest.raises(InputError, match="no folder"):
        make_page([reported], tmp_path / "nowhere" / "page.html")


def test_a_page_beside_the_models_changes_nothing_else(reported):
    before = Bundle.open(reported).manifest
    make_page([reported])
    assert Bundle.open(reported).manifest == before
