"""The ``native`` engine: the bundle's weights in kernels of C++, with nothing but numpy on this side."""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from collections import deque
from collections.abc import Iterator
from ctypes import byref, c_void_p
from itertools import chain

import numpy as np

from runtime.bundle import Bundle
from runtime.engine import EngineReport, Mode
from runtime.errors import InputError, StarEdgeError
from runtime.manifest import CALIBRATION, PRECISIONS, WEIGHTS, Manifest
from runtime.native import library as native
from runtime.packing import check_packed, cu_seqlens_of, unpack

# the process a context was made in, and its handle
_Contexts = deque[tuple[int, int]]


def precisions(manifest: Manifest, device: str = "cpu") -> tuple[str, ...]:
    """Precisions a bundle can be run in: bf16 comes from the weights and needs no model of its own, but has no CUDA kernels."""
    return tuple(p for p in PRECISIONS if p in manifest.precisions or (p == "bf16" and device == "cpu"))


def open_engine(
    bundle: Bundle,
    *,
    precision: str | None = None,
    threads: int | None = None,
    mode: Mode | None = None,
    isa: str | None = None,
    device: str | None = None,
) -> NativeEngine:
    """Open the bundle's weights in a precision (default: the bundle's default one).

    Args:
        bundle: an opened bundle.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``; fp16 and int8 only where the bundle has a model of them.
        threads: threads of one call; default: the cores this process may use.
        mode: ``packed`` (default) runs a batch in one call, ``per-clip`` each clip alone; the logits are the same bits.
        isa: instruction set, ``portable``, ``avx2``, ``avx512`` or ``neon``; default: the best this processor has.
        device: ``cpu`` (default) or ``cuda``, an NVIDIA GPU, where the library was built with STAR_EDGE_CUDA; there is no bf16,
            and ``threads`` is 1.

    Raises MismatchError (no library; a precision the bundle lacks, an instruction set the processor lacks, no GPU, a model the
    library does not know or has no kernels for, parts that do not fit), InputError (bad argument, or a damaged file).
    """
    if precision != "bf16":
        precision = bundle.precision(precision)
    return NativeEngine(bundle, precision, threads, mode or "packed", _isa_number(device or "cpu", isa))


class NativeEngine:
    """A loaded model; see :func:`open_engine`. Safe to call from several threads, and in a forked child.

    Every call takes a context (the library's memory and threads of one run) out of a pool, and makes one where the pool is
    empty: there are as many as calls ever ran at once, however many threads made them. They are freed with the engine.
    """

    name = "native"

    def __init__(self, bundle: Bundle, precision: str, threads: int | None, mode: Mode, isa: int) -> None:
        if threads is not None and threads < 1:
            raise InputError("no threads to run with", found=f"threads = {threads}", expected="at least 1")
        if mode not in ("packed", "per-clip"):
            raise InputError("unknown mode of the engine", found=mode, expected="packed or per-clip")
        self.precision, self.mode = precision, mode
        self._manifest = bundle.manifest
        self._library = native.load_library()
        self._model = _load_model(self._library, bundle, precision, isa)
        self._idle: _Contexts = deque()
        weakref.finalize(self, _free, self._library, self._model, self._idle)
        self.threads = threads or 0  # of the first context; the library counts the cores where it is 0
        with self._context() as context:
            self.threads = self._library.star_context_threads(context)

    def run(self, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """Logits float32 [B, K] of features float32 [F, V, C] with cu_seqlens int32 [B+1]; clips may be empty."""
        skeleton, channels = self._manifest.skeleton, self._manifest.features.channels
        check_packed(features, cu_seqlens, joints=skeleton.num_joints, channels=channels, allow_empty=True)
        with self._context() as context:
            if self.mode == "packed":
                return self._call(context, features, cu_seqlens)
            clips = unpack(features, cu_seqlens)
            return np.concatenate([self._call(context, clip, cu_seqlens_of([len(clip)])) for clip in clips])

    def report(self) -> EngineReport:
        """What the library says that runs."""
        info = native.ModelInfo()
        native.check(self._library, self._library.star_model_describe(self._model, byref(info)))
        return EngineReport(
            engine=self.name,
            precision=native.PRECISIONS[info.precision],
            storage=info.storage.decode(),
            compute=info.compute.decode(),
            provider=f"libstar_edge {native.version(self._library)}, {info.products.decode()}",
            mode=self.mode,
            threads=self.threads,
            nodes=self._modules(),
        )

    def _modules(self) -> dict[str, str]:
        """Module path -> precision it is computed in; the paths are those of the bundle's models."""
        found = {}
        for module in sorted(set(chain.from_iterable(self._manifest.nodes.values()))):
            precision = self._library.star_model_module_precision(self._model, module.encode())
            if precision is not None:
                found[module] = precision.decode()
        return found

    def _call(self, context: int, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(features)
        offsets = cu_seqlens.astype(np.int64)
        logits = np.empty((len(offsets) - 1, len(self._manifest.class_names)), dtype=np.float32)
        status = self._library.star_run(context, rows.ctypes.data, offsets.ctypes.data, len(logits), logits.ctypes.data)
        native.check(self._library, status)
        return logits

    @contextlib.contextmanager
    def _context(self) -> Iterator[int]:
        """A context that is nobody else's meanwhile."""
        context = self._take_idle() or self._new_context()
        try:
            yield context
        finally:
            self._idle.append((os.getpid(), context))

    def _take_idle(self) -> int | None:
        """An idle context; without a lock, which a fork could leave locked for ever. None when there is none."""
        with contextlib.suppress(IndexError):
            while True:
                process, context = self._idle.pop()
                if process == os.getpid():  # the threads of a context from before a fork are in the parent alone
                    return context
        return None

    def _new_context(self) -> int:
        context = c_void_p()
        native.check(self._library, self._library.star_context_create(self._model, self.threads, byref(context)))
        assert context.value is not None
        return context.value


def _isa_number(device: str, isa: str | None) -> int:
    if device not in ("cpu", "cuda"):
        raise InputError("unknown device", found=device, expected="cpu or cuda")
    if isa is not None and isa not in native.INSTRUCTION_SETS:
        raise InputError("unknown instruction set", found=isa, expected=f"one of {', '.join(native.INSTRUCTION_SETS[1:])}")
    if device == "cpu":
        return native.INSTRUCTION_SETS.index(isa or native.INSTRUCTION_SETS[0])
    if isa is not None:
        raise InputError(
            "an instruction set is a processor's", found=f"{isa} on cuda", expected="device cpu, or no instruction set"
        )
    return native.CUDA_ISA


def _load_model(library: ctypes.CDLL, bundle: Bundle, precision: str, isa: int) -> int:
    """A new model of the library; errors name the bundle."""
    calibration = bundle.read(CALIBRATION) if CALIBRATION in bundle.manifest.files else b""
    files = (bundle.manifest.to_bytes(), bundle.read(WEIGHTS), calibration)
    model = c_void_p()
    status = library.star_model_load_bytes(
        *map(native.Bytes.of, files),
        native.PRECISIONS.index(precision),
        isa,
        byref(model),
    )
    try:
        native.check(library, status)
    except StarEdgeError as error:
        where = bundle.path if error.where is None else bundle.path / error.where
        raise type(error)(error.what, where=where, found=error.found, expected=error.expected, hint=error.hint) from None
    assert model.value is not None
    return model.value


def _free(library: ctypes.CDLL, model: int, idle: _Contexts) -> None:
    for process, context in idle:
        if process == os.getpid():
            library.star_context_free(context)
    library.star_model_free(model)
