"""Times STAR by TensorRT with our plugins, or by TensorRT-RTX without, in a CUDA graph; for benchmarks/gpu.py, as gpu_compiled.py.

    python benchmarks/gpu_tensorrt.py tensorrt|tensorrt_rtx MODEL WORKLOAD PRECISION [HEADERS]

The engine is built for the workload's own size, which pads nothing. An INT8 one has linear layers in INT8 and the rest in fp16.
Needs what star-edge and its exporter need.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests/runtime/native")]

from cuda_models import TOLERANCES  # noqa: E402
from gpu_cases import Case  # noqa: E402
from gpu_child import print_row  # noqa: E402
from gpu_time import Call, captured, measure  # noqa: E402

from exporters.onnx.graph import build_model  # noqa: E402
from exporters.tensorrt.builder import build_engine, creators  # noqa: E402
from exporters.tensorrt.graphs import plugin_free, plugin_graph  # noqa: E402
from exporters.tensorrt.plugin_library import ensure_plugins  # noqa: E402
from runtime.tensorrt.buckets import Bucket  # noqa: E402
from runtime.tensorrt.installation import load_plugins, logger, plugin_path, version  # noqa: E402
from star_edge.models.config import StarConfig  # noqa: E402


def take_plugins(trt: Any, headers: Path | None) -> None:
    """Compile and load them for the present GPU."""
    major, minor = torch.cuda.get_device_capability()
    load_plugins(trt, plugin_path(ensure_plugins(10 * major + minor, version(trt), headers).key))


def build_plan(trt: Any, case: Case, precision: Any) -> bytes:
    """The engine for the case's batch; plugins, which TensorRT-RTX knows none of, are loaded."""
    ranges = case.ranges if precision == "int8" else None
    model = build_model(StarConfig(**vars(case.config)), case.state, precision, ranges, base="fp16")
    model = plugin_free(model) if trt.__name__ == "tensorrt_rtx" else plugin_graph(model, creators(trt))
    return build_engine(trt, model, [Bucket(sum(case.lengths), len(case.lengths))]).plan


def call_of(trt: Any, plan: bytes, case: Case) -> Call:
    """A run of the engine on the current stream."""
    offsets = np.cumsum([0, *case.lengths], dtype=np.int32)
    inputs = {"features": torch.from_numpy(case.features), "cu_seqlens": torch.from_numpy(offsets)}
    tensors = {name: value.to(case.memory) for name, value in inputs.items()}
    tensors["logits"] = torch.empty(len(case.lengths), case.config.classes, device=case.memory)
    engine = trt.Runtime(logger(trt)).deserialize_cuda_engine(plan)
    _require(trt, engine is not None)
    context = engine.create_execution_context()
    _require(trt, context is not None)
    for name, tensor in tensors.items():
        if name != "logits":
            _require(trt, context.set_input_shape(name, tuple(tensor.shape)))
        _require(trt, context.set_tensor_address(name, tensor.data_ptr()))

    def call() -> torch.Tensor:
        _require(trt, context.execute_async_v3(torch.cuda.current_stream().cuda_stream))
        return tensors["logits"]

    return call


def _require(trt: Any, done: bool) -> None:
    if not done:
        raise RuntimeError(logger(trt).reason())


def main(arguments: Sequence[str]) -> None:
    """Build, measure, and print the row."""
    module, model, workload, precision, *headers = arguments
    trt = importlib.import_module(module)
    case = Case("cuda", model, workload)
    if module == "tensorrt":
        take_plugins(trt, Path(headers[0]) if headers else None)
    plan = build_plan(trt, case, precision)
    row = measure(lambda: captured(call_of(trt, plan, case)), case.expected, TOLERANCES[precision])
    print_row({"version": trt.__version__, **row})


if __name__ == "__main__":
    main(sys.argv[1:])
