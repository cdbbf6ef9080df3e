"""Other forms of the model, each as fast as its library makes it, that are measured beside the bundle's engines.

Bundles are run with none of them. An opener takes the bundle, the precision and the threads of one call; what a peer needs to
know the length of a clip for happens in the first call with it, which the bench reports apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from runtime.bundle import Bundle
from runtime.engines.onnxruntime import session_options
from runtime.errors import MismatchError, MissingDependencyError
from runtime.manifest import model_file
from runtime.packing import check_packed, cu_seqlens_of, unpack

if TYPE_CHECKING:
    from star_edge.models.registry import Model
    from star_edge.models.star import Star

# features float32 [F, V, C], cu_seqlens int32 [B+1] -> logits float32 [B, K]
Forward = Callable[[np.ndarray, np.ndarray], np.ndarray]

_OPSET = 18  # the one torch.onnx.export writes without converting
_EXAMPLE_ROWS, _MAX_ROWS = 8, 100_000
_LENGTHS = 64  # torch.compile gives up on a function after 8 of them


class Peer(NamedTuple):
    """An opened peer, and what is really used, as an engine's report says it; on a GPU, seconds it took in the last call."""

    run: Forward
    compute: str
    provider: str
    device_seconds: Callable[[], float] | None = None


def _torch_pyg(bundle: Bundle, precision: str, threads: int) -> Peer:
    """The paper's scatter form, all clips in one call."""
    import torch

    from star_edge.models.pyg import pyg_star

    kernels = ", ".join(f"{package} {version(package)}" for package in ("torch-scatter", "torch-sparse"))
    call = _torch_call(pyg_star(star_of(_torch_model(bundle, threads))))
    return Peer(checked(bundle, call), "fp32", f"torch {torch.__version__}, {kernels}")


def _torch_compile(bundle: Bundle, precision: str, threads: int) -> Peer:
    """Compiled once for clips of any length."""
    import torch

    call = _torch_call(torch.compile(_torch_model(bundle, threads), dynamic=True))
    return Peer(clip_by_clip(bundle, call), "fp32", f"torch {torch.__version__} compile, inductor")


def _torch_compile_static(bundle: Bundle, precision: str, threads: int) -> Peer:
    """Compiled anew for every length."""
    import torch

    compile_many_lengths()
    call = _torch_call(torch.compile(_torch_model(bundle, threads), dynamic=False))
    return Peer(clip_by_clip(bundle, call), "fp32", f"torch {torch.__version__} compile, inductor, for each length")


def _onnxruntime_clip(bundle: Bundle, precision: str, threads: int) -> Peer:
    """ONNX Runtime on torch's own export of the model for one clip of any length."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependencyError("onnxruntime", "peers", "The engine 'onnxruntime-clip'") from None
    graph = _torch_export(_torch_model(bundle, threads))
    session = onnxruntime.InferenceSession(graph, session_options(threads), providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}

    def call(features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        inputs = {"features": features, "cu_seqlens": cu_seqlens}
        logits: np.ndarray = session.run(["logits"], {name: inputs[name] for name in names})[0]
        return logits

    provider = f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider, torch.onnx.export of one clip"
    return Peer(clip_by_clip(bundle, call), "fp32", provider)


def _openvino(bundle: Bundle, precision: str, threads: int) -> Peer:
    """OpenVINO on the bundle's own graph, whose functions it does not know, so they are inlined."""
    openvino = _import_openvino()
    from onnx import load_model_from_string
    from onnx.inliner import inline_local_functions

    graph = inline_local_functions(load_model_from_string(bundle.read(model_file("fp32"))))
    call = _openvino_call(graph.SerializeToString(), threads)
    return Peer(clip_by_clip(bundle, call), "fp32", f"openvino {openvino.__version__} CPU")


