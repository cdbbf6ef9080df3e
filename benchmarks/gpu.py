"""STAR on an NVIDIA GPU: our kernels beside PyTorch on the same clips, proven first, against the limits of the card.

    python benchmarks/gpu.py [--ours] [--out FILE]

Needs torch with CUDA, numpy, pytest and nvcc; star-edge need not be installed. Builds the kernels for the present card, runs
their tests, ``tests/runtime/native/test_cuda_*.py``, then times STAR-64 and STAR-128 on 1x32, 1x300, mix8 and 64 clips of 32 to
300 frames: ours layer by layer in fp32, fp16 and int8, STAR-64 in fp16 by its own kernels, each with and without a CUDA graph.
Peers are PyTorch in float16 in two forms (gpu_peers.py), eager, in a CUDA graph, and compiled with CUDA graphs. An answer beyond
its precision's tolerance has no time. Writes ``results/gpu.json`` and prints a table.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
TESTS = REPOSITORY / "tests/runtime/native"
sys.path[:0] = [str(REPOSITORY), str(HERE), str(TESTS)]

from cuda_devices import Device, open_device  # noqa: E402
from cuda_models import TOLERANCES, FusedModel, LayeredModel, config_of, features_of, state_dict  # noqa: E402
from gpu_peers import Peer  # noqa: E402

from runtime.files import write_atomic  # noqa: E402
from runtime.native.cuda.library import find_nvcc  # noqa: E402

JOINTS = 25
WORKLOADS = {
    "1x32": [32],
    "1x300": [300],
    "mix8": [32, 60, 90, 120, 150, 200, 250, 300],
    "64 clips": np.random.default_rng(0).integers(32, 301, 64).tolist(),
}
CALLS, WARM_UP = 100, 10
Call = Callable[[], torch.Tensor]
MODELS = {"star-64": 64, "star-128": 128}  # widths
# what the promise is about comes first; of the peers that take minutes, it alone is measured
COMPILED = (("star-64", "1x300"), ("star-64", "64 clips"))


def module_at(path: Path) -> ModuleType:
    """A file of the repository as a module, without the package round it, which may need what is not installed here."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prove() -> None:
    """The kernels' tests, which end this program where they fail."""
    options = ["-q", "--tb=line", "--noconftest", "-c", os.devnull, f"--rootdir={REPOSITORY}"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *options,
        *(str(TESTS / f"test_cuda_{part}.py") for part in ("model", "ops", "layers", "layered")),
    ]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{TESTS}"}
    if code := subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode:
        raise SystemExit(f"the kernels' tests failed with {code}: nothing is measured")


