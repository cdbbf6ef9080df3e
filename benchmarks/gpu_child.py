"""A command with a time box: when that ends, what it started ends with it. And the row that such a command measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROW = "row: "  # begins the line that has it, among what libraries print


def print_row(row: dict[str, Any]) -> None:
    """For :func:`row_in`."""
    print(f"{ROW}{json.dumps(row)}", flush=True)


def row_in(output: str) -> dict[str, Any] | None:
    """The row that a command printed."""
    found = [line.removeprefix(ROW) for line in output.splitlines() if line.startswith(ROW)]
    return json.loads(found[-1]) if found else None


def run_boxed(
    command: Sequence[str], seconds: float, cwd: Path, environment: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """Exit code, None where the time was over, and what was printed to both streams."""
    # into a file: a pipe stays open as long as anything that was started has it
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            code: int | None = child.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)  # the child leads a group of its own
                child.wait()
        output.seek(0)
        return code, output.read().decode(errors="replace")
