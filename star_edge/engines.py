"""The engines by name, and the way from a bundle's path to a recogniser."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from runtime.bundle import Bundle
from runtime.engine import Engine, Mode
from runtime.errors import InputError, MissingDependencyError
from runtime.manifest import Manifest
from runtime.recognizer import Recognizer
from star_edge.models.registry import MODELS

# name -> module with open_engine(bundle, *, precision, threads, mode) -> Engine and precisions(manifest), and built(bundle) -> precisions
# where an engine has to be built first
ENGINES = {
    "native": "runtime.engines.native",
    "onnxruntime": "runtime.engines.onnxruntime",
    "tensorrt": "runtime.engines.tensorrt",
    "torch": "star_edge.torch_engine",
}
# the default for STAR, and for what that has no kernels for: padded models and ensembles
DEFAULT_ENGINE, OTHER_DEFAULT_ENGINE = "native", "onnxruntime"
# engines that choose between devices; every other has one, and the name says which
DEVICES = {"native": ("cpu", "cuda")}


def default_engine(manifest: Manifest) -> str:
    """The engine a bundle runs with where none is named."""
    model = MODELS.get(manifest.model.name)
    config = manifest.model.config
    other = model is not None and (model.padded or config.get("experts", 1) != 1)
    return OTHER_DEFAULT_ENGINE if other else DEFAULT_ENGINE


def open_engine(
    bundle: Bundle,
    name: str | None = None,
    *,
    precision: str | None = None,
    threads: int | None = None,
    mode: Mode | None = None,
    device: str | None = None,
) -> Engine:
    """Open a bundle with a named engine, or its default one; None leaves precision, threads, mode and device to the engine.

    Raises InputError (no such engine, or no choice of devices), MismatchError (the bundle or the machine lacks what was asked for),
    MissingDependencyError (the engine's library is not installed).
    """
    name = name or default_engine(bundle.manifest)
    engine: Engine = _module(name).open_engine(
        bundle, precision=precision, threads=threads, mode=mode, **_choice(name, device)
    )
    return engine


def precisions(bundle: Bundle, name: str, device: str | None = None) -> tuple[str, ...]:
    """Precisions a named engine runs a bundle in, or of one that has to be built those that were, if any; raises as :func:`open_engine`."""
    module = _module(name)
    found: tuple[str, ...] = module.precisions(bundle.manifest, **_choice(name, device))
    built: tuple[str, ...] = module.built(bundle) if hasattr(module, "built") else ()
    return built or found


def choice_of_device(name: str, device: str) -> str | None:
    """The device for an engine that has a choice; None for one that has only its own."""
    return device if name in DEVICES else None


def _choice(name: str, device: str | None) -> dict[str, str]:
    if device is None:
        return {}
    if name in ENGINES and device not in DEVICES.get(name, ()):
        raise InputError(
            f"the engine '{name}' does not compute on the device '{device}'",
            expected="; ".join(f"{engine} on {' or '.join(devices)}" for engine, devices in DEVICES.items()),
            hint="leave the device out",
        )
    return {"device": device}


def _module(name: str) -> Any:
    if name not in ENGINES:
        raise InputError(f"no engine '{name}'", expected=f"one of {', '.join(ENGINES)}")
    try:
        return importlib.import_module(ENGINES[name])
    except ModuleNotFoundError as error:  # torch alone is imported with its engine
        raise MissingDependencyError(error.name or name, "export", f"The engine '{name}'") from None


def load(
    path: str | Path,
    engine: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    mode: Mode | None = None,
    device: str | None = None,
) -> Recognizer:
    """Open a bundle for recognition.

    Args:
        path: folder ``NAME.star`` or packed ``NAME.star.zip``; every file is compared with its hash.
        engine: ``native``, ``onnxruntime``, ``tensorrt``, for which ``star-edge build`` must have made one, or ``torch``, the reference;
            default: native, or onnxruntime for padded models and ensembles.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``; default: the bundle's default.
        threads: threads of one call; default: the cores this process may use.
        mode: ``packed`` or ``per-clip``; default: the engine's faster one.
        device: ``cuda``: the native engine on an NVIDIA GPU; default: the processor.

    Example:
        >>> recognizer = star_edge.load("x.star")
        >>> recognizer("clip.skeleton")[0].name
        'drink water'
    """
    bundle = Bundle.open(path)
    return Recognizer(bundle, open_engine(bundle, engine, precision=precision, threads=threads, mode=mode, device=device))
