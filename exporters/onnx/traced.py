"""The ONNX graph of a padded model, as torch.onnx.export writes it, with the names and precisions of our own graphs.

A linear layer and a convolution are named as their module (``blocks.3.temporal``), any other node after its module and operator
(``blocks.3.add``). What a module without modules in it puts out is ``<module path>.out``, its weight ``<module path>.weight``.
BatchNorm behind a convolution is folded into it, and what comes out is the BatchNorm's. Opset 20; inputs ``features`` float32 [F, V, C + 1] and ``cu_seqlens`` int32 [B+1], output ``logits`` float32 [B, K].

An ``fp16`` graph casts down behind the input normalisation, up again around softmax and LayerNorm, and at the logits. An ``int8``
graph is one of these with QuantizeLinear and DequantizeLinear on the input and the weight of each quantised module.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import logging
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import onnx
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from exporters.onnx.functions import OPSET
from exporters.onnx.graph import IR_VERSION, Base
from exporters.onnx.nodes import NodeList
from exporters.onnx.qdq import quantised_input, quantised_weight
from runtime.errors import InputError, MismatchError

if TYPE_CHECKING:
    from star_edge.models.ensemble import Ensemble
    from star_edge.models.padded import PaddedModel

# operators with a weight, and the axis of the weight's output channels: a convolution's, and x W as MatMul takes it
_WEIGHTED = {"Conv": 0, "MatMul": 1, "Gemm": 1}

_WEIGHT_SUFFIX = ".weight"
_LEAST_CHANNELS = 16
# where the exporter writes the modules around a node, from the outermost
_SCOPES = "pkg.torch.onnx.name_scopes"


def trace(model: PaddedModel | Ensemble, precision: Base = "fp32") -> ModelProto:
    """Export a padded model, or an ensemble of them, in eval mode; the same weights give the same bytes."""
    import torch

    from star_edge.compression.low_rank import FACTORABLE
    from star_edge.models.config import PaddedConfig
    from star_edge.models.ensemble import experts_of

    traced = copy.deepcopy(model).eval()
    if precision == "fp16":
        traced.half()
        for expert in experts_of(traced).values():
            expert.input_norm.float()
    config = model.config
    assert isinstance(config, PaddedConfig)
    example = torch.zeros(config.frames + 3, config.joints, config.channels)
    example[config.frames :, :, -1] = 1
    lengths = torch.tensor([0, config.frames - 1, config.frames + 3], dtype=torch.int32)
    with _quiet():
        program = torch.onnx.export(
            traced,
            (example, lengths),
            input_names=["features", "cu_seqlens"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("frames")}, {0: torch.export.Dim("boundaries", min=3)}),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    modules = dict(traced.named_modules())
    products = {path for path, module in modules.items() if isinstance(module, FACTORABLE)}
    leaves = {path for path, module in modules.items() if not list(module.children())}
    exported = _named(program.model_proto, products, leaves)
    onnx.checker.check_model(exported, full_check=True)
    return exported


class TracedLowering:
    """What can be quantised in a padded model's graph, and the graph with it quantised.

    Args:
        models: precision -> its graph, ``fp32`` among them.
    """

    def __init__(self, models: Mapping[Base, ModelProto]) -> None:
        self._models = models
        self._modules, self._norms = list(_products(models["fp32"])), _input_norms(models["fp32"])
        self._products = _wide_products(models["fp32"])

    @property
    def quantised_modules(self) -> list[str]:
        """Paths of the modules that an int8 graph quantises: linear layers, and convolutions of at least 16 channels."""
        return list(self._products)

    @property
    def recorded_tensors(self) -> dict[str, str]:
        """Calibration key -> name of the value in the fp32 graph: inputs of weighted operators."""
        return {f"{module}.in": node.input[0] for module, node in self._products.items()}

    def node_precisions(self, precision: str, base: Base = "fp32", quantised: Collection[str] | None = None) -> dict[str, str]:
        """Module path -> precision its weights and arithmetic are stored in, for the bundle's manifest."""
        table = dict.fromkeys(self._modules, base if precision == "int8" else precision) | dict.fromkeys(self._norms, "fp32")
        if precision == "int8":
            table |= dict.fromkeys(self._products if quantised is None else quantised, "int8")
        return dict(sorted(table.items()))

    def float_reason(self, module: str) -> str:
        """Why a module outside ``quantised_modules`` keeps its float type."""
        if module in self._norms:
            return "float32 normalisation of raw joints"
        return f"a convolution of fewer than {_LEAST_CHANNELS} channels: nothing to gain"

    def int8_model(self, ranges: Mapping[str, float], base: Base, quantised: Collection[str]) -> ModelProto:
        """The graph of ``base`` with the modules ``quantised`` in int8.

        Args:
            ranges: calibration key -> amax of the activation.
            base: float type of the graph around the Q/DQ pairs.
            quantised: some of ``quantised_modules``.

        Raises InputError for a module that cannot be, MismatchError when a range is missing.
        """
        if surplus := sorted(set(quantised).difference(self._products)):
            raise InputError("no such module can be quantised", found=", ".join(surplus))
        if base not in self._models:
            raise MismatchError("the bundle has no graph of this precision", found=base, expected=", ".join(self._models))
        model = ModelProto()
        model.CopyFrom(self._models[base])
        _quantise(model.graph, ranges, quantised)
        onnx.checker.check_model(model, full_check=True)
        return model


