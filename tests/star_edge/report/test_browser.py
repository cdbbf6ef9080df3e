"""The page in headless Chromium: it draws, plays, prints, and asks nobody for anything."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from runtime.clip import Clip
from star_edge.report import make_page
from star_edge.report.clips import Shown
from star_edge.report.motion import make_motions
from star_edge.skeletons import LAYOUTS

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make browser")

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "<a href='http://example.com/'>bow</a>",
    "clap",
)
INKED = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 === 3 && v > 0).length"
PICTURE = "c => c.toDataURL()"
Open = Callable[..., "playwright.Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here: make browser")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: playwright.Browser) -> Iterator[Open]:
    """Opens a file; at the end nothing may have been complained about, asked for, or popped up."""
    pages, complaints = [], []

    def opener(path: Path, width: int = 1280) -> playwright.Page:
        page = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: request.url == path.as_uri() or complaints.append(f"request: {request.url[:80]}"))
        page.goto(path.as_uri())
        return page

    yield opener
    assert complaints == []
    for page in pages:
        page.close()


@pytest.fixture
def made(reported: Path, recorded: Path) -> Path:
    return Path(make_page([reported], data=recorded).made)


def test_every_chart_is_drawn(made: Path, open_page: Open) -> None:
    page = open_page(made)
    charts = page.locator("[data-chart]")
    assert charts.count() >= 8
    for i in range(charts.count()):
        assert charts.nth(i).locator(".main-svg").count() > 0, charts.nth(i).get_attribute("data-chart")
    assert page.locator("#clip option").count() == 4
    assert page.locator("#confusion .xtick").count() == 4


def test_the_player_plays_seeks_turns_and_changes_clips(made: Path, open_page: Open) -> None:
    page = open_page(made)
    canvas, button = page.locator("#stage"), page.locator("#play")
    first = canvas.evaluate(PICTURE)
    assert canvas.evaluate(INKED) > 500
    button.click()
    playwright.expect(page.locator("#frame")).not_to_have_text("frame 1 of 20")
    assert button.inner_text() == "Pause"
    button.click()
    assert canvas.evaluate(PICTURE) != first
    seek = "(e, share) => { e.value = Math.round(e.max * share); e.dispatchEvent(new Event('input')); }"
    page.locator("#scrub").evaluate(seek, 1)
    assert page.locator("#frame").inner_text() == "frame 20 of 20"
    assert "wave" in page.locator("#answer").inner_text()
    end = page.locator(".cursor").get_attribute("x1"), page.locator("#legend output").first.inner_text()
    page.locator("#scrub").evaluate(seek, 0)
    assert canvas.evaluate(PICTURE) == first
    assert (page.locator(".cursor").get_attribute("x1"), page.locator("#legend output").first.inner_text()) != end
    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + 200, box["y"] + 150)
    page.mouse.down()
    page.mouse.move(box["x"] + 320, box["y"] + 150)
    page.mouse.up()
    assert canvas.evaluate(PICTURE) != first
    page.locator("#front").click()
    assert canvas.evaluate(PICTURE) == first
    canvas.press("ArrowLeft")
    assert canvas.evaluate(PICTURE) != first
    answer = page.locator("#answer").inner_text()
    page.select_option("#clip", "1")
    assert page.locator("#answer").inner_text() != answer
    assert canvas.evaluate(PICTURE) != first
    assert "2 persons" in (canvas.get_attribute("aria-label") or "")


def test_it_stops_at_the_end_and_begins_again(made: Path, open_page: Open) -> None:
    page = open_page(made)
    page.select_option("#speed", "2")
    page.locator("#play").click()
    playwright.expect(page.locator("#frame")).to_have_text("frame 20 of 20")
    playwright.expect(page.locator("#play")).to_have_text("Play")
    page.locator("#play").click()
    playwright.expect(page.locator("#frame")).not_to_have_text("frame 20 of 20")


def test_names_are_never_run_or_drawn_as_markup(tiny_bundle: Path, by_hand: SimpleNamespace, open_page: Open) -> None:
    bundle = by_hand.add_int8(tiny_bundle, class_names=HOSTILE)
    for name in ("verify", "predictions", "bench"):
        by_hand.write(bundle, name, getattr(by_hand, name)(bundle))
    page = open_page(Path(make_page([tiny_bundle]).made))
    shown = page.locator("#confusion .ytick text").all_text_contents()
    assert sorted(shown) == sorted(HOSTILE)
    assert page.locator("#classes a, #confusion a, img").count() == 0
    assert any(name in page.locator("#legend").inner_text() for name in HOSTILE)


def test_it_fits_a_telephone(made: Path, open_page: Open) -> None:
    page = open_page(made, width=400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.locator("#stage").evaluate(INKED) > 500


def test_it_prints(made: Path, open_page: Open) -> None:
    page = open_page(made)
    printed = page.pdf(prefer_css_page_size=True)
    assert printed.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert not page.locator("#play").is_visible()
    assert page.locator(".strip canvas").count() == 6
    assert page.locator(".strip canvas").first.evaluate(INKED) > 50
    widths = page.locator("[data-chart] .main-svg").evaluate_all("all => all.map(svg => svg.getBoundingClientRect().width)")
    assert max(widths) <= 681
    page.emulate_media(media="screen")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    playwright.expect(page.locator("#classes .main-svg").first).to_have_attribute("width", re.compile("^8"))


def test_folded_charts_are_drawn_when_opened(reported: Path, by_hand: SimpleNamespace, open_page: Open) -> None:
    path = reported / "reports" / "ranges.json"
    ranges = msgspec.json.decode(path.read_bytes())
    ranges["tensors"] = {f"layers.{i}.in": ranges["tensors"]["head.in"] for i in range(14)}
    path.write_bytes(msgspec.json.encode(ranges))
    page = open_page(Path(make_page([reported]).made))
    folded = page.locator("details.more [data-chart]")
    assert folded.count() == 2
    assert page.locator("details.more .main-svg").count() == 0
    page.locator("details.more summary").click()
    playwright.expect(page.locator("details.more .js-plotly-plot")).to_have_count(2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_drawn_with_each_person_in_a_colour(layout: str, made: Path, tmp_path: Path, open_page: Open) -> None:
    skeleton = LAYOUTS[layout]
    rng = np.random.default_rng(0)
    joints = rng.normal(size=(12, skeleton.num_joints, 3)).astype(np.float32)
    joints[6:, :, 0] += 4
    joints[3, :2] = 0
    recognizer = SimpleNamespace(
        bundle=SimpleNamespace(manifest=SimpleNamespace(skeleton=skeleton)),
        class_names=("a", "b"),
        logits=lambda clips: np.zeros((len(clips), 2)),
    )
    motions = make_motions(recognizer, [Shown(Clip(joints, (6, 6), "two"), 0, "")], None)
    player = {"motions": msgspec.to_builtins(motions), "bones": [list(bone) for bone in skeleton.bones], "dims": skeleton.dims}
    data = msgspec.json.encode({"charts": {}, "player": player}).decode()
    text = re.sub(r'(id="page-data">).*?(</script>)', lambda m: m[1] + data + m[2], made.read_text("utf-8"), flags=re.DOTALL)
    text = text.replace("data-chart=", "data-none=")
    if skeleton.dims == 2:
        text = text.replace('<button id="front" type="button">Front view</button>', "")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    page = open_page(tmp_path / "page.html")
    colours = page.locator("#stage").evaluate(
        """c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let blue = 0, orange = 0;
             for (let i = 0; i < d.length; i += 4) if (d[i + 3] > 100) { if (d[i + 2] > d[i] + 60) blue++; if (d[i] > d[i + 2] + 60) orange++; }
             return [blue, orange]; }"""
    )
    assert min(colours) > 100, colours
