"""Commands in a time box, and the row among what they print."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from gpu_child import print_row, row_in, run_boxed


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_exit_code_and_both_streams(tmp_path: Path) -> None:
    assert run_boxed(["sh", "-c", "echo $WORD; pwd >&2; exit 7"], 10, tmp_path, {"WORD": "said"}) == (7, f"said\n{tmp_path}\n")


def test_what_a_command_started_ends_with_its_time(tmp_path: Path) -> None:
    begun = time.monotonic()
    code, output = run_boxed(["sh", "-c", "sleep 60 & echo $!; wait"], 0.5, tmp_path)
    assert code is None
    assert time.monotonic() - begun < 10
    grandchild = int(output)
    while is_running(grandchild) and time.monotonic() - begun < 20:
        time.sleep(0.01)
    assert not is_running(grandchild)


def test_what_keeps_the_output_open_does_not_keep_the_command(tmp_path: Path) -> None:
    """A compiler's idle workers outlive the program that started them for a moment."""
    begun = time.monotonic()
    assert run_boxed(["sh", "-c", "sleep 5 & echo done"], 60, tmp_path) == (0, "done\n")
    assert time.monotonic() - begun < 4


def test_a_row_is_found_among_other_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_row({"median_ms": 0.5})
    output = f"AUTOTUNE mm(300x64)\n{capsys.readouterr().out}a warning at exit\n"
    assert row_in(output) == {"median_ms": 0.5}
    assert row_in(output.replace("row: ", "")) is None
