"""Function bodies of the ``Star*`` ops in standard ONNX ops: what an engine without our kernels runs.

No Scatter, OneHot, NonZero, Loop or Einsum. Clips are told apart by comparison, never by data-dependent shapes: a segment mask
float32 [B, F] is 1 where row f belongs to clip b. A batch has at least one row (F >= 1); clips of it may be empty.

Shapes that the configuration fixes (joints, heads, edges) are constants of the body. The nodes carry the same values as
attributes, for plugins and custom kernels.

Precision: an ``fp16`` body takes and returns float16. Float32 inside it are positions, softmax, the whole of the segmented
linear attention (sums U and Z and what divides by them) and the means of the context attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import FunctionProto, TensorProto, helper

from exporters.onnx.nodes import FLOAT_TYPES, NodeList
from runtime.errors import InputError
from star_edge.ops.segmented_linear_attention import EPS

if TYPE_CHECKING:
    from star_edge.models.star import StarConfig

DOMAIN, VERSION, OPSET = "star_edge", 1, 20
POSITIONS, SPARSE, LINEAR, CONTEXT = (
    "StarSegmentedPositions",
    "StarSparseAttention",
    "StarSegmentedLinearAttention",
    "StarContextAttention",
)
OPS = (POSITIONS, SPARSE, LINEAR, CONTEXT)

# Added to the score of a pair that is no edge; exp() of it is exactly 0 and, being finite, no engine meets inf - inf.
NO_EDGE = -1e9


def attributes(op: str, config: StarConfig) -> dict[str, Any]:
    """Attributes every node of an op carries; the plugin fields are how TensorRT finds its plugin."""
    own: dict[str, dict[str, Any]] = {
        POSITIONS: {},
        SPARSE: {"heads": config.heads, "edges": [joint for edge in config.edges for joint in edge]},
        LINEAR: {"heads": config.heads, "eps": EPS},
        CONTEXT: {},
    }
    return {**own[op], "plugin_version": str(VERSION), "plugin_namespace": DOMAIN}


def make_functions(config: StarConfig, precision: str) -> list[FunctionProto]:
    """The four functions for float tensors of ``precision`` ("fp32" or "fp16")."""
    return [
        _segmented_positions(config, precision),
        _sparse_attention(config, precision),
        _segmented_linear_attention(config, precision),
        _context_attention(config, precision),
    ]


def _segmented_positions(config: StarConfig, precision: str) -> FunctionProto:
    """(x [F, V, C], cu_seqlens [B+1]) -> x + sin or cos of (p / 10^4)^(j / C), p restarting in each clip; cost B·F + F·C.

    cos u = sin(u + pi/2), so one sine serves odd and even channels.
    """
    body = NodeList(POSITIONS)
    x, cu = body.value("x"), body.value("cu_seqlens")
    channel = np.arange(config.dim)
    rows, starts, _ = _rows_and_bounds(body, x, cu)
    begun = body.cast(body.add("LessOrEqual", [starts, rows], "has_begun"), TensorProto.FLOAT, "begun")
    axis = body.ints("clip_axis", [0])
    start = body.add("ReduceMax", [body.add("Mul", [begun, starts], "begun_starts"), axis], "start", keepdims=0)  # [F]
    position = body.add("Unsqueeze", [body.add("Sub", [rows, start], "index"), body.ints("channel_axis", [1])], "position")
    scaled = body.add("Div", [position, body.floats("scale", 1e4)], "scaled")
    phase = body.add("Pow", [scaled, body.floats("exponent", channel / config.dim)], "phase")  # [F, C]
    shifted = body.add("Add", [phase, body.floats("shift", np.where(channel % 2, np.pi / 2, 0))], "shifted")
    wave = body.add("Unsqueeze", [body.add("Sin", [shifted], "wave"), body.ints("joint_axis", [1])], "positions")
    total = body.add("Add", [_float32(body, x, precision), wave], "sum")
    return _function(POSITIONS, ["x", "cu_seqlens"], total, body, config, precision)


def _sparse_attention(config: StarConfig, precision: str) -> FunctionProto:
    """qkv [F, V, 3C] -> [F, V, C]: dense attention with an additive mask; 187 of 625 pairs are edges for ntu25.

    The scale sits on q, not on the scores: fewer elements, and no score of an fp16 graph exceeds what it must.
    """
    _check_edges(config)
    body = NodeList(SPARSE)
    joints, heads, width = config.joints, config.heads, config.dim // config.heads
    mask = np.full((joints, joints), NO_EDGE)
    mask[tuple(np.transpose(config.edges))] = 0
    qkv = body.add("Reshape", [body.value("qkv"), body.ints("split_shape", [-1, joints, 3, heads, width])], "split")
    parts = body.split(body.add("Transpose", [qkv], "parts", perm=[2, 0, 3, 1, 4]), ["part_q", "part_k", "part_v"], axis=0)
    first = body.ints("part_axis", [0])
    q, k, v = (body.add("Squeeze", [part, first], name) for part, name in zip(parts, "qkv", strict=True))  # [F, h, V, e]
    q = body.add("Mul", [q, _scalar(body, "scale", width**-0.5, precision)], "scaled_q")
    scores = body.add("MatMul", [q, body.add("Transpose", [k], "k_transposed", perm=[0, 1, 3, 2])], "scores")
    masked = body.add("Add", [_float32(body, scores, precision), body.floats("mask", mask)], "masked")
    weights = _lower(body, body.add("Softmax", [masked], "weights", axis=-1), precision)
    out = body.add("Transpose", [body.add("MatMul", [weights, v], "heads_out")], "joints_out", perm=[0, 2, 1, 3])
    out = body.add("Reshape", [out, body.ints("out_shape", [-1, joints, config.dim])], "flat")
    return _function(SPARSE, ["qkv"], out, body, config, precision, lowered=True)


def _segmented_linear_attention(config: StarConfig, precision: str) -> FunctionProto:
    """(qkv [F, V, 3C], cu_seqlens [B+1]) -> [F, V, C], clips kept apart by a mask folded into phi(k) and phi(q).

    Rows are the innermost axis, so that every product is wide. With phi(k), phi(q) [V·h, B·e, F], zero outside their clip:
    U = v phi(k)^T [V·h, e, B·e], Z = row sums of phi(k) [V·h, 1, B·e], out = (U phi(q)) / (Z phi(q) + eps).
    One clip is the plain linear attention. B clips cost B times the work and 2·B·F·V·C floats (64 clips of 300 rows, STAR-64
    and 25 joints: 16 GB; 8 such clips 0.25 GB), which is why engines of this body run clip by clip.

    Chosen by measurement (benchmarks/function_bodies.py and its result): with k v^T of every row written out and summed by one
    product with the mask, ONNX Runtime needs six to eight times as long for one clip, and more than twice for eight packed.
    Elu(u) + 1 is written max(u, 0) + exp(min(u, 0)): ONNX Runtime's Elu takes eight times as long as its Exp.
    """
    body = NodeList(LINEAR)
    joints, heads, width = config.joints, config.heads, config.dim // config.heads
    qkv = _float32(body, body.value("qkv"), precision)
    mask = segment_mask(body, qkv, body.value("cu_seqlens"))
    mask = body.add("Unsqueeze", [mask, body.ints("channel_axis", [1])], "mask")  # [B, 1, F]
    flat = body.add("Reshape", [qkv, body.ints("flat_shape", [-1, joints * 3 * config.dim])], "rows_first")
    flat = body.add("Transpose", [flat], "rows_last", perm=[1, 0])
    rows = body.add("Shape", [flat], "rows", start=1, end=2)
    split_shape = body.add("Concat", [body.ints("split_axes", [joints, 3, config.dim]), rows], "split_shape", axis=0)
    parts = body.split(body.add("Reshape", [flat, split_shape], "parts"), ["part_q", "part_k", "part_v"], axis=1)
    clip_shape = body.add("Concat", [body.ints("clip_axes", [joints * heads, 1, width]), rows], "clip_shape", axis=0)
    head_shape = body.add("Concat", [body.ints("head_axes", [joints * heads, -1]), rows], "head_shape", axis=0)
    scale = body.floats("scale", width**-0.25)

    def features(part: str, name: str) -> str:
        """phi of q or k, once for each clip and zero outside it [V·h, B·e, F]."""
        scaled = body.add("Mul", [body.add("Reshape", [part, clip_shape], f"{name}_clips"), scale], f"{name}_scaled")
        rising = body.add("Relu", [scaled], f"{name}_rising")
        falling = body.add("Exp", [body.add("Sub", [scaled, rising], f"{name}_negative")], f"{name}_falling")
        phi = body.add("Add", [rising, falling], f"{name}_phi")
        return body.add("Reshape", [body.add("Mul", [phi, mask], f"{name}_masked"), head_shape], f"{name}_features")

    q, k = features(parts[0], "q"), features(parts[1], "k")
    v = body.add("Reshape", [parts[2], head_shape], "v")  # [V·h, e, F]
    u = body.add("MatMul", [v, body.add("Transpose", [k], "k_transposed", perm=[0, 2, 1])], "u")
    z = body.add("Unsqueeze", [body.add("ReduceSum", [k, body.ints("row_axis", [2])], "z_sums", keepdims=0),
                               body.ints("z_axis", [1])], "z")  # fmt: skip
    numerator = body.add("MatMul", [u, q], "numerator")
    denominator = body.add("Add", [body.add("MatMul", [z, q], "q_z"), body.float_attribute("eps", "eps")], "denominator")
    out = body.add("Div", [numerator, denominator], "heads_out")
    width_shape = body.add("Concat", [body.ints("width_axis", [joints * config.dim]), rows], "width_shape", axis=0)
    out = body.add("Transpose", [body.add("Reshape", [out, width_shape], "out_rows_last")], "out_rows_first", perm=[1, 0])
    out = body.add("Reshape", [out, body.ints("out_shape", [-1, joints, config.dim])], "joints_out")
    return _function(LINEAR, ["qkv", "cu_seqlens"], out, body, config, precision)


def _context_attention(config: StarConfig, precision: str) -> FunctionProto:
    """(x [F, V, C], weight [C, C], cu_seqlens [B+1]) -> gated mean of each clip's rows [B, V, C]; cost B·F·V·C."""
    body = NodeList(CONTEXT)
    cu = body.value("cu_seqlens")
    x = _float32(body, body.value("x"), precision)
    mask = segment_mask(body, x, cu)
    wide = body.ints("wide_shape", [-1, config.joints * config.dim])
    deep = body.ints("deep_shape", [-1, config.joints, config.dim])
    flat = body.add("Reshape", [x, wide], "flat")  # [F, V·C]
    counts = body.add("Max", [body.add("Sub", [body.value("ends"), body.value("starts")], "lengths"), body.floats("one", 1)],
                      "counts")  # fmt: skip
    mean = body.add("Div", [body.add("MatMul", [mask, flat], "sums"), counts], "mean_flat")
    mean = _lower(body, body.add("Reshape", [mean, deep], "mean"), precision)
    context = body.add("Tanh", [body.add("MatMul", [mean, body.value("weight")], "projected")], "context")
    context = body.add("Reshape", [_float32(body, context, precision), wide], "context_flat")
    own = body.add("MatMul", [body.add("Transpose", [mask], "mask_transposed", perm=[1, 0]), context], "row_context")
    products = body.add("Reshape", [body.add("Mul", [flat, own], "products_flat"), deep], "products")
    scores = body.add("ReduceSum", [products, body.ints("width_axis", [2])], "scores", keepdims=1)
    gated = body.add("Mul", [x, body.add("Sigmoid", [scores], "gate")], "gated")  # [F, V, C]
    sums = body.add("MatMul", [mask, body.add("Reshape", [gated, wide], "gated_flat")], "gated_sums")
    out = body.add("Reshape", [body.add("Div", [sums, counts], "out_flat"), deep], "deep")
    return _function(CONTEXT, ["x", "weight", "cu_seqlens"], out, body, config, precision)


