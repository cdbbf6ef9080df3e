"""The ``onnxruntime`` engine: runs the bundle's ONNX model as it is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from runtime.bundle import Bundle
from runtime.engine import EngineReport, Mode
from runtime.errors import InputError, MismatchError, MissingDependencyError
from runtime.files import scratch_folder
from runtime.manifest import Manifest, model_file
from runtime.packing import check_packed, cu_seqlens_of, unpack

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

_ERRORS_ONLY = 3
_PRECISION_OF_TYPE = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}
# operators, and what ONNX Runtime fuses them into, whose arithmetic decides the precision of a module
_PRODUCTS = ("MatMul", "Gemm")
# operators that only move, convert or describe values
_MOVES = {"Cast", "Concat", "DequantizeLinear", "Expand", "Flatten", "Gather", "Identity", "QuantizeLinear", "Reshape", "Shape",
          "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}  # fmt: skip
_INLINED = "_inlfunc_"  # what ONNX Runtime puts before the nodes of a local function's body


def precisions(manifest: Manifest) -> tuple[str, ...]:
    """Precisions a bundle can be run in: those of its models."""
    return manifest.precisions


def open_engine(
    bundle: Bundle,
    *,
    precision: str | None = None,
    threads: int | None = None,
    mode: Mode | None = None,
    provider: str = "CPUExecutionProvider",
) -> OnnxRuntimeEngine:
    """Open the bundle's model of a precision (default: the bundle's default one).

    Args:
        bundle: an opened bundle.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        threads: threads of one call; default: the cores this process may use.
        mode: ``per-clip`` (default) runs each clip alone: the segment masks of a packed graph, whose cost is clips times
            rows, shrink to nothing, and a clip's answer cannot depend on its batch. ``packed`` runs a batch in one call.
        provider: the execution provider that must be the one used.

    Raises MismatchError (no such model, another provider, inputs or classes that do not fit the manifest),
    MissingDependencyError, InputError (bad argument).
    """
    threads = _usable_cores() if threads is None else threads
    return OnnxRuntimeEngine(bundle, bundle.precision(precision), threads, mode or "per-clip", provider)


def session_options(threads: int) -> SessionOptions:
    """ONNX Runtime's options for sessions on the CPU, whatever opens them; 0 threads leave the number to ONNX Runtime."""
    options = _import().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # int8 products of processors without VNNI add pairs in 16 bits, which overflow unless the weights are made uint8
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


