"""Times STAR by torch.compile, for benchmarks/gpu.py, which ends this program where compiling takes too long.

    python benchmarks/gpu_compiled.py MODEL WORKLOAD MODE

Prints the row's times.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests/runtime/native")]

from cuda_models import TOLERANCES  # noqa: E402
from gpu_cases import Case  # noqa: E402
from gpu_child import print_row  # noqa: E402
from gpu_time import Call, measure  # noqa: E402

FORM, PRECISION = "dense", "fp16"  # the faster form, and one that compiles into one graph
MODES = ("reduce-overhead", "max-autotune")  # both capture CUDA graphs


def compiled(case: Case, **options: Any) -> Callable[[], Call]:
    """What compiles the model and gives its call."""
    peer, features = case.peer(FORM, PRECISION)
    return lambda: partial(torch.compile(peer, fullgraph=True, dynamic=False, **options), features)


def main() -> None:
    """Measure, and print the row."""
    model, workload, mode = sys.argv[1:]
    case = Case("cuda", model, workload)
    print_row(measure(compiled(case, mode=mode), case.expected, TOLERANCES[PRECISION]))


if __name__ == "__main__":
    main()
