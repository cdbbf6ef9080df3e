"""Compile the plugins for the GPU and the TensorRT that are here, once: the library is kept by what it was made of."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import InputError, MismatchError
from runtime.files import write_atomic
from runtime.tensorrt.installation import LIBRARY, plugin_path, plugin_sha256
from runtime.tensorrt.sidecar import Plugin

_ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = ("exporters/tensorrt/plugin", "runtime/native/cuda")
_SUFFIXES = {".cpp", ".cu", ".h", ".cmake", ".map", ".txt"}
_TARGET = "star_edge_trt"
# what CMakeLists.txt says it lacks -> what mends it
_REMEDIES = {
    "no NvInferRuntime.h": "sudo apt-get install libnvinfer-headers-dev, or name their folder: --tensorrt-include",
    "no nvcc": "sudo apt-get install nvidia-jetpack, or put nvcc's folder into PATH",
}
_LINES = 15  # of a compiler's output, its last, in an error


def ensure_plugins(sm: int, tensorrt: str, include: Path | None = None) -> Plugin:
    """The plugin library for a compute capability (87) and a version of TensorRT, compiled unless it was before.

    Args:
        include: folder of TensorRT's headers; default: where JetPack and Debian put them.

    Raises MismatchError with the compiler's last lines when it cannot be made, or with what is missing for it; InputError when
    ``include`` has no headers.
    """
    sources = sources_sha256()
    key = hashlib.sha256(f"{sources} sm_{sm} TensorRT {tensorrt}".encode()).hexdigest()[:16]
    path = plugin_path(key)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _compile(sm, include))
    return Plugin(key=key, sources_sha256=sources, sha256=plugin_sha256(key))


def sources_sha256() -> str:
    """Hash of everything the library is compiled from."""
    digest = hashlib.sha256()
    for folder in _FOLDERS:
        for path in sorted((_ROOT / folder).rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file():
                digest.update(f"{path.relative_to(_ROOT).as_posix()}\0".encode())
                digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def _compile(sm: int, include: Path | None) -> bytes:
    """Bytes of the library."""
    if include is not None and not (include / "NvInferRuntime.h").is_file():
        raise InputError("there are no headers of TensorRT", where=include, expected="NvInferRuntime.h in it")
    if shutil.which("cmake") is None:
        raise MismatchError(
            "compiling the plugins needs CMake", expected="cmake 3.22 or newer", hint="sudo apt-get install cmake g++"
        )
    with tempfile.TemporaryDirectory(prefix="star-edge-plugins-") as folder:
        options = [f"-DCMAKE_CUDA_ARCHITECTURES={sm}"]
        if include is not None:
            options.append(f"-DTENSORRT_INCLUDE_DIR={include}")
        said = _run(["cmake", "-S", str(_ROOT / _FOLDERS[0]), "-B", folder, *options], "cannot configure the plugins")
        skipped = re.search(rf"{_TARGET} is skipped: (.*?)(?:\n-- |\Z)", said, re.DOTALL)
        if skipped:
            what = " ".join(skipped[1].split()).partition(";")[0]
            raise MismatchError(
                "the plugins cannot be compiled here", found=what, hint=_REMEDIES.get(what, "star-edge doctor build")
            )
        _run(["cmake", "--build", folder, "--target", _TARGET, "--parallel"], "cannot compile the plugins")
        return (Path(folder) / LIBRARY).read_bytes()


def _run(command: Sequence[str], failure: str) -> str:
    """A program's output; MismatchError with its last lines when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip()][-_LINES:]
        raise MismatchError(
            failure,
            where=" ".join(command),
            found="\n".join(["its last lines:", *lines]),
            hint="star-edge doctor build",
        )
    return done.stdout
