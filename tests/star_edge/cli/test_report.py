"""``star-edge report`` through the real entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'star-edge[report]'")

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def star_edge(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "star_edge", "report", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT | environment, check=False, timeout=120
    )


def test_the_only_bundle_here_gets_its_page(star_bundle: Path) -> None:
    made = star_edge(cwd=star_bundle.parent)
    assert made.returncode == 0, made.stderr
    last = made.stdout.splitlines()[-1]
    assert last.startswith("tiny.star/reports/report.html: ")
    assert last.endswith(" MB, not judged; next: star-edge verify tiny.star")
    assert "bench: not measured yet; star-edge bench tiny.star" in made.stdout
    page = (star_bundle / "reports" / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert len(page) > 1e6  # plotly.js is in it


def test_one_document_with_json(star_bundle: Path) -> None:
    made = star_edge("--json", "--clips", 1, "--out", "page.html", cwd=star_bundle.parent)
    assert made.returncode == 0, made.stderr
    document = json.loads(made.stdout)
    assert (document["schema"], document["made"], document["verdicts"]) == ("star-edge/report/1", "page.html", ["not judged"])
    assert document["bytes"] == (star_bundle.parent / "page.html").stat().st_size
    assert [entry["report"] for entry in document["missing"]][:3] == ["verify", "predictions", "bench"]
    assert document["clips"] == ["one frame"]


def test_a_packed_bundle_needs_a_place_for_its_page(star_bundle: Path) -> None:
    from runtime.bundle import Bundle
    from runtime.pack import write_pack

    write_pack(Bundle.open(star_bundle), star_bundle.parent / "packed.star.zip")
    refused = star_edge("packed.star.zip", cwd=star_bundle.parent)
    assert refused.returncode == 2
    assert "--out" in refused.stderr or "star-edge pack --unpack" in refused.stderr
    assert star_edge("packed.star.zip", "--out", "page.html", "--json", cwd=star_bundle.parent).returncode == 0


def test_several_bundles_are_compared(star_bundle: Path) -> None:
    made = star_edge("tiny.star", "tiny.star", cwd=star_bundle.parent)
    assert made.returncode == 0, made.stderr
    assert "tiny.star beside tiny.star" in (star_bundle.parent / "report.html").read_text(encoding="utf-8")
    assert star_edge("tiny.star", "nowhere.star", cwd=star_bundle.parent).returncode == 2


def without(module: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that has no such module."""
    (tmp_path / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "found = PathFinder.find_spec\n"
        "def find_spec(name, path=None, target=None):\n"
        f"    return None if name == {module!r} else found(name, path, target)\n"
        "PathFinder.find_spec = find_spec\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])}


def test_a_missing_package_is_explained(star_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    refused = star_edge("tiny.star", cwd=star_bundle.parent, **without("plotly", tmp_path_factory.mktemp("site")))
    assert refused.returncode == 4, refused.stderr
    assert "pip install 'star-edge[report]'" in refused.stderr
    assert not (star_bundle / "reports" / "report.html").exists()


def test_it_needs_no_torch(star_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = star_edge("tiny.star", cwd=star_bundle.parent, **without("torch", tmp_path_factory.mktemp("site")))
    assert made.returncode == 0, made.stderr