class OnnxRuntimeEngine:
    """One ONNX Runtime session; see :func:`open_engine`. Safe to call from several threads."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, precision: str, threads: int, mode: Mode, provider: str) -> None:
        if threads < 1:
            raise InputError("no threads to run with", found=f"threads = {threads}", expected="at least 1")
        if mode not in ("packed", "per-clip"):
            raise InputError("unknown mode of the engine", found=mode, expected="packed or per-clip")
        self.precision, self.threads, self.mode = precision, threads, mode
        self._bundle, self._provider = bundle, provider
        self._path = bundle.path_of(model_file(precision))
        self._session = self._open_session(session_options(self.threads))
        self._check_signature()

    def run(self, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """Logits float32 [B, K] of features float32 [F, V, C] with cu_seqlens int32 [B+1]; clips may be empty."""
        manifest = self._bundle.manifest
        joints, channels = manifest.skeleton.num_joints, manifest.features.channels
        check_packed(features, cu_seqlens, joints=joints, channels=channels, allow_empty=True)
        if self.mode == "packed":
            return self._call(features, cu_seqlens)
        return np.concatenate([self._call(clip, cu_seqlens_of([len(clip)])) for clip in unpack(features, cu_seqlens)])

    def report(self) -> EngineReport:
        """What ONNX Runtime executes, read from its own profile of one short clip."""
        import onnxruntime

        return EngineReport(
            engine=self.name,
            precision=self.precision,
            storage=self.precision,
            compute=_precision(self._executed),
            provider=f"onnxruntime {onnxruntime.__version__} {self._provider}",
            mode=self.mode,
            threads=self.threads,
            nodes=self._modules(),
        )

    def _call(self, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """One session call; a batch without rows gets a one-row clip beside it, because operators differ on empty tensors."""
        clips = len(cu_seqlens) - 1
        if len(features) == 0:
            features = np.zeros((1, *features.shape[1:]), dtype=np.float32)
            cu_seqlens = np.append(cu_seqlens, np.int32(1))
        inputs = {"features": np.ascontiguousarray(features), "cu_seqlens": cu_seqlens}
        logits: np.ndarray = self._session.run(["logits"], inputs)[0][:clips]
        classes = len(self._bundle.class_names)
        if logits.shape != (clips, classes):
            raise self._misfit("the model answers another number of clips or classes", logits.shape, (clips, classes))
        return logits

    def _open_session(self, options: SessionOptions) -> InferenceSession:
        onnxruntime = _import()
        available = onnxruntime.get_available_providers()
        if self._provider not in available:
            raise MismatchError(
                f"this ONNX Runtime has no {self._provider}",
                found=", ".join(available),
                expected=self._provider,
                hint="install the onnxruntime build that has it",
            )
        model = self._bundle.read(model_file(self.precision))
        try:
            session = onnxruntime.InferenceSession(model, options, providers=[self._provider])
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise MismatchError(
                f"ONNX Runtime {onnxruntime.__version__} cannot open the model",
                where=self._path,
                found=reason,
                expected="an ONNX model it supports",
                hint="pip install --upgrade onnxruntime, or export the bundle again",
            ) from None
        used = session.get_providers()
        if used[0] != self._provider:
            raise self._misfit("ONNX Runtime fell back to another provider", used[0], self._provider)
        return session

    def _check_signature(self) -> None:
        """The model's inputs and output must be the ones of every export and fit the manifest."""
        manifest = self._bundle.manifest
        inputs = {value.name: value for value in self._session.get_inputs()}
        outputs = {value.name: value for value in self._session.get_outputs()}
        types = {name: value.type for name, value in (inputs | outputs).items()}
        expected = {"features": "tensor(float)", "cu_seqlens": "tensor(int32)", "logits": "tensor(float)"}
        if types != expected:
            raise self._misfit("the model has other inputs or outputs than an export", types, expected)
        fixed = {
            "joints": (inputs["features"].shape[1], manifest.skeleton.num_joints),
            "channels": (inputs["features"].shape[2], manifest.features.channels),
            "classes": (outputs["logits"].shape[1], len(manifest.class_names)),
        }
        for what, (found, wanted) in fixed.items():
            if isinstance(found, int) and found != wanted:
                raise self._misfit(f"model and manifest disagree on the number of {what}", found, wanted)

    def _misfit(self, what: str, found: object, expected: object) -> MismatchError:
        return MismatchError(what, where=self._path, found=found, expected=expected, hint="export the bundle again")

    @cached_property
    def _executed(self) -> list[_Node]:
        """What computes when a one-row clip is run, from ONNX Runtime's profile."""
        manifest = self._bundle.manifest
        options = session_options(self.threads)
        features = np.zeros((1, manifest.skeleton.num_joints, manifest.features.channels), dtype=np.float32)
        with scratch_folder() as folder:
            options.enable_profiling = True
            options.profile_file_prefix = str(folder / "profile")
            session = self._open_session(options)
            session.run(["logits"], {"features": features, "cu_seqlens": np.array([0, 1], dtype=np.int32)})
            profile = _read_profile(Path(session.end_profiling()))
        return list(_computing_nodes(profile))

    def _modules(self) -> dict[str, str]:
        """Module path -> precision it is computed in; for a custom op, how it was lowered as well."""
        manifest = self._bundle.manifest
        ops = {module: op.name for op in manifest.ops for module in op.modules}
        return {
            module: self._lowering(ops[module])
            if module in ops
            else _precision([n for n in self._executed if n.is_of(module)])
            for module in manifest.nodes.get(self.precision, {})
        }

    def _lowering(self, op: str) -> str:
        """How a custom op runs. A function's body is the same for each of its modules, so they share the answer."""
        if any(node.operator == op for node in self._executed):
            return "kernel"
        return f"function body, {_precision([node for node in self._executed if node.name.startswith(f'{_INLINED}{op}_')])}"


def _read_profile(path: Path) -> Any:
    """ONNX Runtime's profile. Where the disk is full it writes a part, and says nothing: then MismatchError."""
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        raise MismatchError(
            "ONNX Runtime could not write its profile",
            where=path,
            found=f"{path.stat().st_size} bytes, which are not whole",
            expected="room for temporary files",
            hint=f"make room in {path.parent.parent}, or set TMPDIR to a folder that has some",
        ) from None


class _Node(NamedTuple):
    """An executed node that computes: its name, operator, and the precision of its first numeric input."""

    name: str
    operator: str
    precision: str

    @property
    def is_product(self) -> bool:
        return any(product in self.operator for product in _PRODUCTS)

    def is_of(self, module: str) -> bool:
        """Nodes carry their module's path; ONNX Runtime appends ``/...`` to the name of a fused one."""
        return self.name == module or self.name.startswith(f"{module}/")


def _precision(nodes: list[_Node]) -> str:
    """Precision of the products among the nodes, or of all where there is none."""
    precisions = {node.precision for node in nodes if node.is_product} or {node.precision for node in nodes}
    return ", ".join(sorted(precisions)) or "merged into its neighbours"


def _computing_nodes(profile: Iterable[dict[str, Any]]) -> Iterator[_Node]:
    for event in profile:
        arguments = event.get("args", {})
        types = [name for value in arguments.get("input_type_shape", ()) for name in value]
        precisions = [_PRECISION_OF_TYPE[name] for name in types if name in _PRECISION_OF_TYPE]
        executed = event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        if executed and precisions and arguments["op_name"] not in _MOVES:
            yield _Node(event["name"].removesuffix("_kernel_time"), arguments["op_name"], precisions[0])


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependencyError("onnxruntime", "onnx", "The engine 'onnxruntime'") from None
    return onnxruntime


def _usable_cores() -> int:
    """Cores this process may run on; fewer than the machine has inside a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
