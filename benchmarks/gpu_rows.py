"""The rows of benchmarks/gpu.py's result, while there is time; what does not fit any more is a row, too, with that reason."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gpu_compiled
import torch
from cuda_devices import Device
from cuda_models import TOLERANCES
from gpu_cases import CASES, open_case, work_of
from gpu_child import row_in, run_boxed
from gpu_engines import engines
from gpu_time import measure

HERE = Path(__file__).resolve().parent
Row = dict[str, Any]
Limits = dict[str, float]
Left = Callable[[], float]  # seconds
NO_TIME = "no time left"
PROMISED = (("star-64", "1x300"), ("star-64", "64 clips"))
CHILD_SECONDS = 120.0  # of what compiles or builds first
TENSORRT = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}  # module -> name
TENSORRT_NEEDS = ("msgspec", "onnx")  # star_edge's and the exporter's


def engine_rows(device: Device, limits: Limits, only_ours: bool, left: Left) -> Iterator[Row]:
    """Every engine on every case."""
    for model, workload in CASES:
        case = None
        for (engine, precision), make in engines(model, only_ours).items():
            row = row_of(model, workload, engine, precision, limits)
            if left() <= 0:
                yield {**row, "reason": NO_TIME}
                continue
            case = case or open_case(device.memory, model, workload)
            yield {**row, **measure(partial(make, device, case), case.expected, TOLERANCES[precision])}


def compiled_rows(limits: Limits, left: Left) -> Iterator[Row]:
    """torch.compile; the mode that takes longer comes last."""
    for mode in gpu_compiled.MODES:
        for model, workload in PROMISED:
            engine = f"torch.compile {mode}, {gpu_compiled.FORM}"
            row = row_of(model, workload, engine, gpu_compiled.PRECISION, limits)
            yield {**row, **_from_child(["gpu_compiled.py", model, workload, mode], left)}


def tensorrt_rows(headers: str | None, limits: Limits, left: Left) -> Iterator[Row]:
    """TensorRT and TensorRT-RTX, those that are installed."""
    modules = [module for module in TENSORRT if find_spec(module)]
    if lacking := [name for name in TENSORRT_NEEDS if not find_spec(name)] or ([] if modules else [" or ".join(TENSORRT)]):
        yield {**row_of(*PROMISED[0], "TensorRT, graph", "fp16", limits), "reason": f"no module {', '.join(lacking)}"}
        return
    for module in modules:
        for precision in ("fp16", "fp32", "int8"):
            for model, workload in PROMISED:
                row = row_of(model, workload, f"{TENSORRT[module]}, graph", precision, limits)
                command = ["gpu_tensorrt.py", module, model, workload, precision, *([headers] if headers else [])]
                yield {**row, **_from_child(command, left)}


def row_of(model: str, workload: str, engine: str, precision: str, limits: Limits) -> Row:
    """What a row says of the work before it is done."""
    work = work_of(model, workload, precision)
    return {
        "model": model,
        "workload": workload,
        "engine": engine,
        "precision": precision,
        "flops": work.flops,
        "bytes": work.bytes,
        "floor_ms": work.floor_ms(precision, limits),
    }


def _from_child(command: Sequence[str], left: Left) -> Row:
    """The row that a script beside this one prints, or why there is none."""
    seconds = min(CHILD_SECONDS, left())
    if seconds <= 0:
        return {"reason": NO_TIME}
    torch.cuda.empty_cache()  # the child shares the GPU's memory with this process
    code, output = run_boxed([sys.executable, str(HERE / command[0]), *command[1:]], seconds, HERE.parent)
    if row := row_in(output):
        return row
    if code is None:
        return {"reason": f"not done in {seconds:.0f} s" if seconds == CHILD_SECONDS else NO_TIME}
    return {"reason": f"exit code {code}: {(output.strip().splitlines() or ['nothing said'])[-1][:200]}"}
