"""Proofs that come before times: the kernels' tests, some of them under compute-sanitizer, and the walk of the TensorRT plugins."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cuda_devices import BUILT
from gpu_child import run_boxed

REPOSITORY = Path(__file__).resolve().parent.parent
TESTS = REPOSITORY / "tests/runtime/native"
PLUGIN = REPOSITORY / "exporters/tensorrt/plugin"
PARTS = ("model", "ops", "layers", "layered")
TOOLS = {"memcheck": 75.0, "racecheck": 60.0}  # compute-sanitizer's, and how many seconds they have
PLUGIN_SECONDS = 120.0
# each kernel once, and each of its types
SANITIZED = (
    "test_cuda_model.py::test_equals_the_naive_model[gpu-[0, 7, 0, 0, 13, 0]-128]",
    "test_cuda_model.py::test_equals_the_naive_model[gpu-[3, 40, 21]-256]",
    *(
        f"test_cuda_ops.py::test_every_op_on_odd_batches[gpu-in order-{kind}-[1, 31, 2, 17]]"
        for kind in ("fp32", "fp16", "int8")
    ),
    *(f"test_cuda_layers.py::test_linear[gpu-{kind}-silu-65-128-65]" for kind in ("fp32", "fp16", "int8")),
    *(f"test_cuda_layers.py::test_residual_norm[gpu-{kind}-60]" for kind in ("fp32", "fp16")),
    *(f"test_cuda_layers.py::test_embed[gpu-{kind}-5-9-64]" for kind in ("fp32", "fp16")),
    *(
        f"test_cuda_layered.py::test_equals_the_naive_model[gpu-{kind}, 64 wide, 8 heads, 25 joints]"
        for kind in ("fp32", "fp16", "int8")
    ),
)


def pytest_command(*cases: str) -> list[str]:
    """pytest without this repository's settings, which name what a bare machine lacks."""
    options = ["-q", "--tb=short", "--noconftest", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={REPOSITORY}"]
    return [sys.executable, "-m", "pytest", *options, *cases]


def environment_of(library: Path) -> dict[str, str]:
    """Of the tests, which take the built library."""
    return {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{TESTS}", BUILT: str(library)}


def prove_kernels(library: Path, seconds: float) -> dict[str, Any]:
    """Every test of the kernels on the GPU."""
    command = pytest_command("-k", "gpu", *(str(TESTS / f"test_cuda_{part}.py") for part in PARTS))
    return _proof("kernels' tests", command, seconds, r"^[1-9]\d* passed.*", environment_of(library))


def prove_memory(library: Path, seconds: float) -> list[dict[str, Any]]:
    """``SANITIZED`` under compute-sanitizer's tools."""
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if sanitizer is None:
        return [_skipped(name, "no compute-sanitizer, neither on PATH nor in /usr/local/cuda/bin") for name in TOOLS]
    # each of torch's allocations by itself, so that what is beyond one belongs to no other
    environment = {**environment_of(library), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    pytest = pytest_command(*(str(TESTS / case) for case in SANITIZED))
    proofs, end = [], time.monotonic() + seconds
    for tool, limit in TOOLS.items():
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--report-api-errors", "no", *pytest]
        box = min(limit, end - time.monotonic())
        proofs.append(_proof(tool, command, box, rf"^{len(SANITIZED)} passed.*", environment))
    return proofs


def prove_plugins(headers: str | None, folder: Path, capability: int, seconds: float) -> dict[str, Any]:
    """The TensorRT plugins, built against ``headers`` and walked by their conformance program on the GPU."""
    name = "plugins' conformance"
    if headers is None:
        return _skipped(name, "no --tensorrt-headers")
    if (cmake := shutil.which("cmake")) is None:
        return _skipped(name, "no cmake")
    end = time.monotonic() + min(seconds, PLUGIN_SECONDS)
    configure = [cmake, "-S", str(PLUGIN), "-B", str(folder), f"-DTENSORRT_INCLUDE_DIR={headers}"]
    build = [cmake, "--build", str(folder), "--parallel", "--target", "conformance", "star_edge_trt"]
    for command in ([*configure, f"-DCMAKE_CUDA_ARCHITECTURES={capability}"], build):
        built = _proof(name, command, end - time.monotonic(), "")
        if built["outcome"] != "passed":
            return built
    walk = [str(folder / "conformance"), str(folder / "libstar_edge_trt.so")]
    proof = _proof(name, walk, end - time.monotonic(), r"^[1-9]\d* passed, 0 failed.*")
    if proof["outcome"] == "passed" and "enqueue on " not in proof["output"]:
        return {**proof, "outcome": "failed", "detail": "nothing was run on the GPU"}
    return proof


def _skipped(name: str, reason: str) -> dict[str, Any]:
    return {"proof": name, "outcome": "skipped", "detail": reason, "seconds": 0.0, "output": ""}


def _proof(
    name: str, command: Sequence[str], seconds: float, summary: str, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """``passed`` where the command ends well and prints a line that ``summary`` finds; ``unfinished`` where its time was over."""
    if seconds <= 0:
        return {"proof": name, "outcome": "unfinished", "detail": "no time left", "seconds": 0.0, "output": ""}
    begun = time.monotonic()
    code, output = run_boxed(command, seconds, REPOSITORY, environment)
    found = re.search(summary, output, re.MULTILINE)
    if code is None:
        outcome, detail = "unfinished", f"not done in {seconds:.0f} s"
    elif code == 0 and found:
        outcome, detail = "passed", found[0]
    else:
        outcome, detail = "failed", f"exit code {code}, {'no such line: ' + summary if code == 0 else 'see above'}"
    return {
        "proof": name,
        "outcome": outcome,
        "detail": detail,
        "seconds": round(time.monotonic() - begun, 1),
        "output": output,
    }
