"""The graphs made from a bundle's ONNX models: with plugins, without, and with INT8 in and out of the plugins.

TensorRT's parser looks for a local function, a plugin or both, in an order that changed at 10.7 and at 10.15. A plugin graph has
no functions, so that there is no choice: where the plugin is missing, parsing fails.

INT8 of a ``Star*`` op has two forms. The plugin's takes and gives int8 tensors, with QuantizeLinear before it, DequantizeLinear
behind it and the scales as its attributes. Its twin has a whole pair on either side of the float op; it is what engines without
plugins run. Both give the same bits in ONNX Runtime. The plugin itself ends at -127 where QuantizeLinear ends at -128.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from onnx import FunctionProto, ModelProto, NodeProto, helper, inliner, numpy_helper

from exporters.onnx.functions import DOMAIN, LINEAR, OPS, SPARSE, VERSION
from exporters.onnx.nodes import NodeList
from exporters.onnx.qdq import scales_of
from runtime.errors import InputError, MismatchError
from runtime.manifest import model_file

if TYPE_CHECKING:
    from runtime.bundle import Bundle

Target = Literal["tensorrt", "tensorrt-rtx", "onnxruntime"]
ATTENTIONS = (SPARSE, LINEAR)
_SCALES = ("input_scale", "output_scale")
# op -> version and namespace under which its plugin is registered
Creators = Mapping[str, tuple[str, str]]
OURS: Creators = dict.fromkeys(OPS, (str(VERSION), DOMAIN))


def graph_of(
    bundle: Bundle,
    precision: str,
    target: Target = "tensorrt",
    int8_ops: Collection[str] | None = None,
    creators: Creators = OURS,
) -> ModelProto:
    """The model of a bundle's precision as a target takes it.

    Args:
        target: ``tensorrt``: plugins; ``tensorrt-rtx``: standard ops alone; ``onnxruntime``: function bodies.
        int8_ops: ``Star*`` ops whose inputs and outputs an int8 graph has in int8. Without plugins that is a pair of
            QuantizeLinear and DequantizeLinear on either side. None: the attentions.
        creators: the plugins as TensorRT's registry has them.

    Raises MismatchError (no such model or range, no plugin for an op), InputError (not an op).
    """
    model = onnx.load_model_from_string(bundle.read(model_file(precision)))
    if precision == "int8" and star_nodes(model):
        surround = int8_plugins if target == "tensorrt" else int8_twin
        model = surround(model, bundle.calibration().ranges, ATTENTIONS if int8_ops is None else int8_ops)
    if target == "tensorrt":
        return plugin_graph(model, creators)
    return plugin_free(model) if target == "tensorrt-rtx" else model


def star_nodes(model: ModelProto) -> list[NodeProto]:
    """The nodes of a graph that stand for a ``Star*`` op."""
    return [node for node in model.graph.node if node.domain == DOMAIN]


def int8_ops_of(model: ModelProto) -> tuple[str, ...]:
    """The ``Star*`` ops of a plugin graph that take and give int8."""
    quantised = (node for node in star_nodes(model) if any(attribute.name in _SCALES for attribute in node.attribute))
    return tuple(sorted({node.op_type for node in quantised}))


def plugin_graph(model: ModelProto, creators: Creators = OURS) -> ModelProto:
    """The model without function bodies, each ``Star*`` node naming its plugin's version and namespace.

    Raises MismatchError when ``creators`` lacks one.
    """
    model = _copy(model)
    del model.functions[:]
    for node in star_nodes(model):
        if node.op_type not in creators:
            raise MismatchError(
                f"TensorRT's registry has no plugin '{node.op_type}'",
                where=node.name,
                found=", ".join(sorted(creators)) or "none of ours",
                expected=", ".join(OPS),
                hint="star-edge build, which compiles and loads them",
            )
        version, namespace = creators[node.op_type]
        _set_attributes(node, plugin_version=version, plugin_namespace=namespace)
    return model


def plugin_free(model: ModelProto) -> ModelProto:
    """The model with function bodies in place of their nodes: standard ops alone."""
    model = inliner.inline_local_functions(model)
    kept = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def int8_plugins(model: ModelProto, ranges: Mapping[str, float], ops: Collection[str] = ATTENTIONS) -> ModelProto:
    """An int8 model whose chosen ops take and give int8, scales as attributes; the function bodies do so, too."""
    return _surround(model, ranges, ops, plugins=True)


def int8_twin(model: ModelProto, ranges: Mapping[str, float], ops: Collection[str] = ATTENTIONS) -> ModelProto:
    """An int8 model with Q/DQ pairs on either side of the chosen ops: the answers of :func:`int8_plugins`."""
    return _surround(model, ranges, ops, plugins=False)


def _surround(model: ModelProto, ranges: Mapping[str, float], ops: Collection[str], plugins: bool) -> ModelProto:
    if unknown := sorted(set(ops).difference(OPS)):
        raise InputError("no such op", found=", ".join(unknown), expected=f"some of {', '.join(OPS)}")
    surrounded = _Surrounded(model, ranges, frozenset(ops))
    model = surrounded.with_plugins() if plugins else surrounded.with_pairs()
    onnx.checker.check_model(model, full_check=True)
    return model


class _Surrounded:
    """A copy of a model under change: QuantizeLinear and DequantizeLinear around the chosen ops."""

    def __init__(self, model: ModelProto, ranges: Mapping[str, float], ops: frozenset[str]) -> None:
        self.model, self.ranges, self.ops = _copy(model), ranges, ops
        self.scales = {tensor.name: tensor for tensor in model.graph.initializer}
        # of any expert's weight that int8 leaves alone
        self.float_type = next(x.data_type for name, x in self.scales.items() if name.endswith("context.weight"))

    def with_pairs(self) -> ModelProto:
        """Float ops: a pair before them and one behind."""
        nodes = NodeList()
        for node in self.model.graph.node:
            if not self._is_chosen(node):
                nodes.nodes.append(node)
                continue
            entering, leaving, output = f"{node.name}.in", f"{node.name}.out", node.output[0]
            node.input[0] = self._dequantize(nodes, self._quantize(nodes, node.input[0], entering), entering)
            node.output[0] = f"{leaving}.float"
            nodes.nodes.append(node)
            self._dequantize(nodes, self._quantize(nodes, node.output[0], leaving), leaving, output)
        return self._close(nodes)

    def with_plugins(self) -> ModelProto:
        """int8 ops, whose bodies have the other halves of the pairs in them."""
        nodes = NodeList()
        levels: dict[str, str] = {}  # an op's output -> its calibration key
        for node in self.model.graph.node:
            if node.op_type == "QuantizeLinear" and self._is_same(node, levels):
                self._feed(node.output[0], f"{levels[node.input[0]]}.int8")
            elif not self._is_chosen(node):
                nodes.nodes.append(node)
            else:
                entering, leaving, output = f"{node.name}.in", f"{node.name}.out", node.output[0]
                node.input[0] = self._quantize(nodes, node.input[0], entering)
                node.output[0] = f"{leaving}.int8"
                nodes.nodes.append(node)
                self._dequantize(nodes, node.output[0], leaving, output)
                levels[output] = leaving
                _set_attributes(
                    node, input_scale=self._value(f"{entering}.scale"), output_scale=self._value(f"{leaving}.scale")
                )
        bodies = [_int8_body(body, self.float_type) if body.name in self.ops else body for body in self.model.functions]
        del self.model.functions[:]
        self.model.functions.extend(bodies)
        return self._close(nodes)

    def _is_chosen(self, node: NodeProto) -> bool:
        return node.domain == DOMAIN and node.op_type in self.ops

    def _is_same(self, quantize: NodeProto, levels: Mapping[str, str]) -> bool:
        """Whether a node only takes an op's int8 levels back from their floats."""
        key = levels.get(quantize.input[0])
        return key is not None and self._value(quantize.input[1]) == self._value(f"{key}.scale")

    def _feed(self, old: str, new: str) -> None:
        """Let every node that takes one value take another."""
        for node in self.model.graph.node:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new

    def _quantize(self, nodes: NodeList, value: str, key: str) -> str:
        return nodes.add("QuantizeLinear", [value, *self._scale(key)], f"{key}.int8", name=f"{key}.quantize")

    def _dequantize(self, nodes: NodeList, value: str, key: str, output: str = "") -> str:
        return nodes.add("DequantizeLinear", [value, *self._scale(key)], output or f"{key}.dequantized",
                         name=f"{key}.dequantize")  # fmt: skip

    def _scale(self, key: str) -> tuple[str, str]:
        """Names of a tensor's scale and zero point, which are stored when they are first asked for."""
        scale, zero = f"{key}.scale", f"{key}.zero_point"
        if scale not in self.scales:
            if key not in self.ranges:
                raise MismatchError("the calibration table lacks a range", where=key, hint="star-edge calibrate")
            dtype = helper.tensor_dtype_to_np_dtype(self.float_type)
            stored = (scales_of(np.asarray(self.ranges[key]), dtype), np.zeros((), dtype=np.int8))
            tensors = [numpy_helper.from_array(array, name) for array, name in zip(stored, (scale, zero), strict=True)]
            self.model.graph.initializer.extend(tensors)
            self.scales[scale] = tensors[0]
        return scale, zero

    def _value(self, scale: str) -> float:
        return float(numpy_helper.to_array(self.scales[scale]))

    def _close(self, nodes: NodeList) -> ModelProto:
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes.nodes)
        return self.model


def _int8_body(function: FunctionProto, float_type: int) -> FunctionProto:
    """A function body whose first input and whose output are int8; their scales are attributes."""
    body = NodeList(function.name)
    zero = body.constant("zero_point", np.zeros((), dtype=np.int8))
    scales = [body.cast(body.float_attribute(f"{name}_float32", name), float_type, name) for name in _SCALES]
    formal, output = body.value("levels"), body.value("out_levels")
    body.nodes.append(helper.make_node("DequantizeLinear", [formal, scales[0], zero], [function.input[0]]))
    body.nodes.extend(function.node)
    body.nodes.append(helper.make_node("QuantizeLinear", [function.output[0], scales[1], zero], [output]))
    attributes = [*function.attribute, *_SCALES]
    return helper.make_function(
        function.domain,
        function.name,
        [formal, *function.input[1:]],
        [output],
        body.nodes,
        list(function.opset_import),
        attributes=attributes,
    )


def _set_attributes(node: NodeProto, **values: str | float) -> None:
    """Set attributes of a node, in place of those of the same names."""
    kept = [attribute for attribute in node.attribute if attribute.name not in values]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in values.items())])


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy
