"""TensorRT's Python module, its plugins, and where star-edge keeps what it compiled for them."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from runtime.errors import MismatchError

OLDEST = (10, 3)
LIBRARY = "libstar_edge_trt.so"
_log = logging.getLogger("star_edge.tensorrt")


def import_tensorrt(purpose: str) -> Any:
    """The module; MismatchError when it is not installed, cannot be loaded, or is older than the plugins need."""
    try:
        import tensorrt as trt
    except (ImportError, OSError) as error:  # OSError: its libraries are not those it was made for
        raise MismatchError(
            f"{purpose} needs TensorRT's Python module",
            found=str(error),
            expected=f"tensorrt {_text(OLDEST)} or newer",
            hint="on a Jetson: sudo apt-get install nvidia-jetpack, and a virtual environment made with "
            "--system-site-packages; see docs/first-hour.md",
        ) from None
    if version_numbers(trt.__version__) < OLDEST:
        raise MismatchError(
            f"{purpose} needs a newer TensorRT",
            found=f"TensorRT {trt.__version__}, which has no IPluginV3 that the plugins could be",
            expected=f"{_text(OLDEST)} or newer: JetPack 6.1 brings it, JetPack 5 and 6.0 do not",
            hint="star-edge boards",
        )
    return trt


def version(trt: Any) -> str:
    """``10.3.0`` of ``10.3.0.post1``."""
    return _text(version_numbers(trt.__version__))


def version_numbers(text: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(number) for number in match[0].split(".")) if match else ()


def cache_folder() -> Path:
    """Where compiled plugins and timing caches are kept: ``$XDG_CACHE_HOME/star-edge``, by default below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "star-edge"


def plugin_path(key: str) -> Path:
    """Where the plugin library of a key is, or would be."""
    return cache_folder() / "plugins" / key / LIBRARY


def plugin_sha256(key: str) -> str:
    """Hash of the plugin library of a key; empty where there is none."""
    path = plugin_path(key)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


@cache
def logger(trt: Any) -> Any:
    """The one logger of a process: TensorRT keeps the first it is given. ``errors`` has what it said since it was cleared."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: object, message: str) -> None:
            grave = severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
            if grave:
                self.errors.append(message)
            _log.log(logging.DEBUG if not grave and severity != trt.ILogger.WARNING else logging.INFO, "%s", message)

        def reason(self) -> str:
            return "; ".join(self.errors) or "no reason was given"

    return Logger()


@cache
def load_plugins(trt: Any, path: Path) -> None:
    """Load a plugin library into TensorRT's registry, once in a process; MismatchError where TensorRT will not."""
    log = logger(trt)
    log.errors.clear()
    if trt.get_plugin_registry().load_library(str(path)) is None:
        raise MismatchError(
            "TensorRT cannot load the plugins",
            where=path,
            found=f"TensorRT {trt.__version__}: {log.reason()}",
            hint="use a process of its own for engines with other plugins of star-edge, or: star-edge build",
        )


def _text(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
