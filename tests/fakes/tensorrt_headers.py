"""Folders of TensorRT's headers to compile against.

``TENSORRT_INCLUDE_DIRS`` names folders of headers, separated by ``:``; else ``TENSORRT_INCLUDE_DIR`` or the system's are taken.
The first folder's tests are quick; what repeats them for the others is slow.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest


def header_folders() -> list[Path]:
    """Folders that hold NvInferRuntime.h, as the environment names them, or the system's."""
    named = os.environ.get("TENSORRT_INCLUDE_DIRS") or os.environ.get("TENSORRT_INCLUDE_DIR")
    system = f"/usr/include/{platform.machine()}-linux-gnu:/usr/include"
    folders = [Path(folder) for folder in (named or system).split(":") if folder]
    return [folder for folder in folders if named or (folder / "NvInferRuntime.h").is_file()]


def versions() -> list[object]:
    folders = header_folders()
    if not folders:
        reason = "no TensorRT headers: name their folders in TENSORRT_INCLUDE_DIRS, see exporters/tensorrt/plugin/README.md"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="no headers")]
    return [
        pytest.param(folder, marks=[pytest.mark.slow] if i else [], id="/".join(folder.parts[-3:]))
        for i, folder in enumerate(folders)
    ]
