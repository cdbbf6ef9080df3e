"""Which ONNX body of the segmented linear attention is faster: python benchmarks/function_bodies.py [--out RESULT.json]

``folded`` is the product's (exporters/onnx/functions.py): the segment mask is folded into phi(k) and phi(q), one clip is the
plain linear attention. ``written out`` has every k v^T of every row in memory, sums them per clip with one product
[B, F] x [F, V·h·e·(e+1)] and gives each row its clip's sums back. Times are CPU time of one thread, the least of several
calls, so that neighbours on the machine count little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import click
import msgspec
import numpy as np
import onnxruntime
from onnx import FunctionProto, helper

from exporters.onnx.functions import DOMAIN, LINEAR, OPSET, attributes, segment_mask
from exporters.onnx.nodes import NodeList
from exporters.onnx.single_op import build_single_op
from runtime.engines.onnxruntime import session_options
from runtime.files import write_atomic
from runtime.packing import cu_seqlens_of
from star_edge.bench.host import read_host
from star_edge.models.registry import star_config
from star_edge.models.star import StarConfig
from star_edge.ops.segmented_linear_attention.naive import segmented_linear_attention as naive
from star_edge.skeletons import NTU25

WORKLOADS = {"1x300": [300], "1x32": [32], "mix8": [32, 60, 90, 120, 150, 200, 250, 300]}
CALLS = 15


def written_out(config: StarConfig) -> FunctionProto:
    """The rejected body: outer products of all rows [F, V·h·e·(e+1)], summed per clip by a product with the mask."""
    body = NodeList(LINEAR)
    joints, heads, width = config.joints, config.heads, config.dim // config.heads
    qkv = body.value("qkv")
    mask = segment_mask(body, qkv, body.value("cu_seqlens"))
    parts = body.split(qkv, ["part_q", "part_k", "part_v"], axis=2)
    head_shape = body.ints("head_shape", [-1, joints * heads, width])

    def phi(part: str, name: str) -> str:
        scaled = body.add("Mul", [part, body.floats(f"{name}_scale", width**-0.25)], f"{name}_scaled")
        rising = body.add("Relu", [scaled], f"{name}_rising")
        falling = body.add("Exp", [body.add("Sub", [scaled, rising], f"{name}_negative")], f"{name}_falling")
        return body.add("Reshape", [body.add("Add", [rising, falling], f"{name}_phi"), head_shape], f"{name}_heads")

    q, k = phi(parts[0], "q"), phi(parts[1], "k")
    v = body.add("Reshape", [parts[2], head_shape], "v")
    v = body.add("Pad", [v, body.ints("pads", [0, 0, 0, 0, 0, 1]), body.floats("ones", 1)], "v_and_ones")
    outer = body.add("MatMul", [body.add("Unsqueeze", [k, body.ints("key_axis", [3])], "k_column"),
                                body.add("Unsqueeze", [v, body.ints("value_axis", [2])], "v_row")], "outer")  # fmt: skip
    outer = body.add("Reshape", [outer, body.ints("flat_shape", [-1, joints * heads * width * (width + 1)])], "outer_flat")
    sums = body.add("MatMul", [mask, outer], "sums")
    own = body.add("MatMul", [body.add("Transpose", [mask], "mask_transposed", perm=[1, 0]), sums], "own_flat")
    own = body.add("Reshape", [own, body.ints("sum_shape", [-1, joints * heads, width, width + 1])], "own")
    both = body.add("MatMul", [body.add("Unsqueeze", [q, body.ints("query_axis", [2])], "q_row"), own], "both")
    sizes = body.ints("sizes", [width, 1])
    numerator, denominator = body.value("numerator"), body.value("denominator")
    body.nodes.append(helper.make_node("Split", [both, sizes], [numerator, denominator], axis=3))
    safe = body.add("Add", [denominator, body.float_attribute("eps", "eps")], "safe")
    flat = body.add("Div", [numerator, safe], "heads_out")
    out = body.add("Reshape", [flat, body.ints("out_shape", [-1, joints, config.dim])], "out")
    names = sorted(attributes(LINEAR, config))
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_function(DOMAIN, LINEAR, [qkv, body.value("cu_seqlens")], [out], body.nodes, opset, attributes=names)


class Timing(msgspec.Struct, frozen=True):
    """CPU milliseconds of one thread; ``clip_by_clip`` runs each clip of the workload alone."""

    body: str
    workload: str
    packed_ms: float
    packed_median_ms: float
    clip_by_clip_ms: float
    max_abs_err: float


def measure(name: str, body: FunctionProto | None, config: StarConfig) -> list[Timing]:
    """Time one body on all workloads and compare it with the naive reference on a short batch."""
    model = build_single_op(LINEAR, config, body=body).SerializeToString()
    session = onnxruntime.InferenceSession(model, session_options(threads=1), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)

    def run(qkv: np.ndarray, cu_seqlens: np.ndarray) -> tuple[float, np.ndarray]:
        start = time.process_time()
        out = session.run(None, {"qkv": qkv, "cu_seqlens": cu_seqlens})[0]
        return (time.process_time() - start) * 1e3, out

    def batch(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
        cu_seqlens = cu_seqlens_of(lengths)
        return rng.standard_normal((cu_seqlens[-1], config.joints, 3 * config.dim)).astype(np.float32), cu_seqlens

    qkv, cu_seqlens = batch([3, 0, 7])
    error = float(np.abs(run(qkv, cu_seqlens)[1] - naive(qkv, cu_seqlens, config.heads)).max())
    timings = []
    for workload, lengths in WORKLOADS.items():
        packed = [run(*batch(lengths))[0] for _ in range(CALLS)]
        alone = [sum(run(*batch([rows]))[0] for rows in lengths) for _ in range(CALLS)]
        timings.append(Timing(name, workload, min(packed), statistics.median(packed), min(alone), error))
    return timings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    config = star_config("star-64", NTU25, 9, 60)
    timings = measure("folded", None, config) + measure("written out", written_out(config), config)
    for timing in timings:
        click.echo(f"{timing.body:<12} {timing.workload:<6} packed {timing.packed_ms:8.2f} ms   clip by clip "
              f"{timing.clip_by_clip_ms:8.2f} ms   error {timing.max_abs_err:.1e}")  # fmt: skip
    if arguments.out:
        document = {
            "schema": "star-edge/function-bodies/1",
            "command": f"python benchmarks/function_bodies.py --out {arguments.out}",
            "host": read_host(),
            "model": "star-64, ntu25, one StarSegmentedLinearAttention",
            "threads": 1,
            "results": timings,
        }
        write_atomic(arguments.out, msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


if __name__ == "__main__":
    main()
