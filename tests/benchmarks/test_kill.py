"""The script that kills verbs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def kill(out: Path, *arguments: str) -> dict[str, Any]:
    """The record of one run of the script."""
    done = subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks" / "kill.py", "--out", out, *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record: dict[str, Any] = json.loads(out.read_bytes())
    return record


def check(result: dict[str, Any], kills: int) -> None:
    assert sum(result["died"].values()) == sum(result["standing"].values()) == result["equal"] == kills
    assert (result["halves"], result["leftovers"], result["redone"], result["failures"]) == (0, 0, 0, [])
    assert result["host"]["date"]


def test_a_conversion_that_has_ended_leaves_no_work(tmp_path: Path) -> None:
    """A kill between the last rename and the journal's end is one of a verb whose result stands."""
    pytest.importorskip("torch", reason="torch is not installed")
    from kill_verbs import VERBS

    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / "journal.jsonl").write_text("plan\none\ntwo\n", encoding="utf-8")
    assert VERBS["convert"].state(tmp_path).work == 0
    (partial / "dataset").mkdir()
    (partial / "dataset" / "xyz.npy").write_bytes(b"")
    assert VERBS["convert"].state(tmp_path).work == 2


def test_one_verb(tmp_path: Path) -> None:
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed")
    (result,) = kill(tmp_path / "kill.json", "--verbs", "convert", "--kills", "1", "--aimed", "1")["results"]
    check(result, 2)


@pytest.mark.slow
def test_every_verb_and_an_earlier_record(tmp_path: Path) -> None:
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed")
    out = tmp_path / "kill.json"
    kill(out, "--verbs", "train", "--kills", "1", "--aimed", "0")
    results = kill(out, "--verbs", "analyze,calibrate,export,train", "--kills", "1", "--aimed", "1")["results"]
    assert [result["verb"] for result in results] == ["analyze", "calibrate", "export", "train"]
    for result in results:
        check(result, 2)
