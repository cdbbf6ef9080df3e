"""The canonical ONNX graph of a STAR model, written node by node from a config and a state dict.

Nodes are named after the module they are (``layers.0.spatial.qkv``), values ``<module path>.out``, initializers after the state
dict. Weights of matrix products are stored transposed, [in, out], as MatMul takes them. Opset 20, IR 10; inputs
``features`` float32 [F, V, C] and ``cu_seqlens`` int32 [B+1], output ``logits`` float32 [B, K].

Precision is explicit: an ``fp16`` graph casts down behind the input normalisation and up again around each float32 island
(LayerNorm; softmax, sums and means inside the function bodies) and at the logits. An ``int8`` graph puts QuantizeLinear and
DequantizeLinear on the input and the weight of each quantised module, over an fp32 or fp16 remainder.

An ensemble is its experts side by side, with ``experts.0.`` and so on in front of all their names, and a float32 mean of their logits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from exporters.onnx.functions import CONTEXT, DOMAIN, LINEAR, OPSET, POSITIONS, SPARSE, VERSION, attributes, make_functions
from exporters.onnx.nodes import FLOAT_TYPES, NodeList
from exporters.onnx.qdq import quantised_input, quantised_weight
from runtime.errors import InputError, MismatchError
from star_edge.models.config import expert_paths

if TYPE_CHECKING:
    from star_edge.models.config import StarConfig

IR_VERSION = 10
Precision = Literal["fp32", "fp16", "int8"]
Base = Literal["fp32", "fp16"]

# why a module outside the quantised ones keeps its float type, by the last part of its path
FLOAT_REASONS = {
    "input_norm": "float32 normalisation of raw joints",
    "embedding": "a few channels wide: nothing to gain, and every later layer sees its error",
    "positions": "an addition",
    "attention": "softmax, or sums over frames: float32 inside",
    "norm1": "float32 island",
    "norm2": "float32 island",
    "context": "means over frames and a gate: float32 inside",
}


def quantised_modules(config: StarConfig) -> list[str]:
    """Module paths that an int8 graph quantises: QKV and FFN of every encoder and both head layers."""
    inner = [f"{encoder}.{name}" for encoder in _encoders(config) for name in ("qkv", "linear1", "linear2")]
    modules = [part for module in (*inner, "head.hidden", "head.output") for part in _factors(config, module)]
    return [f"{expert}{module}" for expert in expert_paths(config) for module in modules]


def recorded_tensors(config: StarConfig) -> dict[str, str]:
    """Calibration key -> name of the value in the graph: inputs of weighted ops, inputs and outputs of ``Star*`` ops.

    The names hold in every precision's graph; the calibrator exposes them as outputs of the fp32 one.
    """
    table = {
        "embedding.in": "input_norm.out",
        "positions.in": "embedding.out",
        "positions.out": "positions.out",
    }
    source = "positions.out"
    for layer in range(config.layers):
        for branch in ("spatial", "temporal"):
            path = f"layers.{layer}.{branch}"
            table |= {
                f"{path}.qkv.in": source,
                f"{path}.attention.in": f"{path}.qkv.out",
                f"{path}.attention.out": f"{path}.attention.out",
                f"{path}.linear1.in": f"{path}.norm1.out",
                f"{path}.linear2.in": f"{path}.activation.out",
            }
        source = f"layers.{layer}.out"
    table |= {
        "context.in": source,
        "context.out": "context.out",
        "head.hidden.in": "context.flat",
        "head.output.in": "head.activation.out",
    }
    for module in config.ranks:
        table |= {f"{module}.first.in": table.pop(f"{module}.in"), f"{module}.second.in": f"{module}.first.out"}
    return {f"{expert}{key}": f"{expert}{value}" for expert in expert_paths(config) for key, value in table.items()}


def node_precisions(
    config: StarConfig, precision: Precision, base: Base = "fp32", quantised: Collection[str] | None = None
) -> dict[str, str]:
    """Module path -> precision its weights and arithmetic are stored in, for the bundle's manifest; see ``build_model``."""
    remainder = base if precision == "int8" else precision
    table = dict.fromkeys(("embedding", "positions", "context", "head.hidden", "head.output"), str(remainder))
    for encoder in _encoders(config):
        table |= {f"{encoder}.{name}": remainder for name in ("qkv", "attention", "linear1", "linear2")}
        table |= {f"{encoder}.{name}": "fp32" for name in ("norm1", "norm2")}
    for module in config.ranks:
        table |= dict.fromkeys(_factors(config, module), table.pop(module))
    table["input_norm"] = "fp32"
    table = {f"{expert}{module}": stored for expert in expert_paths(config) for module, stored in table.items()}
    if precision == "int8":
        table |= dict.fromkeys(quantised_modules(config) if quantised is None else quantised, "int8")
    return dict(sorted(table.items()))


