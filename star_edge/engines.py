"""The engines by name, and the way from a bundle's path to a recogniser."""

from __future__ import annotations

import importlib
from pathlib import Path

from runtime.bundle import Bundle
from runtime.engine import Engine, Mode
from runtime.errors import InputError, MissingDependencyError
from runtime.recognizer import Recognizer

# name -> module with open_engine(bundle, *, precision, threads, mode) -> Engine, and the extra that installs its library
ENGINES = {
    "onnxruntime": ("runtime.engines.onnxruntime", "onnx"),
    "torch": ("star_edge.torch_engine", "export"),
}


def open_engine(
    bundle: Bundle,
    name: str = "onnxruntime",
    *,
    precision: str | None = None,
    threads: int | None = None,
    mode: Mode | None = None,
) -> Engine:
    """Open a bundle with a named engine; None leaves precision, threads and mode to the engine.

    Raises InputError (no such engine), MismatchError (the bundle or the machine lacks what was asked for),
    MissingDependencyError (the engine's library is not installed).
    """
    if name not in ENGINES:
        raise InputError(f"no engine '{name}'", expected=f"one of {', '.join(ENGINES)}")
    module, extra = ENGINES[name]
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or name, extra, f"The engine '{name}'") from None
    engine: Engine = loaded.open_engine(bundle, precision=precision, threads=threads, mode=mode)
    return engine


def load(
    path: str | Path,
    engine: str = "onnxruntime",
    precision: str | None = None,
    threads: int | None = None,
    mode: Mode | None = None,
) -> Recognizer:
    """Open a bundle for recognition.

    Args:
        path: folder ``NAME.star`` or packed ``NAME.star.zip``; every file is compared with its hash.
        engine: ``onnxruntime``, or ``torch``, the reference.
        precision: ``fp32``, ``fp16`` or ``int8``; default: the bundle's default.
        threads: threads of one call; default: the cores this process may use.
        mode: ``packed`` or ``per-clip``; default: the engine's faster one.

    Example:
        >>> recognizer = star_edge.load("x.star")
        >>> recognizer("clip.skeleton")[0].name
        'drink water'
    """
    bundle = Bundle.open(path)
    return Recognizer(bundle, open_engine(bundle, engine, precision=precision, threads=threads, mode=mode))
