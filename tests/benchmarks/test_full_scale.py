"""The full-scale measurement, on a few files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_few_files_are_measured(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "full_scale.py"), "--files", "300", "--distinct", "12"]
    command += ["--workers", "2", "--folder", str(tmp_path / "set"), "--out", str(tmp_path / "result.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(list((tmp_path / "set" / "recordings").iterdir())) == 300
    assert len({file.stat().st_ino for file in (tmp_path / "set" / "recordings").iterdir()}) == 12
    resumption = result["resumption"]
    assert resumption["same"]
    assert resumption["killed_after"] >= resumption["went_on_after"] > 0
    assert result["epoch"]["clips"] > 100
    parts = [result[name]["peak_rss_anon_mb"] for name in ("conversion", "resumption", "epoch")]
    assert all(10 < peak < result["limit_mb"] for peak in parts)
