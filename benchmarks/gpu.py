"""STAR-64 on an NVIDIA GPU: our FP16 kernels beside PyTorch on the same clips, proven first, against the limits of the card.

    python benchmarks/gpu.py [--ours] [--out FILE]

Needs torch with CUDA, numpy, pytest and nvcc; star-edge need not be installed. Builds the kernels for the present card, runs
their tests, ``tests/runtime/native/test_cuda_*.py``, then times each engine on 1x32, 1x300, mix8 and 64 clips of 32 to 300 frames. An
answer beyond the tolerance has no time. Peers are PyTorch in float16 in two forms (gpu_peers.py), eager, in a CUDA graph, and
compiled with CUDA graphs. Writes ``results/gpu.json`` and prints a table.
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
COMPILED = ("1x300", "64 clips")  # of the peers that take minutes, what the promise is about


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
        *(str(TESTS / f"test_cuda_{part}.py") for part in ("model", "ops", "layers")),
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
    """What the card reaches: a float16 matrix product's FLOP/s and a copy's bytes/s, read and written."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    product_ms = time_ms(lambda: a @ a)["median_ms"]
    big = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    other = torch.empty_like(big)
    copy_ms = time_ms(lambda: other.copy_(big))["median_ms"]
    return {"fp16_flops_per_s": 2 * 8192**3 / product_ms * 1e3, "bytes_per_s": 2 * big.numel() / copy_ms * 1e3}


def floor_ms(model: Any, proof: ModuleType, lengths: list[int], limits: dict[str, float]) -> float:
    """The larger of arithmetic over the matrix ceiling and bytes over the copy's: features read once, and a layer's activations
    read and written once in float16 (a clip's sums part one layer from the next)."""
    tokens = sum(lengths) * JOINTS
    moved = tokens * proof.CHANNELS * 4 + proof.LAYERS * tokens * 64 * 2 * 2
    macs = module_at(REPOSITORY / "star_edge/bench/macs.py").macs(model.config(), lengths)
    return 1e3 * max(2 * macs / limits["fp16_flops_per_s"], moved / limits["bytes_per_s"])


def ours(
    proof: ModuleType, model: Any, features: np.ndarray, lengths: list[int], tile_rows: int = 0
) -> dict[str, Callable[[], Call]]:
    """What makes calls of our kernels, plain and as a graph."""
    run = model.prepare(features, lengths, tile_rows=tile_rows)

    def call() -> torch.Tensor:
        model.launch(run, torch.cuda.current_stream().cuda_stream)
        return run.logits.values.view(len(lengths), proof.CLASSES)

    name = "ours fp16" if tile_rows == 0 else f"ours fp16, tiles of {tile_rows}"
    return {name: lambda: call, f"{name}, graph": lambda: captured(call)}


def peers(
    proof: ModuleType, model: Any, features: np.ndarray, lengths: list[int], workload: str
) -> dict[str, Callable[[], Call]]:
    """What makes calls of PyTorch in each form."""
    state = {name: torch.from_numpy(np.asarray(value)).half() for name, value in model.state.items()}
    x = torch.from_numpy(features).cuda().half()
    calls: dict[str, Callable[[], Call]] = {}
    for form in ("scatter", "dense"):
        peer = Peer(state, model.edges, lengths, form, proof.LAYERS).cuda().eval()
        peer.positions = peer.positions.half()
        calls[f"torch {form} fp16"] = partial(partial, peer, x)
        calls[f"torch {form} fp16, graph"] = partial(captured, partial(peer, x))
        if form == "dense" and workload in COMPILED:
            for mode in ("reduce-overhead", "max-autotune"):  # both capture CUDA graphs
                compiled = torch.compile(peer, mode=mode, fullgraph=True, dynamic=False)
                calls[f"torch.compile {mode}, {form} fp16"] = partial(partial, compiled, x)
    return calls


def expected_logits(proof: ModuleType, model: Any, features: np.ndarray, lengths: list[int]) -> torch.Tensor:
    """In float64, by the form that is nothing like ours."""
    state = {name: torch.from_numpy(np.asarray(value)) for name, value in model.state.items()}
    peer = Peer(state, model.edges, lengths, "scatter", proof.LAYERS).double().cuda()
    return peer(torch.from_numpy(features).double().cuda())


def measure(proof: ModuleType, make: Callable[[], Call], expected: torch.Tensor) -> dict[str, Any]:
    """Times of an engine whose answer is right; the reason where there are none."""
    torch._dynamo.reset()
    try:
        with torch.no_grad():
            call = make()
            call()
            found = call().double().clone()
            error = float((found - expected).abs().max() / expected.abs().max())
            if not error <= proof.TOLERANCE:
                return {"relative_error": error, "reason": "wrong answer"}
            return {"relative_error": error, **time_ms(call)}
    except Exception as error:
        return {"reason": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


def measure_all(proof: ModuleType, model: Any, only_ours: bool) -> Iterator[dict[str, Any]]:
    """Every engine on every workload; what takes minutes comes last."""
    for workload, lengths in sorted(WORKLOADS.items(), key=lambda item: item[0] in COMPILED):
        features = proof.features_of(sum(lengths), JOINTS)
        expected = expected_logits(proof, model, features, lengths)
        makers = ours(proof, model, features, lengths)
        if only_ours:
            makers |= ours(proof, model, features, lengths, 128) | ours(proof, model, features, lengths, 192)
        else:
            makers |= peers(proof, model, features, lengths, workload)
        for name, make in makers.items():
            yield {"engine": name, "workload": workload, **measure(proof, make, expected)}


def line_of(row: dict[str, Any], floors: dict[str, float]) -> str:
    """A row of the table."""
    head = f"{row['workload']:9} {row['engine']:45}"
    if "median_ms" not in row:
        return f"{head} {row['reason']}"
    over = row["median_ms"] / floors[row["workload"]]
    return f"{head} {row['median_ms']:9.4f} ms, {over:6.0f} times the limit, error {row['relative_error']:.1e}"


def main() -> None:
    """Prove, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", action="store_true", help="our kernels alone, with every size of tiles")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.json", help="where the result goes")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no NVIDIA GPU here, or torch was installed without CUDA; next: run this on a machine with one")
    if find_nvcc() is None:
        raise SystemExit("no nvcc to build the kernels with; next: install the CUDA toolkit, or put its bin folder on PATH")
    prove()
    proof = module_at(TESTS / "test_cuda_model.py")
    with tempfile.TemporaryDirectory() as folder:
        model = proof.Model(proof.open_device("gpu", proof.cuda.MODEL, Path(folder)), JOINTS)
    limits = ceilings()
    floors = {name: floor_ms(model, proof, lengths, limits) for name, lengths in WORKLOADS.items()}
    report: dict[str, Any] = {
        "schema": "star-edge/gpu/1",
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
        "floor_ms": floors,
        "results": [],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for row in measure_all(proof, model, options.ours):
        report["results"].append(row)
        print(line_of(row, floors), flush=True)
        # after every row: the last ones take minutes, and machines are taken back
        write_atomic(options.out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
