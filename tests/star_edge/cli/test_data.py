"""``star-edge data`` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from star_edge.cli import cli
from star_edge.data import Dataset
from star_edge.data.generator import generate


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "recordings"
    generate(folder, 20, seed=1)
    return folder


def star_edge(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "star_edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_convert_then_info(tmp_path: Path, recordings: Path) -> None:
    made = star_edge("data", "convert", recordings, tmp_path / "set")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1].startswith(f"{tmp_path / 'set'}: 20 clips")
    assert made.stdout.splitlines()[-1].endswith(f"star-edge train --data {tmp_path / 'set'}")
    told = star_edge("data", "info", "--json", tmp_path / "set")
    assert told.returncode == 0, told.stderr
    report = json.loads(told.stdout)
    assert report["schema"] == "star-edge/data-info/1"
    assert (report["clips"], report["skeleton"], report["default_split"]) == (20, "ntu25", "xsub")
    assert sum(entry["clips"] for entry in report["classes"]) == 20
    assert sum(report["persons"].values()) == 20


def test_bad_source_is_told_without_traceback(tmp_path: Path) -> None:
    done = star_edge("data", "convert", tmp_path / "nowhere", tmp_path / "out")
    assert done.returncode == 2
    assert "no recordings here" in done.stderr
    assert "Traceback" not in done.stderr


def test_changed_dataset_exits_with_four(tmp_path: Path, recordings: Path) -> None:
    out = tmp_path / "set"
    assert CliRunner().invoke(cli, ["data", "convert", str(recordings), str(out)]).exit_code == 0
    xyz = np.load(out / "xyz.npy")
    xyz[0, 0, 0] += 1
    np.save(out / "xyz.npy", xyz)
    done = star_edge("data", "info", out)
    assert done.returncode == 4
    assert "convert the source again" in done.stderr


def test_skipped_files_are_shown_with_reasons(tmp_path: Path, recordings: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for file in recordings.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "S001C001P001R009A001.skeleton").write_bytes(b"2\n0\n0\n")
    listed = tmp_path / "skip.txt"
    listed.write_text(next(recordings.glob("*.skeleton")).stem)
    options = ["--skip-list", str(listed), "--json"]
    result = CliRunner().invoke(cli, ["data", "convert", str(folder), str(tmp_path / "out"), *options])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["skipped_by_reason"] == {"on the skip list": 1, "no body in any frame": 1}
    assert report["clips"] == 19
    fatal = star_edge("data", "convert", folder, tmp_path / "other", "--on-error", "fail")
    assert fatal.returncode == 2
    assert "S001C001P001R009A001.skeleton" in fatal.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_after_an_interrupt_the_same_command_goes_on(tmp_path: Path, recordings: Path) -> None:
    """Ctrl-C in the middle of many files: exit code 130, and no dataset; once more, and it is there."""
    many = tmp_path / "many"
    many.mkdir()
    for repetition in range(1, 100):
        for file in recordings.glob("*.skeleton"):
            (many / file.name.replace("R001", f"R{repetition:03}")).symlink_to(file)
    (many / "recordings.json").symlink_to(recordings / "recordings.json")
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "star_edge", "data", "convert", str(many), str(work / "set"), "--workers", "1"]
    # a shell starts background jobs with the signal ignored, and so would be all they start
    interruptible = ["env", "--default-signal=INT", *command]
    process = subprocess.Popen(interruptible, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    journal = work / ".set.partial" / "journal.jsonl"
    while not (journal.exists() and journal.stat().st_size > 1000) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert [path.name for path in work.iterdir()] == [".set.partial"]
    assert "the same command goes on from there" in " ".join(errors.split())
    assert "Traceback" not in errors
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "that an interrupted conversion had done" in " ".join(again.stderr.split())
    assert [path.name for path in work.iterdir()] == ["set"]
    assert len(Dataset.open(work / "set")) == len(list(many.glob("*.skeleton")))