def _rows_and_bounds(body: NodeList, x: str, cu_seqlens: str) -> tuple[str, str, str]:
    """Row numbers float32 [F], and starts and ends of the clips float32 [B, 1] (exact below 2^24 rows)."""
    axis = body.ints("first_axis", [0])
    count = body.add("Squeeze", [body.add("Shape", [x], "row_count", start=0, end=1), axis], "frames")
    numbers = body.add("Range", [body.ints("zero", 0), count, body.ints("step", 1)], "row_numbers")
    rows = body.cast(numbers, TensorProto.FLOAT, "row")
    bounds = body.cast(cu_seqlens, TensorProto.FLOAT, "bounds")
    begin, second, last, end = (body.ints(f"slice_{i}", [i if i < 3 else np.iinfo(np.int64).max]) for i in (0, 1, -1, 3))
    inner = body.ints("inner_axis", [1])
    starts = body.add("Unsqueeze", [body.add("Slice", [bounds, begin, last, axis], "starts_flat"), inner], "starts")
    ends = body.add("Unsqueeze", [body.add("Slice", [bounds, second, end, axis], "ends_flat"), inner], "ends")
    return rows, starts, ends


def segment_mask(body: NodeList, x: str, cu_seqlens: str) -> str:
    """float32 [B, F]: 1 where row f belongs to clip b; rows behind the last clip belong to none."""
    rows, starts, ends = _rows_and_bounds(body, x, cu_seqlens)
    inside = body.add(
        "And", [body.add("LessOrEqual", [starts, rows], "begun"), body.add("Less", [rows, ends], "unfinished")], "inside"
    )
    return body.cast(inside, TensorProto.FLOAT, "segments")


