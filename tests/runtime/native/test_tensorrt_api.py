"""The C++ engine's part that calls TensorRT compiles against the headers of every version; the rest is tested without TensorRT."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tensorrt_headers import versions

NATIVE = Path(__file__).resolve().parents[3] / "runtime" / "native"
INCLUDES = (NATIVE / "src", NATIVE / "include", NATIVE / "cuda" / "emulator")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("headers", versions())
def test_compiles_without_a_warning(headers: Path, tmp_path: Path) -> None:
    folders = [word for folder in INCLUDES for word in ("-I", str(folder))]
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-isystem", str(headers)]
    command = ["g++", *flags, *folders, str(NATIVE / "src" / "tensorrt_api.cpp")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
