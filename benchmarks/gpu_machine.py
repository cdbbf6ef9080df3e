"""What benchmarks/gpu.py ran on: versions, and the card's clocks and power."""

from __future__ import annotations

import platform
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from gpu_child import run_boxed

from runtime.native.cuda.library import find_nvcc

SECONDS = 10.0  # for a program to say something of itself
ASKED = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")


def versions() -> dict[str, str | None]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nvcc": _nvcc_version(),
    }


def card_now() -> dict[str, str]:
    """Driver, clocks, power and temperature as nvidia-smi words them; nothing where there is none, as on a Jetson."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return {}
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    command = [smi, f"--id={uuid}", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
    code, output = run_boxed(command, SECONDS, Path.cwd())
    words = output.strip().split(", ")
    return dict(zip(ASKED, words, strict=True)) if code == 0 and len(words) == len(ASKED) else {}


def _nvcc_version() -> str | None:
    nvcc = find_nvcc()
    if nvcc is None:
        return None
    found = re.search(r"\bV([\d.]+)", run_boxed([nvcc, "--version"], SECONDS, Path.cwd())[1])
    return found[1] if found else None
