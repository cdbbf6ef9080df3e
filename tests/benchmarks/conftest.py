"""The scripts of benchmarks/gpu.py import each other by name, as scripts in one folder do."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
