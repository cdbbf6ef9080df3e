"""STAR on an NVIDIA GPU: our kernels beside PyTorch and TensorRT on the same clips, proven first, against the limits of the card.

    python benchmarks/gpu.py [--ours] [--out FILE] [--tensorrt-headers FOLDER] [--minutes N]

Needs torch with CUDA, numpy, pytest and nvcc; star-edge need not be installed. In this order, within the minutes:

1. Builds the kernels for the present card and runs their tests, without which nothing is measured; some of them again under
   compute-sanitizer, where it is; and, given headers, the walk of the TensorRT plugins. A failed proof makes the exit code 1.
2. Measures what the card reaches in products and copies, which gives each row its floor (gpu_floor.py).
3. Times STAR-64 and STAR-128 on five workloads (gpu_cases.py): ours layer by layer in fp32, fp16 and int8, STAR-64 in fp16 by
   its own kernels, PyTorch in two forms in fp32 and fp16 (gpu_peers.py), and ST-GCN on the clip of two persons; each with and
   without a CUDA graph. Then torch.compile and, where they are installed, TensorRT and TensorRT-RTX, each in a child.

A wrong answer has no time, and what there was no time for is a row with that reason. Writes the result anew after each row, by
default to ``results/gpu.json``, and prints a table.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests/runtime/native")]

from cuda_devices import Device  # noqa: E402
from gpu_cases import WORKLOADS  # noqa: E402
from gpu_floor import ceilings  # noqa: E402
from gpu_machine import card_now, versions  # noqa: E402
from gpu_prove import prove_kernels, prove_memory, prove_plugins  # noqa: E402
from gpu_rows import Left, Limits, Row, compiled_rows, engine_rows, tensorrt_rows  # noqa: E402
from gpu_table import line_of, table_of  # noqa: E402

from runtime.files import write_atomic  # noqa: E402
from runtime.native.cuda import library as cuda  # noqa: E402

SCHEMA = "star-edge/gpu/3"
MINUTES = 9.0


def options_of(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ours", action="store_true", help="time our kernels alone")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.json", help="where the result goes")
    parser.add_argument("--tensorrt-headers", metavar="FOLDER", help="of NvInferRuntime.h, to prove the TensorRT plugins")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for everything; default {MINUTES:g}")
    return parser.parse_args(arguments)


def require_gpu() -> None:
    """Or end with what is missing."""
    if not torch.cuda.is_available():
        raise SystemExit("no NVIDIA GPU here, or torch was installed without CUDA; next: run this on a machine with one")
    if cuda.find_nvcc() is None:
        raise SystemExit("no nvcc to build the kernels with; next: install the CUDA toolkit, or put its bin folder on PATH")


def build(capability: int, folder: Path) -> Path:
    """The library of the kernels."""
    try:
        return cuda.build((capability,), folder)[0]
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"the kernels cannot be compiled: nothing is measured\n{error.stderr}") from None


def prove(library: Path, headers: str | None, capability: int, folder: Path, left: Left) -> Iterator[Row]:
    """Every proof in turn; ends the program where the kernels' tests do not pass."""
    kernels = prove_kernels(library, left())
    yield kernels
    if kernels["outcome"] != "passed":
        raise SystemExit("the kernels are not proven: nothing is measured")
    yield from prove_memory(library, left())
    yield prove_plugins(headers, folder / "plugins", capability, left())


def shown(proof: Row) -> Row:
    """The proof as it is kept, after it was printed: without its output where nothing is wrong."""
    is_right = proof["outcome"] in ("passed", "skipped")
    print(f"{proof['proof']}: {proof['outcome']}, {proof['detail']}; {proof['seconds']} s", flush=True)
    if is_right:
        return {name: value for name, value in proof.items() if name != "output"}
    print(proof["output"], flush=True)
    return proof


def rows(library: Path, options: argparse.Namespace, limits: Limits, left: Left) -> Iterator[Row]:
    """All that is measured, what is slow to start last."""
    yield from engine_rows(Device(cuda.load(library), "cuda"), limits, options.ours, left)
    if not options.ours:
        yield from compiled_rows(limits, left)
        yield from tensorrt_rows(options.tensorrt_headers, limits, left)


def keep(report: Row, out: Path) -> None:
    write_atomic(out, (json.dumps(report, indent=1) + "\n").encode())


def measure_into(report: Row, found: Iterable[Row], out: Path) -> None:
    """Rows as they come: a machine may be taken back meanwhile."""
    for row in found:
        report["results"].append(row)
        print(line_of(row), flush=True)
        keep(report, out)


def main(arguments: Sequence[str]) -> int:
    """Prove, measure, print, keep; the exit code."""
    options = options_of(arguments)
    end = time.monotonic() + 60 * options.minutes

    def left() -> float:
        return end - time.monotonic()

    require_gpu()
    torch.backends.cudnn.allow_tf32 = False  # what is called fp32 is
    major, minor = torch.cuda.get_device_capability()
    capability = 10 * major + minor
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = build(capability, folder)
        proofs = [shown(proof) for proof in prove(library, options.tensorrt_headers, capability, folder, left)]
        limits = ceilings()
        report: dict[str, Any] = {
            "schema": SCHEMA,
            "command": shlex.join(["python", "benchmarks/gpu.py", *arguments]),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "device": f"{torch.cuda.get_device_name()}, sm_{capability}",
            "versions": versions(),
            "card_before": card_now(),
            "workloads": WORKLOADS,
            "proofs": proofs,
            "ceilings": limits,
            "results": [],
        }
        measure_into(report, rows(library, options, limits, left), options.out)
    keep({**report, "card_after": card_now()}, options.out)
    print(*table_of(report["results"]), sep="\n")
    return int(any(proof["outcome"] not in ("passed", "skipped") for proof in proofs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