def _quantise(graph: GraphProto, ranges: Mapping[str, float], modules: Collection[str]) -> None:
    """Put Q/DQ pairs into a graph, in place."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = NodeList()
    for node in graph.node:
        if node.name in modules and node.op_type in _WEIGHTED:
            weight = constants[node.input[1]]
            x = quantised_input(nodes, constants, node.input[0], node.name, ranges, weight.dtype)
            node.input[:2] = [x, quantised_weight(nodes, constants, weight, node.name, _channel_axis(node), weight.dtype)]
        nodes.nodes.append(node)
    used = {name for node in nodes.nodes for name in node.input}
    kept = [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used]
    ordered = list(nodes.nodes)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(ordered)
    graph.initializer.extend(kept)


def _products(model: ModelProto) -> dict[str, NodeProto]:
    """Module path -> its node, of all linear layers and convolutions."""
    return {
        node.name: node for node in model.graph.node if node.op_type in _WEIGHTED and node.input[1].endswith(_WEIGHT_SUFFIX)
    }


def _input_norms(model: ModelProto) -> list[str]:
    """Module paths of the input normalisations: one, or one of each expert."""
    operator = ".batchnormalization"
    return [node.name.removesuffix(operator) for node in model.graph.node if node.name.endswith(f"input_norm{operator}")]


def _wide_products(model: ModelProto) -> dict[str, NodeProto]:
    """Those that int8 may pay for: TensorRT's int8 convolutions want 16 channels (of a group) on either side."""
    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return {
        path: node
        for path, node in _products(model).items()
        if node.op_type != "Conv" or min(sizes[node.input[1]][:2]) >= _LEAST_CHANNELS
    }


def _channel_axis(node: NodeProto) -> int:
    """Axis of the output channels in a node's weight."""
    if node.op_type == "Gemm" and any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
        return 0
    return _WEIGHTED[node.op_type]


def _named(model: ModelProto, products: Collection[str], leaves: Collection[str]) -> ModelProto:
    """The graph with nodes, values and weights named after modules, and nothing in it that changes from run to run.

    Args:
        products: paths of linear layers and convolutions.
        leaves: paths of modules without modules in them.
    """
    graph = model.graph
    paths = [_product(node, products) for node in graph.node]
    ends = {scope: node.output[0] for node in graph.node if (scope := _scope(node)) in leaves}  # the last value of each
    renamed = {node.input[1]: f"{path}{_WEIGHT_SUFFIX}" for node, path in zip(graph.node, paths, strict=True) if path}
    renamed |= {value: f"{scope}.out" for scope, value in ends.items() if value != "logits"}
    taken: Counter[str] = Counter()
    for node, path in zip(graph.node, paths, strict=True):
        name = path or ".".join(filter(None, (_scope(node), node.op_type.lower())))
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}.{taken[name]}"
        for index, output in enumerate(node.output):
            renamed.setdefault(output, "logits" if output == "logits" else f"{node.name}.value{index or ''}")
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        node.ClearField("metadata_props")
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
        tensor.ClearField("metadata_props")
    del graph.value_info[:]
    graph.name, model.ir_version = "padded", IR_VERSION
    return model


def _product(node: NodeProto, products: Collection[str]) -> str:
    """Path of the linear layer or convolution that a node is, empty for another one."""
    if node.op_type not in _WEIGHTED:
        return ""
    # a convolution that took in the BatchNorm behind it stands in that one's scope, with its own weight
    paths = (node.input[1].removesuffix(_WEIGHT_SUFFIX), _scope(node))
    return next((path for path in paths if path in products), "")


def _scope(node: NodeProto) -> str:
    """Path of the module that a node belongs to, empty for the model's own."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "['', '']")
    path: str = ast.literal_eval(scopes)[-2]  # the last one is the operator
    return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its warnings about other libraries to itself."""
    loggers = [logging.getLogger("torch.onnx"), logging.getLogger("onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
