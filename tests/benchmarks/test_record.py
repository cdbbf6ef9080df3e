"""The script that keeps measurements."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def record(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks" / "record.py", "--results", folder / "results", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_measurement_is_kept_with_its_command(exported_bundle, tmp_path):
    shutil.copytree(exported_bundle, tmp_path / "tiny.star")
    options = ["--engine", "torch", "--workload", "1x3", "--repeats", "2", "--threads", "1"]
    done = record(tmp_path, "tiny", "bench", "tiny.star", *options)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "results" / "bench-tiny.json").read_text())
    assert kept["command"] == "star-edge bench tiny.star " + " ".join(options)
    assert kept["host"]["versions"]["numpy"]
    assert kept["report"]["bundle"] == "tiny.star"
    assert kept["report"]["results"][0]["median_ms"] > 0


def test_nothing_is_kept_when_nothing_was_measured(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "bench-tiny.json").write_text("an earlier one")
    done = record(tmp_path, "tiny", "bench", "nothing.star")
    assert done.returncode == 2
    assert "not a bundle" in done.stderr
    assert (tmp_path / "results" / "bench-tiny.json").read_text() == "an earlier one"