def _openvino_static(bundle: Bundle, precision: str, threads: int) -> Peer:
    """OpenVINO on torch's own export of the model for one clip, exported and compiled anew for every length."""
    openvino = _import_openvino()
    _require_onnxscript()
    model = _torch_model(bundle, threads)
    compiled = cache(lambda rows: _openvino_call(_torch_export(model, rows), threads))

    def call(features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        logits: np.ndarray = compiled(len(features))(features, cu_seqlens)
        return logits

    provider = f"openvino {openvino.__version__} CPU, torch.onnx.export of one clip for each length"
    return Peer(clip_by_clip(bundle, call), "fp32", provider)


def _native_avx2(bundle: Bundle, precision: str, threads: int) -> Peer:
    """The native engine with no instruction beyond AVX2, which is as far as many small machines go."""
    from runtime.engines.native import open_engine

    engine = open_engine(bundle, precision=precision, threads=threads, isa="avx2")
    report = engine.report()
    return Peer(engine.run, report.compute, report.provider)


# by the names of star_edge.bench.ENGINES
PEERS: dict[str, Callable[[Bundle, str, int], Peer]] = {
    "torch-pyg": _torch_pyg,
    "torch-compile": _torch_compile,
    "torch-compile-static": _torch_compile_static,
    "onnxruntime-clip": _onnxruntime_clip,
    "openvino": _openvino,
    "openvino-static": _openvino_static,
    "native-avx2": _native_avx2,
}


def compile_many_lengths() -> None:
    """Let torch.compile make one function for each of many lengths."""
    import torch._dynamo.config as dynamo

    limit = "recompile_limit" if hasattr(dynamo, "recompile_limit") else "cache_size_limit"  # its name until torch 2.5
    setattr(dynamo, limit, _LENGTHS)


def checked(bundle: Bundle, call: Forward) -> Forward:
    """A call that looks at its inputs first, as every engine does: it would be unfair to leave it out of their time."""
    joints, channels = bundle.manifest.skeleton.num_joints, bundle.manifest.features.channels

    def run(features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        check_packed(features, cu_seqlens, joints=joints, channels=channels, allow_empty=True)
        return call(features, cu_seqlens)

    return run


def clip_by_clip(bundle: Bundle, call: Forward) -> Forward:
    """One call a clip."""

    def run(features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        return np.concatenate([call(clip, cu_seqlens_of([len(clip)])) for clip in unpack(features, cu_seqlens)])

    return checked(bundle, run)


def _torch_model(bundle: Bundle, threads: int) -> Model:
    import torch

    from star_edge.torch_engine import load_model

    torch.set_num_threads(threads)
    return load_model(bundle)


def star_of(model: Model) -> Star:
    """The model, if it is a STAR; MismatchError for another, which has no scatter form."""
    from star_edge.models.star import Star

    if not isinstance(model, Star):
        raise MismatchError("torch-scatter and torch-sparse are in STAR's own form alone", found=type(model).__name__)
    return model


def _torch_call(forward: Callable[..., Any]) -> Forward:
    """A torch model called as the ``torch`` engine calls its own."""
    import torch

    @torch.no_grad()
    def call(features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        logits: np.ndarray = forward(torch.from_numpy(features), torch.from_numpy(cu_seqlens)).numpy()
        return logits

    return call


def _torch_export(model: Model, rows: int | None = None) -> bytes:
    """ONNX of the model for one clip of so many rows, or of any number; ``cu_seqlens`` may be missing from its inputs."""
    import torch

    _require_onnxscript()
    frames = torch.export.Dim("frames", min=1, max=_MAX_ROWS)
    example = torch.zeros(rows or _EXAMPLE_ROWS, model.config.joints, model.config.channels)
    program = torch.onnx.export(
        model,
        (example, torch.tensor([0, len(example)], dtype=torch.int32)),
        dynamo=True,
        verbose=False,
        opset_version=_OPSET,
        input_names=["features", "cu_seqlens"],
        output_names=["logits"],
        dynamic_shapes={"features": {0: frames}, "cu_seqlens": None} if rows is None else None,
    )
    assert program is not None
    exported: bytes = program.model_proto.SerializeToString()
    return exported


def _openvino_call(graph: bytes, threads: int) -> Forward:
    """A graph compiled for the CPU: float32 throughout, since OpenVINO would take bfloat16 where the processor has it."""
    core = _import_openvino().Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(graph), "CPU", options)
    request, names = compiled.create_infer_request(), [value.any_name for value in compiled.inputs]

    def call(features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        inputs = {"features": features, "cu_seqlens": cu_seqlens}
        logits: np.ndarray = request.infer({name: inputs[name] for name in names}, share_inputs=True)[0]
        return logits

    return call


def _import_openvino() -> Any:
    try:
        import openvino
    except ImportError:
        raise MissingDependencyError("openvino", "peers", "OpenVINO beside the others") from None
    return openvino


def _require_onnxscript() -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingDependencyError("onnxscript", "peers", "torch.onnx.export") from None