def _float32(body: NodeList, value: str, precision: str) -> str:
    """The value as float32: itself in an fp32 body."""
    return value if precision == "fp32" else body.cast(value, TensorProto.FLOAT, f"{value.rpartition('.')[2]}_float32")


def _lower(body: NodeList, value: str, precision: str) -> str:
    """A float32 value in the precision of the body."""
    if precision == "fp32":
        return value
    return body.cast(value, FLOAT_TYPES[precision], f"{value.rpartition('.')[2]}_{precision}")


def _scalar(body: NodeList, name: str, value: float, precision: str) -> str:
    """A scalar constant in the precision of the body."""
    return body.constant(name, np.asarray(value, dtype=helper.tensor_dtype_to_np_dtype(FLOAT_TYPES[precision])))


def _function(
    op: str, inputs: list[str], result: str, body: NodeList, config: StarConfig, precision: str, lowered: bool = False
) -> FunctionProto:
    """Close a body: its result, float32 unless ``lowered``, becomes the output in the precision of the body."""
    out = body.value("out")
    if lowered or precision == "fp32":
        next(node for node in body.nodes if node.output[0] == result).output[0] = out
    else:
        body.cast(result, FLOAT_TYPES[precision], "out")
    return helper.make_function(
        DOMAIN,
        op,
        [body.value(name) for name in inputs],
        [out],
        body.nodes,
        [helper.make_opsetid("", OPSET)],
        attributes=sorted(attributes(op, config)),
    )


def _check_edges(config: StarConfig) -> None:
    """A joint without edges would attend to all: refuse."""
    alone = sorted(set(range(config.joints)) - {i for i, _ in config.edges})
    if alone:
        raise InputError("a joint has no attention edge", found=f"joints {alone}", expected="an edge from every joint")
