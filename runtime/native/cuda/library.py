"""Builds ``star_model.cu`` with nvcc, and its entry points through ctypes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from ctypes import POINTER, c_int32, c_size_t, c_void_p
from pathlib import Path

SOURCE = Path(__file__).with_name("star_model.cu")
FLAGS = ("-O3", "-std=c++17", "-ftz=true", "--Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-fPIC,-fvisibility=hidden")


class Sizes(ctypes.Structure):
    """``star_cuda_sizes``."""

    _fields_ = tuple(
        (name, c_int32)
        for name in ("joints", "channels", "classes", "layers", "hidden", "edges", "frames", "clips", "tile_rows")
    )


class Weights(ctypes.Structure):
    """``star_cuda_weights``: device addresses."""

    _fields_ = tuple(
        (name, c_void_p)
        for name in (
            "input_scale", "input_shift", "embedding", "embedding_bias", "first_key_value", "matrices", "vectors",
            "edge_starts", "edge_ends", "context", "head_hidden", "head_hidden_bias", "head_output", "head_output_bias",
        )
    )  # fmt: skip


def find_nvcc() -> str | None:
    """Path of nvcc; None where there is none."""
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def build(architectures: tuple[int, ...], folder: Path) -> tuple[Path, str]:
    """The shared library for some compute capabilities, e.g. 87, and what the compiler says of each kernel's registers and memory.

    Raises subprocess.CalledProcessError, with the compiler's words in ``stderr``.
    """
    nvcc = find_nvcc()
    assert nvcc is not None
    library = folder / "libstar_cuda.so"
    targets = [word for arch in architectures for word in ("-gencode", f"arch=compute_{arch},code=sm_{arch}")]
    command = [nvcc, *FLAGS, *targets, "-Xptxas", "-v", "-shared", "-o", str(library), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return library, done.stderr


def load(path: Path) -> ctypes.CDLL:
    """The library with its functions declared."""
    library = ctypes.CDLL(str(path))
    library.star_cuda_workspace.restype = c_size_t
    library.star_cuda_workspace.argtypes = (POINTER(Sizes),)
    library.star_cuda_run.restype = c_int32
    library.star_cuda_run.argtypes = (POINTER(Sizes), POINTER(Weights), c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)
    return library