def build_model(
    config: StarConfig,
    weights: Mapping[str, np.ndarray],
    precision: Precision = "fp32",
    ranges: Mapping[str, float] | None = None,
    base: Base = "fp32",
    quantised: Collection[str] | None = None,
) -> ModelProto:
    """Build and check the model; the same arguments give the same bytes.

    Args:
        config: shape of the model.
        weights: the state dict as numpy arrays, torch names and layout.
        precision: ``int8`` needs ``ranges``.
        ranges: calibration key -> amax of the activation (``CalibrationTable.ranges``).
        base: float type around the Q/DQ pairs of an int8 graph.
        quantised: the modules an int8 graph quantises, some of ``quantised_modules``; None: all of them.

    Raises MismatchError when weights or ranges lack a tensor or have another shape.
    """
    if precision == "int8" and ranges is None:
        raise InputError("an int8 graph needs calibrated ranges", hint="star-edge calibrate")
    if precision != "int8":
        graph = _Graph(config, weights, precision, {}, frozenset())
    else:
        modules = quantised_modules(config) if quantised is None else quantised
        if surplus := sorted(set(modules).difference(quantised_modules(config))):
            raise InputError("no such module can be quantised", found=", ".join(surplus))
        graph = _Graph(config, weights, base, ranges or {}, frozenset(modules))
    model = graph.build()
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """One graph under construction."""

    def __init__(
        self,
        config: StarConfig,
        weights: Mapping[str, np.ndarray],
        base: Base,
        ranges: Mapping[str, float],
        quantised: frozenset[str],
    ) -> None:
        self.config, self.weights, self.base, self.ranges, self.quantised = config, weights, base, ranges, quantised
        self.nodes = NodeList()
        self.initializers: dict[str, np.ndarray] = {}
        self.float_dtype = helper.tensor_dtype_to_np_dtype(FLOAT_TYPES[base])

    def build(self) -> ModelProto:
        config, experts = self.config, expert_paths(self.config)
        logits = [self._expert(expert) for expert in experts]
        if len(experts) > 1:
            self.nodes.add("Mean", logits, "logits", name="mean")
        graph = helper.make_graph(
            self.nodes.nodes,
            "star",
            [
                helper.make_tensor_value_info("features", TensorProto.FLOAT, ["frames", config.joints, config.channels]),
                helper.make_tensor_value_info("cu_seqlens", TensorProto.INT32, ["clips_plus_1"]),
            ],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["clips", config.classes])],
            [numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in self.initializers.items()],
        )
        return helper.make_model(
            graph,
            functions=make_functions(config, self.base),
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
            ir_version=IR_VERSION,
            producer_name="star-edge",
        )

    def _expert(self, expert: str) -> str:
        """A whole model, or one of an ensemble, with ``expert`` in front of its names; its logits, in float32."""
        x = self._stem(expert)
        for layer in range(self.config.layers):
            path = f"{expert}layers.{layer}"
            spatial = self._encoder(x, f"{path}.spatial", SPARSE, [])
            temporal = self._encoder(x, f"{path}.temporal", LINEAR, ["cu_seqlens"])
            x = self.nodes.add("Add", [spatial, temporal], f"{path}.out", name=path)
        return self._head(x, expert)

    def _stem(self, expert: str) -> str:
        """Input normalisation in float32, as one multiplication and one addition, then embedding and positions."""
        config = self.config
        count, norm = config.joints * config.channels, f"{expert}input_norm"
        gain, bias, mean, variance = (
            self._weight(f"{norm}.{name}", (count,)).astype(np.float64)
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / np.sqrt(variance + 1e-5)
        shape = (config.joints, config.channels)
        self.initializers[f"{norm}.scale"] = scale.reshape(shape).astype(np.float32)
        self.initializers[f"{norm}.shift"] = (bias - mean * scale).reshape(shape).astype(np.float32)
        x = self.nodes.add("Mul", ["features", f"{norm}.scale"], f"{norm}.scaled", name=norm)
        x = self._lower(norm, lambda out: self.nodes.add("Add", [x, f"{norm}.shift"], out, name=f"{norm}.add"))
        x = self._linear(x, f"{expert}embedding", config.channels, config.dim)
        return self._star(POSITIONS, [x, "cu_seqlens"], f"{expert}positions")

    def _encoder(self, x: str, path: str, op: str, extra: list[str]) -> str:
        """x1 = LN(x + attention(qkv(x))); LN(x1 + linear2(SiLU(linear1(x1))))."""
        dim = self.config.dim
        qkv = self._linear(x, f"{path}.qkv", dim, 3 * dim, bias=False)
        attended = self._star(op, [qkv, *extra], f"{path}.attention")
        x = self._norm(self._residual(x, attended, f"{path}.residual1"), f"{path}.norm1")
        width = self.config.widths.get(f"{path}.linear1", dim)
        inner = self._silu(self._linear(x, f"{path}.linear1", dim, width), f"{path}.activation")
        inner = self._linear(inner, f"{path}.linear2", width, dim)
        return self._norm(self._residual(x, inner, f"{path}.residual2"), f"{path}.norm2")

    def _head(self, x: str, expert: str) -> str:
        config, context, head = self.config, f"{expert}context", f"{expert}head"
        weight = f"{context}.weight"
        self._float_initializer(weight, self._weight(weight, (config.dim, config.dim)))
        x = self._star(CONTEXT, [x, weight, "cu_seqlens"], context)
        x = self.nodes.add("Flatten", [x], f"{context}.flat", axis=1)
        width = config.widths.get(f"{head}.hidden", config.hidden)
        x = self._silu(self._linear(x, f"{head}.hidden", config.joints * config.dim, width), f"{head}.activation")
        named = "" if expert else "logits"  # of an ensemble, whose logits are the mean, as any other module's
        x = self._linear(x, f"{head}.output", width, config.classes, output=named if self.base == "fp32" else "")
        return x if self.base == "fp32" else self.nodes.cast(x, TensorProto.FLOAT, named or f"{expert}logits")

    def _star(self, op: str, inputs: list[str], path: str) -> str:
        return self.nodes.add(op, inputs, f"{path}.out", name=path, domain=DOMAIN, **attributes(op, self.config))

    def _linear(self, x: str, path: str, inputs: int, outputs: int, *, bias: bool = True, output: str = "") -> str:
        """x W^T + b; the MatMul carries the module's name. Quantised if the module is. Of low rank, one factor after the other."""
        if rank := self.config.ranks.get(path):
            x = self._linear(x, f"{path}.first", inputs, rank, bias=False)
            return self._linear(x, f"{path}.second", rank, outputs, bias=bias, output=output or f"{path}.out")
        weight = self._weight(f"{path}.weight", (outputs, inputs)).T
        name = f"{path}.weight"
        if path in self.quantised:
            x = quantised_input(self.nodes, self.initializers, x, path, self.ranges, self.float_dtype)
            name = quantised_weight(self.nodes, self.initializers, weight, path, axis=1, dtype=self.float_dtype)
        else:
            self._float_initializer(name, weight)
        if not bias:
            return self.nodes.add("MatMul", [x, name], output or f"{path}.out", name=path)
        product = self.nodes.add("MatMul", [x, name], f"{path}.matmul", name=path)
        self._float_initializer(f"{path}.bias", self._weight(f"{path}.bias", (outputs,)))
        return self.nodes.add("Add", [product, f"{path}.bias"], output or f"{path}.out", name=f"{path}.add")

    def _norm(self, x: str, path: str) -> str:
        """LayerNorm in float32."""
        if self.base != "fp32":
            x = self.nodes.cast(x, TensorProto.FLOAT, f"{path}.in.float32")
        for part in ("weight", "bias"):
            self.initializers[f"{path}.{part}"] = self._weight(f"{path}.{part}", (self.config.dim,)).astype(np.float32)
        inputs = [x, f"{path}.weight", f"{path}.bias"]
        return self._lower(
            path, lambda out: self.nodes.add("LayerNormalization", inputs, out, name=path, axis=-1, epsilon=1e-5)
        )

    def _residual(self, x: str, branch: str, path: str) -> str:
        return self.nodes.add("Add", [x, branch], f"{path}.out", name=path)

    def _silu(self, x: str, path: str) -> str:
        return self.nodes.add("Mul", [x, self.nodes.add("Sigmoid", [x], f"{path}.sigmoid")], f"{path}.out", name=path)

    def _lower(self, path: str, compute: Callable[[str], str]) -> str:
        """``<path>.out`` in the graph's float type from a computation in float32 that is told its output's name."""
        if self.base == "fp32":
            return compute(f"{path}.out")
        return self.nodes.cast(compute(f"{path}.float32"), FLOAT_TYPES[self.base], f"{path}.out")

    def _float_initializer(self, name: str, array: np.ndarray) -> None:
        """Store a weight in the graph's float type."""
        with np.errstate(over="ignore"):  # an fp16 overflow is the gate's to report, with the module's name
            self.initializers[name] = array.astype(self.float_dtype)

    def _weight(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in self.weights:
            raise MismatchError("the state dict lacks a tensor", where=name, expected=f"shape {list(shape)}")
        array = np.asarray(self.weights[name])
        if array.shape != shape:
            raise MismatchError("a weight has the wrong shape", where=name, found=list(array.shape), expected=list(shape))
        return array


def _factors(config: StarConfig, module: str) -> list[str]:
    """A linear layer, or its factors where it has a rank."""
    return [f"{module}.first", f"{module}.second"] if module in config.ranks else [module]


def _encoders(config: StarConfig) -> list[str]:
    return [f"layers.{layer}.{branch}" for layer in range(config.layers) for branch in ("spatial", "temporal")]
