"""Stand-ins for TensorRT's Python module and for CUDA's libraries, to walk building and running on a machine that has neither.

The module has the names, arguments and answers of TensorRT 10.3's documentation, as far as star-edge uses them; a test compares
the names with those of ``tensorrt_rtx``, which shares the interface. Its parser prefers a function body to a plugin, as 10.3's.
Engines compute with ONNX Runtime, at the addresses that they are given. The libraries have one GPU, whose memory is the host's.
"""

from __future__ import annotations

import ctypes
import enum
import json
import types
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime

OPS = ("StarSegmentedPositions", "StarSparseAttention", "StarSegmentedLinearAttention", "StarContextAttention")
DOMAIN = "star_edge"


class Function:
    """A function of a C library: checks how many arguments it is called with."""

    def __init__(self, name: str, call: Callable[..., int]) -> None:
        self.name, self.call = name, call
        self.argtypes: Sequence[Any] | None = None
        self.restype: Any = None

    def __call__(self, *arguments: Any) -> Any:
        assert self.argtypes is not None, self.name
        assert len(arguments) == len(self.argtypes), self.name
        return self.call(*arguments)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, ctypes._SimpleCData) else value


class FakeCudaRuntime:
    """``libcudart``. ``failing``: functions that return an error; ``held``: what was made and not yet freed, by its kind."""

    def __init__(self, *, integrated: bool = False, sm: int = 87, multiprocessors: int = 8, devices: int = 1) -> None:
        self.attributes = {16: multiprocessors, 18: int(integrated), 75: sm // 10, 76: sm % 10}
        self.devices = devices
        self.failing: set[str] = set()
        self.held: dict[str, set[int]] = {}
        self.copies = 0
        self.launches = 0
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        self._work: dict[int, list[Callable[[], None]]] = {}
        self._memory: dict[int, Any] = {}
        self._functions: dict[str, Function] = {}
        self._next = 1000

    def __getattr__(self, name: str) -> Function:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        if name not in self._functions:
            body = getattr(type(self), f"_{name}")
            self._functions[name] = Function(
                name, lambda *arguments: 2 if name in self.failing else body(self, *map(_plain, arguments))
            )
        return self._functions[name]

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Do some work on a stream: at once, or later where a graph is being recorded."""
        assert stream in self.held["stream"]
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            work()

    def _make(self, kind: str, out: Any, handle: int | None = None) -> int:
        self._next += 1
        out._obj.value = handle or self._next
        self.held.setdefault(kind, set()).add(out._obj.value)
        return 0

    def _drop(self, kind: str, handle: int) -> int:
        self.held[kind].remove(handle)
        return 0

    def _cudaGetErrorString(self, status: int) -> bytes:
        return {2: b"out of memory", 100: b"no CUDA-capable device is detected"}[status]

    def _cudaRuntimeGetVersion(self, out: Any) -> int:
        out._obj.value = 12060
        return 0

    def _cudaDriverGetVersion(self, out: Any) -> int:
        out._obj.value = 12060
        return 0

    def _cudaGetDeviceCount(self, out: Any) -> int:
        out._obj.value = self.devices
        return 0 if self.devices else 100

    def _cudaDeviceGetAttribute(self, out: Any, attribute: int, device: int) -> int:
        out._obj.value = self.attributes[attribute]
        return 0

    def _allocate(self, kind: str, out: Any, size: int) -> int:
        memory = (ctypes.c_byte * size)(*([85] * min(size, 64)))
        address = ctypes.addressof(memory)
        self._memory[address] = memory
        return self._make(kind, out, address)

    def _cudaMalloc(self, out: Any, size: int) -> int:
        return self._allocate("device", out, size)

    def _cudaHostAlloc(self, out: Any, size: int, flags: int) -> int:
        assert flags == (2 if self.attributes[18] else 0)
        return self._allocate("host", out, size)

    def _cudaHostGetDevicePointer(self, out: Any, address: int, flags: int) -> int:
        assert self.attributes[18]
        out._obj.value = address
        return 0

    def _cudaFree(self, address: int) -> int:
        return self._drop("device", address)

    def _cudaFreeHost(self, address: int) -> int:
        return self._drop("host", address)

    def _cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> int:
        held = (self.held["host"], self.held["device"])
        assert (source in held[0] and to in held[1]) if kind == 1 else (source in held[1] and to in held[0])
        self.copies += 1
        self.enqueue(stream, lambda: ctypes.memmove(to, source, size) and None)
        return 0

    def _cudaStreamCreateWithFlags(self, out: Any, flags: int) -> int:
        assert flags == 1
        return self._make("stream", out)

    def _cudaStreamDestroy(self, stream: int) -> int:
        return self._drop("stream", stream)

    def _cudaStreamSynchronize(self, stream: int) -> int:
        assert stream not in self.capturing
        return 0

    def _cudaStreamBeginCapture(self, stream: int, mode: int) -> int:
        assert mode == 1
        self.capturing[stream] = []
        return 0

    def _cudaStreamEndCapture(self, stream: int, out: Any) -> int:
        work = self.capturing.pop(stream)
        self._make("graph", out)
        self._work[out._obj.value] = work
        return 0

    def _cudaGraphInstantiate(self, out: Any, graph: int, flags: int) -> int:
        self._make("executable", out)
        self._work[out._obj.value] = self._work[graph]
        return 0

    def _cudaGraphDestroy(self, graph: int) -> int:
        return self._drop("graph", graph)

    def _cudaGraphExecDestroy(self, graph: int) -> int:
        return self._drop("executable", graph)

    def _cudaGraphLaunch(self, graph: int, stream: int) -> int:
        assert graph in self.held["executable"]
        self.launches += 1
        for work in self._work[graph]:
            work()
        return 0

    def _cudaEventCreate(self, out: Any) -> int:
        return self._make("event", out)

    def _cudaEventDestroy(self, event: int) -> int:
        return self._drop("event", event)

    def _cudaEventRecord(self, event: int, stream: int) -> int:
        assert event in self.held["event"]
        return 0

    def _cudaEventElapsedTime(self, out: Any, begin: int, end: int) -> int:
        out._obj.value = 1.5
        return 0


class FakeDriver:
    """``libcuda``."""

    def __init__(self, name: bytes = b"Orin") -> None:
        self.name = name

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = self.name
        return 0


class _Enum(enum.IntEnum):
    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


class Severity(_Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity
    Severity = Severity

    def __init__(self) -> None: ...

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class NetworkDefinitionCreationFlag(_Enum):
    EXPLICIT_BATCH, STRONGLY_TYPED = range(2)


class LayerType(_Enum):
    MATRIX_MULTIPLY, PLUGIN_V2, PLUGIN_V3, QUANTIZE = range(4)


class BuilderFlag(_Enum):
    FP16, INT8, TF32, SPARSE_WEIGHTS = range(4)


class ProfilingVerbosity(_Enum):
    LAYER_NAMES_ONLY, DETAILED, NONE = range(3)


class LayerInformationFormat(_Enum):
    ONELINE, JSON = range(2)


class ExecutionContextAllocationStrategy(_Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class DataType(_Enum):
    FLOAT, HALF, INT8, INT32 = range(4)


class Creator(msgspec.Struct):
    name: str
    plugin_version: str = "1"
    plugin_namespace: str = DOMAIN


class IPluginRegistry:
    def __init__(self, module: FakeTensorrt) -> None:
        self._module = module
        self.all_creators: list[Creator] = [Creator("Clip_TRT", "1", "")]

    def load_library(self, plugin_path: str) -> object | None:
        if self._module.refuse_plugins or any(creator.name in OPS for creator in self.all_creators):
            self._module.say("plugin is already registered")
            return None
        assert open(plugin_path, "rb").read()  # noqa: PTH123, SIM115
        self.all_creators += [Creator(op) for op in self._module.plugins]
        return object()

    def get_creator(self, type: str, version: str, plugin_namespace: str = "") -> Creator | None:
        wanted = Creator(type, version, plugin_namespace)
        found = (Creator(c.name, c.plugin_version, self._namespace(c)) for c in self.all_creators)
        return next((creator for creator in found if creator == wanted), None)

    def _namespace(self, creator: Creator) -> str:
        return "" if self._module.registers_in_no_namespace else creator.plugin_namespace


class ILayer(msgspec.Struct):
    name: str
    type: LayerType


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self._strongly_typed = bool(flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._layers: list[ILayer] = []
        self._model = b""

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]


class ParserError(str):
    __slots__ = ()


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._errors = network, list[ParserError]()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        proto, registry = onnx.load_model_from_string(model), MODULE[0].get_plugin_registry()
        bodies = {function.name for function in proto.functions}
        for node in proto.graph.node:
            kind = LayerType.MATRIX_MULTIPLY
            if node.domain == DOMAIN and node.op_type not in bodies:
                named = {attribute.name: attribute.s.decode() for attribute in node.attribute}
                version, namespace = named.get("plugin_version", "1"), named.get("plugin_namespace", "")
                if registry.get_creator(node.op_type, version, namespace) is None:
                    self._errors.append(ParserError(f"Plugin not found for {node.op_type}"))
                    return False
                kind = LayerType.PLUGIN_V3
            self._network._layers.append(ILayer(node.name, kind))
        self._network._model = model
        return True


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[Any, Any, Any]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (min, opt, max)


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> bytearray:
        return bytearray(self._data or b"timings")


class IBuilderConfig:
    def __init__(self) -> None:
        self._profiles: list[IOptimizationProfile] = []
        self._flags = {BuilderFlag.TF32}
        self._cache: ITimingCache | None = None
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._data not in (b"", b"timings"):
            return ignore_mismatch
        self._cache = cache
        return True


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> memoryview | None:
        module = MODULE[0]
        module.built.append((network, config))
        if module.refuse_build:
            module.say("Could not find any implementation for node positions")
            return None
        document = {
            "model": network._model,
            "profiles": [profile._shapes for profile in config._profiles],
            "layers": [layer.name for layer in network._layers],
        }
        return memoryview(HEADER + msgspec.msgpack.encode(document))


HEADER = b"ftrt" + bytes(20) + bytes((10, 3, 0, 30))


class EngineInspector:
    def __init__(self, layers: list[str]) -> None:
        self._layers = layers

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        assert format == LayerInformationFormat.JSON
        described = [{"Name": name, "LayerType": "kgen"} for name in self._layers[1:]]
        return json.dumps({"Layers": [*self._layers[:1], *described], "Bindings": []})


class ICudaEngine:
    _names = ("features", "cu_seqlens", "logits")

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._model = onnx.load_model_from_string(document["model"])
        self.num_optimization_profiles, self.num_io_tensors = len(document["profiles"]), len(self._names)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.INT32 if name == "cu_seqlens" else DataType.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, self._model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        return [list(shape) for shape in self._document["profiles"][profile_index][name]]

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._document["layers"])

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext:
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._addresses = engine, dict[str, int]()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._profile = -1
        self._has_run = False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = profile_index
        return profile_index < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        self._shapes[name] = tuple(shape)
        return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return name in self._engine._names

    def execute_async_v3(self, stream_handle: int) -> bool:
        module = MODULE[0]
        if stream_handle in module.cuda.capturing and not self._has_run:
            return False  # a graph can be recorded after one plain run alone
        self._has_run = True
        module.cuda.enqueue(stream_handle, lambda: self._compute(module))
        return True

    def _compute(self, module: FakeTensorrt) -> None:
        features = self._array("features", np.float32, self._shapes["features"])
        offsets = self._array("cu_seqlens", np.int32, self._shapes["cu_seqlens"])
        module.ran.append((features.copy(), offsets.copy()))
        logits = module.session(self._engine._model).run(["logits"], {"features": features, "cu_seqlens": offsets})[0]
        self._array("logits", np.float32, logits.shape)[...] = logits + module.error

    def _array(self, name: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(memoryview((ctypes.c_byte * size).from_address(self._addresses[name])), dtype).reshape(shape)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if not serialized_engine.startswith(HEADER):
            MODULE[0].say("Magic tag does not match")
            return None
        return ICudaEngine(msgspec.msgpack.decode(serialized_engine[len(HEADER) :]))


CLASSES = (
    ILogger, NetworkDefinitionCreationFlag, LayerType, BuilderFlag, ProfilingVerbosity, LayerInformationFormat,
    ExecutionContextAllocationStrategy, DataType, IPluginRegistry, ILayer, INetworkDefinition, OnnxParser,
    IOptimizationProfile, ITimingCache, IBuilderConfig, Builder, EngineInspector, ICudaEngine, IExecutionContext, Runtime,
)  # fmt: skip
MODULE: list[FakeTensorrt] = []


class FakeTensorrt(types.ModuleType):
    """The module.

    Attributes:
        functions: bodies that plugins compute by. cuda: the runtime whose streams work is put on.
        plugins: ops that the plugin library brings. refuse_plugins, refuse_build: make TensorRT fail.
        registers_in_no_namespace: of the plugin library, whatever its creators say.
        error: is added to every logit. built, ran: networks and inputs that were seen.
    """

    def __init__(self, cuda: FakeCudaRuntime, version: str = "10.3.0") -> None:
        super().__init__("tensorrt")
        MODULE[:] = [self]
        self.__version__, self.cuda = version, cuda
        self.functions: list[onnx.FunctionProto] = []
        self.plugins: tuple[str, ...] = OPS
        self.refuse_plugins = self.refuse_build = self.registers_in_no_namespace = False
        self.error = 0.0
        self.built: list[tuple[INetworkDefinition, IBuilderConfig]] = []
        self.ran: list[tuple[np.ndarray, np.ndarray]] = []
        self.float32, self.int32 = DataType.FLOAT, DataType.INT32
        self._registry = IPluginRegistry(self)
        for kind in CLASSES:
            setattr(self, kind.__name__, kind)

    def get_plugin_registry(self) -> IPluginRegistry:
        return self._registry

    def say(self, message: str) -> None:
        """An error, in the way that TensorRT tells it."""
        from runtime.tensorrt.installation import logger

        logger(self).log(Severity.ERROR, message)

    def session(self, model: onnx.ModelProto) -> onnxruntime.InferenceSession:
        whole = onnx.ModelProto()
        whole.CopyFrom(model)
        whole.functions.extend(self.functions)
        return _session(whole.SerializeToString())


@cache
def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
