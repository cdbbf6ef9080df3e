"""The FMA peak of this machine on a number of threads, measured."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_name("fma_peak.c")
_TARGETS: tuple[list[str], ...] = (
    ["-march=native"],
    ["-mcpu=native"],
    [],
)  # the second for compilers that take it on Arm only
_BURSTS = 1000
_LIMIT_S = 60


@dataclass(frozen=True)
class Peak:
    """Float32 multiply-accumulates per second, and how they were measured."""

    macs_per_s: float
    how: str


def measure_fma_peak(threads: int) -> Peak | None:
    """Compile and run ``fma_peak.c``; None when this machine has no working C compiler."""
    compiler = _compiler()
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(prefix="star-edge-") as folder:
        program = Path(folder) / "fma_peak"
        for target in _TARGETS:
            built = _run([compiler, "-O2", *target, "-pthread", "-o", str(program), str(_SOURCE)])
            measured = _run([str(program), str(threads), str(_BURSTS)]) if built is not None else None
            if measured is not None:
                rate, bits, accumulators = measured.split()
                how = (
                    f"FMA loop in registers, {bits}-bit vectors, {accumulators} accumulators, best of {_BURSTS} bursts "
                    f"on {threads} thread{'s' if threads > 1 else ''}, {Path(compiler).name} -O2 {' '.join(target)}"
                )
                return Peak(float(rate), how.strip())
    return None


def _compiler() -> str | None:
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _run(command: list[str]) -> str | None:
    """Standard output of a command that succeeds, else None."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