def time_ms(call: Callable[[], object]) -> dict[str, float]:
    """Median, p10 and p90 milliseconds of a call, each between two events; the GPU is idle before each."""
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(CALLS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    median, low, high = np.percentile(times, [50, 10, 90])
    return {"median_ms": float(median), "p10_ms": float(low), "p90_ms": float(high), "calls": CALLS}


def captured(call: Call) -> Call:
    """The same work as a CUDA graph."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        result = call()

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay


def ceilings() -> dict[str, float]:
    """What the card reaches: operations/s of a matrix product in each precision, and a copy's bytes/s, read and written."""
    size = 8192
    square = torch.randn(size, size, device="cuda")
    half, levels = square.half(), square.clamp(-4, 4).mul(30).to(torch.int8)
    products = {"fp32": lambda: square @ square, "fp16": lambda: half @ half, "int8": lambda: torch._int_mm(levels, levels.T)}
    found = {f"{name}_ops_per_s": 2 * size**3 / time_ms(product)["median_ms"] * 1e3 for name, product in products.items()}
    big = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    other = torch.empty_like(big)
    copy_ms = time_ms(lambda: other.copy_(big))["median_ms"]
    return {**found, "bytes_per_s": 2 * big.numel() / copy_ms * 1e3}


def floor_ms(config: Any, lengths: list[int], precision: str, limits: dict[str, float]) -> float:
    """The larger of arithmetic over the product's ceiling and bytes over the copy's: features read once, and a layer's activations
    read and written once (a clip's sums part one layer from the next), two bytes each but in fp32."""
    tokens, width = sum(lengths) * config.joints, config.dim * (4 if precision == "fp32" else 2)
    moved = tokens * config.channels * 4 + config.layers * tokens * width * 2
    macs = module_at(REPOSITORY / "star_edge/bench/macs.py").macs(config, lengths)
    return 1e3 * max(2 * macs / limits[f"{precision}_ops_per_s"], moved / limits["bytes_per_s"])


class Case:
    """A model and a batch: what is timed on them, and what is right."""

    def __init__(self, device: Device, model: str, workload: str) -> None:
        self.device, self.model, self.workload, self.lengths = device, model, workload, WORKLOADS[workload]
        self.config = config_of(MODELS[model], 8, JOINTS, layers=5)
        self.state = state_dict(self.config)
        self.features = features_of(sum(self.lengths), JOINTS)
        self.expected, self.ranges = self._reference()

    def engines(self, only_ours: bool) -> dict[tuple[str, str], Callable[[], Call]]:
        """(engine, precision) -> what makes its calls."""
        found = self._fused() if self.model == "star-64" else {}
        for precision in TOLERANCES:
            found |= self._layered(precision)
        return found if only_ours else found | self._peers()

    def _reference(self) -> tuple[torch.Tensor, dict[str, float]]:
        """Logits in float64, by the form that is nothing like ours, and amax of each linear layer's input."""
        state = {name: torch.from_numpy(value) for name, value in self.state.items()}
        peer = Peer(state, self.config.edges, self.lengths, "scatter", self.config.layers).double().to(self.device.memory)
        peer.amax = {}
        with torch.no_grad():
            logits = peer(torch.from_numpy(self.features).double().to(self.device.memory))
        return logits, {f"{path}.in": amax for path, amax in peer.amax.items() if path != "embedding"}

    def _calls(self, name: str, precision: str, model: Any) -> dict[tuple[str, str], Callable[[], Call]]:
        run = model.prepare(self.features, self.lengths)

        def call() -> torch.Tensor:
            stream = torch.cuda.current_stream().cuda_stream if self.device.memory == "cuda" else None
            model.launch(run, stream)
            return run.logits.values.view(len(self.lengths), -1)

        return {(name, precision): lambda: call, (f"{name}, graph", precision): lambda: captured(call)}

    def _fused(self) -> dict[tuple[str, str], Callable[[], Call]]:
        return self._calls("ours", "fp16", FusedModel(self.device, self.config, self.state))

    def _layered(self, precision: str) -> dict[tuple[str, str], Callable[[], Call]]:
        ranges = self.ranges if precision == "int8" else None
        return self._calls("ours, layered", precision, LayeredModel(self.device, self.config, precision, self.state, ranges))

    def _peers(self) -> dict[tuple[str, str], Callable[[], Call]]:
        state = {name: torch.from_numpy(value).half() for name, value in self.state.items()}
        x = torch.from_numpy(self.features).cuda().half()
        found: dict[tuple[str, str], Callable[[], Call]] = {}
        for form in ("scatter", "dense"):
            peer = Peer(state, self.config.edges, self.lengths, form, self.config.layers).cuda().eval()
            peer.positions = peer.positions.half()
            found[f"torch {form}", "fp16"] = partial(partial, peer, x)
            found[f"torch {form}, graph", "fp16"] = partial(captured, partial(peer, x))
            if form == "dense" and (self.model, self.workload) in COMPILED:
                for mode in ("reduce-overhead", "max-autotune"):  # both capture CUDA graphs
                    compiled = torch.compile(peer, mode=mode, fullgraph=True, dynamic=False)
                    found[f"torch.compile {mode}, {form}", "fp16"] = partial(partial, compiled, x)
        return found


def measure(make: Callable[[], Call], expected: torch.Tensor, tolerance: float) -> dict[str, Any]:
    """Times of an engine whose answer is right; the reason where there are none."""
    torch._dynamo.reset()
    try:
        with torch.no_grad():
            call = make()
            call()
            found = call().double().clone()
            error = float((found - expected).abs().max() / expected.abs().max())
            if not error <= tolerance:
                return {"relative_error": error, "reason": "wrong answer"}
            return {"relative_error": error, **time_ms(call)}
    except Exception as error:
        return {"reason": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


def measure_all(device: Device, limits: dict[str, float], only_ours: bool) -> Iterator[dict[str, Any]]:
    """Every engine on every model and workload; what takes minutes to compile comes last."""
    cases = [(model, workload) for model in MODELS for workload in WORKLOADS]
    for model, workload in sorted(cases, key=lambda case: case in COMPILED):
        case = Case(device, model, workload)
        for (engine, precision), make in case.engines(only_ours).items():
            row = measure(make, case.expected, TOLERANCES[precision])
            floor = floor_ms(case.config, case.lengths, precision, limits)
            yield {"model": model, "engine": engine, "precision": precision, "workload": workload, "floor_ms": floor, **row}


def line_of(row: dict[str, Any]) -> str:
    """A row of the table."""
    head = f"{row['model']:8} {row['workload']:8} {row['engine']:38} {row['precision']:4}"
    if "median_ms" not in row:
        return f"{head} {row['reason']}"
    over = row["median_ms"] / row["floor_ms"]
    return f"{head} {row['median_ms']:9.4f} ms, {over:6.1f} times the limit, error {row['relative_error']:.1e}"


def main() -> None:
    """Prove, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", action="store_true", help="our kernels alone")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.json", help="where the result goes")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no NVIDIA GPU here, or torch was installed without CUDA; next: run this on a machine with one")
    if find_nvcc() is None:
        raise SystemExit("no nvcc to build the kernels with; next: install the CUDA toolkit, or put its bin folder on PATH")
    prove()
    with tempfile.TemporaryDirectory() as folder:
        device = open_device("gpu", (), Path(folder))
    limits = ceilings()
    report: dict[str, Any] = {
        "schema": "star-edge/gpu/2",
        "command": shlex.join(["python", "benchmarks/gpu.py", *(["--ours"] if options.ours else [])]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(),
        "versions": {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "workloads": WORKLOADS,
        "ceilings": limits,
        "results": [],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for row in measure_all(device, limits, options.ours):
        report["results"].append(row)
        print(line_of(row), flush=True)
        # after every row: the last ones take minutes, and machines are taken back
        write_atomic(options.out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
