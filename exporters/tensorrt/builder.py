"""ONNX bytes to an engine, by TensorRT or TensorRT-RTX: their Python modules are alike, and the one to use is handed in.

The network is strongly typed, so that precision is what the graph says and no flag changes it. There is one optimisation profile
a bucket with one size in it, because that is the only size the bucket ever runs in. TF32 is off: an fp32 engine is fp32. Sparse tensor cores
are allowed where a product's weight has their pattern.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from onnx import ModelProto

from exporters.onnx.functions import DOMAIN, OPS, VERSION
from exporters.tensorrt.graphs import star_nodes
from exporters.tensorrt.sparsity import sparse_products
from runtime.errors import GateError, MismatchError
from runtime.tensorrt.buckets import Bucket
from runtime.tensorrt.installation import logger
from runtime.tensorrt.sidecar import Layer


class Built(NamedTuple):
    """An engine: its bytes, layers of the parsed network, plugins among them, products with a 2:4 weight, and the builder's seconds."""

    plan: bytes
    network_layers: int
    plugin_layers: int
    sparse_products: int
    seconds: float
    timing_cache: bytes


class _InspectedLayer(msgspec.Struct):
    Name: str = ""
    LayerType: str = ""


class _Inspected(msgspec.Struct):
    """What TensorRT's inspector writes; a layer without details is its name alone."""

    Layers: list[_InspectedLayer | str] = []


def creators(trt: Any) -> dict[str, tuple[str, str]]:
    """Star op -> version and namespace under which TensorRT's registry finds its plugin; an op without one is left out.

    Looked up, because no document says whether a library's plugins are registered in their own namespace or in none.
    """
    registry, version = trt.get_plugin_registry(), str(VERSION)
    found = {
        op: next((space for space in (DOMAIN, "") if registry.get_creator(op, version, space) is not None), None) for op in OPS
    }
    return {op: (version, namespace) for op, namespace in found.items() if namespace is not None}


def build_engine(trt: Any, model: ModelProto, buckets: Sequence[Bucket], timing_cache: bytes | None = None) -> Built:
    """Parse a model and build it with one optimisation profile a bucket.

    Args:
        trt: the module ``tensorrt``, with the plugins loaded that the model's ``Star*`` nodes need, or ``tensorrt_rtx``.
        model: of ``exporters.tensorrt.graphs``.
        buckets: in the order of the profiles.
        timing_cache: of an earlier build, empty for a new one; None: without, as where there is no GPU.

    Raises GateError with the parser's or builder's words when it is refused, or when a ``Star*`` node did not become a plugin.
    """
    log = logger(trt)
    log.errors.clear()
    builder = trt.Builder(log)
    network = _parse(trt, log, builder, model)
    plugins = _count_plugins(trt, network, model)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if sparse := sparse_products(model):
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for bucket in buckets:
        _add_profile(builder, config, model, bucket)
    cache = None
    if timing_cache is not None:
        cache = config.create_timing_cache(timing_cache)
        if not config.set_timing_cache(cache, False):  # of another GPU or version
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
    begun = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - begun
    if plan is None:
        raise GateError(f"{_name(trt)} cannot build the graph", where=model.graph.name, found=log.reason())
    kept = bytes(cache.serialize()) if cache is not None else b""
    return Built(bytes(plan), int(network.num_layers), plugins, len(sparse), seconds, kept)


def layers_of(trt: Any, plan: bytes) -> tuple[Layer, ...]:
    """Layers of a built engine as its inspector names them; needs a GPU."""
    engine = trt.Runtime(logger(trt)).deserialize_cuda_engine(plan)
    if engine is None:
        raise GateError(f"{_name(trt)} cannot load what it has built", found=logger(trt).reason())
    told = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        layers = msgspec.json.decode(told, type=_Inspected).Layers
    except msgspec.DecodeError:  # of no use to the engine, so no reason to refuse it
        return ()
    return tuple(Layer(layer) if isinstance(layer, str) else Layer(layer.Name, layer.LayerType) for layer in layers)


def _parse(trt: Any, log: Any, builder: Any, model: ModelProto) -> Any:
    # by name, since its number changed in TensorRT 11; a version without it knows nothing else
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        words = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise GateError(f"{_name(trt)} cannot parse the graph", where=model.graph.name, found="; ".join(words) or log.reason())
    return network


def _count_plugins(trt: Any, network: Any, model: ModelProto) -> int:
    """Number of plugin layers; GateError unless it is that of the ``Star*`` nodes, since parsers may take something else."""
    kinds = Counter(str(network.get_layer(index).type) for index in range(network.num_layers))
    found = kinds[str(trt.LayerType.PLUGIN_V3)]
    expected = len(star_nodes(model))
    if found != expected:
        raise GateError(
            "not every op of ours became a plugin",
            where=f"{_name(trt)}'s parser",
            found=f"{found} plugin layers of {network.num_layers}",
            expected=f"{expected}, one for each Star op of the graph",
            hint="report it, with the version of TensorRT",
        )
    return found


def _add_profile(builder: Any, config: Any, model: ModelProto, bucket: Bucket) -> None:
    profile = builder.create_optimization_profile()
    joints, channels = (axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[1:])
    shapes = {"features": (bucket.rows, joints, channels), "cu_seqlens": (bucket.clips + 1,)}
    for name, shape in shapes.items():
        profile.set_shape(name, shape, shape, shape)
    if config.add_optimization_profile(profile) < 0:
        raise MismatchError("TensorRT refuses a profile", where=f"bucket {bucket}", found=shapes)


def _name(trt: Any) -> str:
    name = "TensorRT-RTX" if trt.__name__ == "tensorrt_rtx" else "TensorRT"
    return f"{name} {trt.__version__}"
