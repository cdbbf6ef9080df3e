"""The ``tensorrt`` engine: an engine that ``star-edge build`` put into the bundle, with our plugins in it, on an NVIDIA GPU."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.engine import EngineReport, Mode
from runtime.errors import InputError, MismatchError
from runtime.manifest import Manifest
from runtime.packing import check_packed, cu_seqlens_of, unpack
from runtime.tensorrt.buckets import Bucket, split
from runtime.tensorrt.compatibility import Here, require_compatible
from runtime.tensorrt.cuda import Buffer, Cuda, open_cuda
from runtime.tensorrt.installation import import_tensorrt, load_plugins, logger, plugin_path, plugin_sha256, version
from runtime.tensorrt.sidecar import ENGINES, SUFFIX, EngineSidecar, engine_name, read_engine

_PURPOSE = "The engine 'tensorrt'"
PRECISIONS = ("fp32", "fp16", "int8")
TYPES = {"features": np.dtype(np.float32), "cu_seqlens": np.dtype(np.int32), "logits": np.dtype(np.float32)}


def precisions(manifest: Manifest) -> tuple[str, ...]:
    """Precisions a bundle can be run in, once an engine of each is built."""
    return tuple(precision for precision in PRECISIONS if precision in manifest.precisions)


def built(bundle: Bundle) -> tuple[str, ...]:
    """Precisions that the bundle has an engine of, for whatever machine."""
    names = [path.stem for path in (bundle.path / ENGINES).glob("*.json")]
    return tuple(
        precision for precision in precisions(bundle.manifest) if any(name.endswith(f"-{precision}") for name in names)
    )


def open_engine(
    bundle: Bundle, *, precision: str | None = None, threads: int | None = None, mode: Mode | None = None
) -> TensorRtEngine:
    """Open the bundle's TensorRT engine of a precision (default: the bundle's default one).

    Args:
        bundle: an opened bundle.
        precision: ``fp32``, ``fp16`` or ``int8``.
        threads: has no meaning on a GPU.
        mode: ``packed`` (default) runs as many clips at once as a bucket holds, ``per-clip`` each clip alone.

    Raises MismatchError (no TensorRT, no GPU, no such engine, or one that was not made from this bundle for this machine),
    InputError (bad argument, or a damaged file).
    """
    precision = bundle.precision(precision)
    trt, cuda = import_tensorrt(_PURPOSE), open_cuda()
    path = _find(bundle, precision, engine_name(version(trt), cuda.gpu.sm, precision))
    sidecar = EngineSidecar.from_bytes(path.read_bytes(), where=path)
    plan = read_engine(path, sidecar)
    here = Here(
        bundle=bundle.path,
        bundle_id=bundle.manifest.bundle_id,
        precision=precision,
        tensorrt=version(trt),
        gpu=cuda.gpu,
        plan=plan,
        plugin_sha256=plugin_sha256(sidecar.plugin.key),
    )
    require_compatible(sidecar, here, path)
    return TensorRtEngine(bundle.manifest, sidecar, plan, trt=trt, cuda=cuda, mode=mode or "packed")


def _find(bundle: Bundle, precision: str, name: str) -> Path:
    """The sidecar of the engine for this machine, or of another one of the precision, whose refusal then says what differs."""
    bundle.require_folder("run --engine tensorrt")
    folder = bundle.path / ENGINES
    exact = folder / f"{name}.json"
    if exact.is_file():
        return exact
    others = sorted(folder.glob(f"*-{precision}.json"))
    if others:
        return others[0]
    raise MismatchError(
        f"the bundle has no TensorRT engine in {precision}",
        where=folder,
        found=", ".join(sorted(path.name for path in folder.glob(f"*{SUFFIX}"))) or "no engine",
        expected=f"{name}{SUFFIX}",
        hint=f"star-edge build {bundle.path} --{precision}",
    )


class TensorRtEngine:
    """A loaded engine; see :func:`open_engine`. Safe to call from several threads, but not in a forked child: CUDA is not.

    Every call takes an execution (a context of TensorRT with its stream, memory and CUDA graph) of its bucket out of a pool, and
    makes one where the pool is empty: there are as many as calls ever ran at once.
    """

    name = "tensorrt"

    def __init__(self, manifest: Manifest, sidecar: EngineSidecar, plan: bytes, *, trt: Any, cuda: Cuda, mode: Mode) -> None:
        if mode not in ("packed", "per-clip"):
            raise InputError("unknown mode of the engine", found=mode, expected="packed or per-clip")
        self.precision, self.mode, self.sidecar = sidecar.precision, mode, sidecar
        self._manifest, self._trt, self._cuda = manifest, trt, cuda
        load_plugins(trt, plugin_path(sidecar.plugin.key))
        log = logger(trt)
        log.errors.clear()
        self._runtime = trt.Runtime(log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._failure("TensorRT cannot load the engine")
        self._check_signature()
        self._idle: list[deque[_Execution]] = [deque() for _ in sidecar.profiles]
        self._making = threading.Lock()
        self._last = threading.local()
        weakref.finalize(self, _free, self._idle)

    def run(self, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """Logits float32 [B, K] of features float32 [F, V, C] with cu_seqlens int32 [B+1]; clips may be empty."""
        self._check(features, cu_seqlens)
        self._last.seconds = 0.0
        if self.mode == "packed":
            return self._run(features, cu_seqlens)
        clips = unpack(features, cu_seqlens)
        return np.concatenate([self._run(clip, cu_seqlens_of([len(clip)])) for clip in clips])

    def run_in(self, bucket: int, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """The same in a bucket of one's choice, by its index, which the batch must fit."""
        self._check(features, cu_seqlens)
        self._last.seconds = 0.0
        return self._run_part(bucket, features, cu_seqlens)

    def device_seconds(self) -> float:
        """Time of this thread's last call between CUDA events before the first and behind the last kernel: no copies, no packing."""
        return float(self._last.seconds)

    def report(self) -> EngineReport:
        """What the engine was built of; TensorRT types strongly, so that the graph's precisions are those that run."""
        made = self.sidecar
        return EngineReport(
            engine=self.name,
            precision=self.precision,
            storage=self.precision,
            compute=self.precision,
            provider=f"TensorRT {made.tensorrt}, {made.gpu}, {made.plugin_layers} plugin layers",
            mode=self.mode,
            threads=1,
            nodes=self._modules(),
        )

    def _modules(self) -> dict[str, str]:
        ops = {module: op.name for op in self._manifest.ops for module in op.modules}
        return {
            module: f"plugin, {'int8' if ops[module] in self.sidecar.int8_ops else stored}" if module in ops else stored
            for module, stored in self._manifest.nodes.get(self.precision, {}).items()
        }

    def _check(self, features: np.ndarray, cu_seqlens: np.ndarray) -> None:
        joints, channels = self._manifest.skeleton.num_joints, self._manifest.features.channels
        check_packed(features, cu_seqlens, joints=joints, channels=channels, allow_empty=True)

    def _run(self, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        parts = []
        for first, last, bucket in split(self.sidecar.profiles, cu_seqlens):
            start, stop = cu_seqlens[first], cu_seqlens[last]
            parts.append(self._run_part(bucket, features[start:stop], cu_seqlens[first : last + 1] - start))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run_part(self, bucket: int, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        with self._execution(bucket) as execution:
            logits = execution.run(features, cu_seqlens)
            self._last.seconds += execution.seconds
        return logits

    @contextlib.contextmanager
    def _execution(self, bucket: int) -> Iterator[_Execution]:
        """An execution of a bucket that is nobody else's meanwhile. One that failed is not used again."""
        try:
            execution = self._idle[bucket].pop()
        except IndexError:
            with self._making:
                execution = _Execution(self._trt, self._cuda, self._engine, bucket, self._shapes(bucket))
        try:
            yield execution
        except BaseException:
            execution.free()
            raise
        self._idle[bucket].append(execution)

    def _shapes(self, bucket: int) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each tensor in a bucket."""
        size, manifest = self.sidecar.profiles[bucket], self._manifest
        return shapes_of(size, manifest.skeleton.num_joints, manifest.features.channels) | {
            "logits": (size.clips, len(manifest.class_names))
        }

    def _check_signature(self) -> None:
        """The engine's tensors and profiles must be the sidecar's: a wrong address or size would be a write anywhere."""
        engine, trt = self._engine, self._trt
        found: dict[str, object] = {"profiles": engine.num_optimization_profiles}
        expected: dict[str, object] = {"profiles": len(self.sidecar.profiles)}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            found[name] = str(engine.get_tensor_dtype(name))
        expected |= {"features": str(trt.float32), "cu_seqlens": str(trt.int32), "logits": str(trt.float32)}
        for bucket in range(len(self.sidecar.profiles)) if found == expected else ():
            for name, shape in self._shapes(bucket).items():
                if name != "logits":
                    found[f"{name} of profile {bucket}"] = tuple(engine.get_tensor_profile_shape(name, bucket)[2])
                    expected[f"{name} of profile {bucket}"] = shape
        if found == expected:
            classes = tuple(engine.get_tensor_shape("logits"))[1]
            found["classes"], expected["classes"] = classes, len(self._manifest.class_names)
        if found != expected:
            raise MismatchError(
                "the engine has other tensors than its description says",
                found=found,
                expected=expected,
                hint="star-edge build",
            )

    def _failure(self, what: str) -> MismatchError:
        return MismatchError(
            what, found=f"TensorRT {self._trt.__version__}: {logger(self._trt).reason()}", hint="star-edge build"
        )


def shapes_of(bucket: Bucket, joints: int, channels: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the inputs that fill a bucket."""
    return {"features": (bucket.rows, joints, channels), "cu_seqlens": (bucket.clips + 1,)}


class _Execution:
    """A context of TensorRT in one profile, with its stream, memory and CUDA graph; for one call at a time.

    ``seconds``: what the last call took between the events.
    """

    def __init__(self, trt: Any, cuda: Cuda, engine: Any, profile: int, shapes: dict[str, tuple[int, ...]]) -> None:
        self._trt, self._cuda, self.seconds = trt, cuda, 0.0
        self._used = 0  # rows that the last call wrote
        with contextlib.ExitStack() as held:
            self._stream = cuda.stream()
            held.callback(cuda.free, "cudaStreamDestroy", self._stream)
            self._begin, self._end = (self._event(held) for _ in range(2))
            self._buffers = {name: self._buffer(held, shape, TYPES[name]) for name, shape in shapes.items()}
            # the memory that this profile takes, not the largest one's
            self._context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE)
            self._require(self._context is not None, "make a context")
            held.callback(vars(self).pop, "_context")
            self._choose(profile, shapes)
            self._upload()
            self._enqueue()  # TensorRT prepares what it cannot while a graph is recorded
            cuda.synchronize(self._stream)
            self._graph = cuda.capture(self._stream, self._enqueue)
            held.callback(cuda.free, "cudaGraphExecDestroy", self._graph)
            held.callback(cuda.free, "cudaStreamSynchronize", self._stream)
            self._held = held.pop_all()

    def run(self, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """Logits float32 [B, K]; behind the clips the bucket is filled with rows of zeros and empty clips."""
        rows, clips = len(features), len(cu_seqlens) - 1
        host = self._buffers["features"].host
        host[:rows] = features
        host[rows : self._used] = 0
        self._used = rows
        offsets = self._buffers["cu_seqlens"].host
        offsets[: clips + 1] = cu_seqlens
        offsets[clips + 1 :] = rows
        self._upload()
        self._cuda.record(self._begin, self._stream)
        self._cuda.launch(self._graph, self._stream)
        self._cuda.record(self._end, self._stream)
        self._cuda.download(self._buffers["logits"], self._stream)
        self._cuda.synchronize(self._stream)
        self.seconds = self._cuda.seconds(self._begin, self._end)
        return self._buffers["logits"].host[:clips].copy()

    def free(self) -> None:
        """Give everything back; not to be used again."""
        self._held.close()

    def _event(self, held: contextlib.ExitStack) -> int:
        event = self._cuda.event()
        held.callback(self._cuda.free, "cudaEventDestroy", event)
        return event

    def _buffer(self, held: contextlib.ExitStack, shape: tuple[int, ...], dtype: np.dtype) -> Buffer:
        buffer = self._cuda.buffer(shape, dtype)
        held.callback(buffer.free, self._cuda)
        return buffer

    def _choose(self, profile: int, shapes: dict[str, tuple[int, ...]]) -> None:
        """The profile, and the only shapes and addresses that the context will see."""
        self._require(self._context.set_optimization_profile_async(profile, self._stream), "choose the profile")
        for name, shape in shapes.items():
            if name != "logits":
                self._require(self._context.set_input_shape(name, shape), f"set the shape of {name}")
            self._require(self._context.set_tensor_address(name, self._buffers[name].device), f"set the address of {name}")

    def _upload(self) -> None:
        for name in ("features", "cu_seqlens"):
            self._cuda.upload(self._buffers[name], self._stream)

    def _enqueue(self) -> None:
        self._require(self._context.execute_async_v3(self._stream), "run the engine")

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise MismatchError(f"TensorRT cannot {what}", found=logger(self._trt).reason(), hint="star-edge build")


def _free(idle: list[deque[_Execution]]) -> None:
    for executions in idle:
        for execution in executions:
            execution.free()
