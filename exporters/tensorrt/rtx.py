"""TensorRT-RTX as a proof that the plugin-free graph parses, type-checks and builds: it needs no GPU and comes from PyPI.

It has no plugins and none of Jetson's GPUs, so what it builds runs nowhere here; a graph it refuses would fail on a board too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto

from runtime.errors import GateError, MissingDependencyError

# frames F and clips B an engine must accept: smallest, typical, largest
FRAMES = (1, 300, 4800)
CLIPS = (1, 1, 64)


@dataclass(frozen=True)
class RtxBuild:
    """A built engine: its size, the layers parsed and the TensorRT-RTX version."""

    engine_bytes: int
    layers: int
    version: str


def build(model: ModelProto, frames: tuple[int, int, int] = FRAMES, clips: tuple[int, int, int] = CLIPS) -> RtxBuild:
    """Parse and build a model, strongly typed, with dynamic numbers of frames and clips; its local functions are inlined.

    Raises GateError with the parser's or builder's words when it is refused, MissingDependencyError without the package.
    """
    try:
        import tensorrt_rtx as trt
    except ImportError:
        raise MissingDependencyError("tensorrt-rtx-cu13", "tensorrt-rtx", "Building with TensorRT-RTX") from None

    words: list[str] = []

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                words.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        words += [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise GateError("TensorRT-RTX cannot parse the graph", where=model.graph.name, found="; ".join(words))
    profile = builder.create_optimization_profile()
    for name, shapes in _shapes(model, frames, clips).items():
        profile.set_shape(name, *shapes)
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise GateError("TensorRT-RTX cannot build the graph", where=model.graph.name, found="; ".join(words) or "no reason")
    return RtxBuild(int(engine.nbytes), int(network.num_layers), str(trt.__version__))


def _shapes(
    model: ModelProto, frames: tuple[int, int, int], clips: tuple[int, int, int]
) -> Mapping[str, list[tuple[int, ...]]]:
    """Input name -> smallest, typical and largest shape."""
    fixed = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    return {"features": [(count, *fixed) for count in frames], "cu_seqlens": [(count + 1,) for count in clips]}
