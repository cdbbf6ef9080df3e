"""Builds the kernels, by nvcc for a GPU or by the host's compiler for the emulator, and their entry points through ctypes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from pathlib import Path

HERE = Path(__file__).parent
MODEL = (HERE / "star_model.cu", HERE / "star_weights.cpp")
OPS = tuple(sorted((HERE / "ops").glob("*.cu")))
LAYERS = tuple(sorted((HERE / "layers").glob("*.cu")))
LAYERED = (*OPS, *LAYERS, HERE / "layers" / "star_layered.cpp")
FLAGS = ("-O3", "-std=c++17", "-ftz=true", "--Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-fPIC,-fvisibility=hidden")
HOST_FLAGS = (
    "-O2",
    "-U_FORTIFY_SOURCE",
    "-fno-strict-aliasing",
    "-std=c++17",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-fPIC",
    "-fvisibility=hidden",
)
TYPES = ("fp32", "fp16", "int8")  # star_cuda_type


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
            "input_scale", "input_shift", "embedding", "embedding_bias", "key_values", "matrices", "vectors",
            "edge_starts", "edge_ends", "context", "head_hidden", "head_hidden_bias", "head_output", "head_output_bias",
        )
    )  # fmt: skip


Tensor = ctypes.CFUNCTYPE(c_void_p, c_void_p, ctypes.c_char_p)  # star_cuda_tensor


class Shape(ctypes.Structure):
    """``star_cuda_shape``."""

    _fields_ = tuple((name, c_int32) for name in ("frames", "clips", "joints", "channels", "heads"))


class Format(ctypes.Structure):
    """``star_cuda_format``."""

    _fields_ = (("type", c_int32), ("input_scale", c_float), ("output_scale", c_float))


class LinearLayer(ctypes.Structure):
    """``star_cuda_linear_layer``."""

    _fields_ = (
        ("type", c_int32),
        ("inputs", c_int32),
        ("outputs", c_int32),
        ("matrix", c_void_p),
        ("bias", c_void_p),
        ("scales", c_void_p),
        ("input_scale", c_float),
        ("silu", c_int32),
    )


class Norm(ctypes.Structure):
    """``star_cuda_norm``."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class Encoder(ctypes.Structure):
    """``star_cuda_encoder``."""

    _fields_ = (
        ("qkv", LinearLayer),
        ("linear1", LinearLayer),
        ("linear2", LinearLayer),
        ("norm1", Norm),
        ("norm2", Norm),
    )


class Layered(ctypes.Structure):
    """``star_cuda_layered``."""

    _fields_ = (
        *((name, c_int32) for name in ("activations", "joints", "inputs", "dim", "heads", "layers", "hidden", "classes")),
        ("neighbours", POINTER(c_uint64)),
        *((name, c_void_p) for name in ("input_scale", "input_shift", "embedding", "embedding_bias")),
        ("encoders", POINTER(Encoder)),
        ("context", c_void_p),
        ("head_hidden", LinearLayer),
        ("head_output", LinearLayer),
    )


def find_nvcc() -> str | None:
    """Path of nvcc; None where there is none."""
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def find_host_compiler() -> str | None:
    """Path of the C++ compiler; None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def build(architectures: tuple[int, ...], folder: Path) -> tuple[Path, str]:
    """The shared library for some compute capabilities, e.g. 87, and what the compiler says of each kernel's registers and memory.

    Raises subprocess.CalledProcessError, with the compiler's words in ``stderr``.
    """
    nvcc = find_nvcc()
    assert nvcc is not None
    library = folder / "libstar_cuda.so"
    targets = [word for arch in architectures for word in ("-gencode", f"arch=compute_{arch},code=sm_{arch}")]
    command = [nvcc, *FLAGS, "-t0", *targets, "-Xptxas", "-v", "-shared", "-o", str(library)]
    return library, _compile(command, (*MODEL, *LAYERED))


def build_emulated(folder: Path, sources: Sequence[Path]) -> Path:
    """``MODEL``, ``OPS``, ``LAYERS`` or ``LAYERED`` as a shared library that computes on the processor, in host memory; raises as :func:`build`."""
    compiler = find_host_compiler()
    assert compiler is not None
    library, emulator = folder / "libstar_emulated.so", HERE / "emulator"
    command = [compiler, *HOST_FLAGS, "-I", str(emulator), "-shared", "-o", str(library), "-x", "c++"]
    _compile(command, (*sorted(emulator.glob("*.cpp")), *sources))
    return library


def _compile(command: Sequence[str], sources: Sequence[Path]) -> str:
    return subprocess.run([*command, *map(str, sources)], capture_output=True, text=True, check=True).stderr


def load(path: Path) -> ctypes.CDLL:
    """The library with those functions declared that it has."""
    library, pointer = ctypes.CDLL(str(path)), c_void_p
    ops = {
        "segmented_positions": (pointer, pointer, pointer),
        "sparse_attention": (POINTER(c_uint64), pointer, pointer),
        "segmented_linear_attention": (c_float, pointer, pointer, pointer, pointer),
        "context_attention": (c_int32, pointer, pointer, pointer, pointer),
    }
    functions = {
        "workspace": (c_size_t, POINTER(Sizes)),
        "run": (c_int32, POINTER(Sizes), POINTER(Weights), pointer, pointer, pointer, pointer, pointer),
        "segmented_linear_attention_workspace": (c_size_t, POINTER(Shape)),
        "weights_size": (c_size_t, POINTER(Sizes)),
        "pack_weights": (c_int32, POINTER(Sizes), POINTER(c_int32), Tensor, pointer, pointer),
        "place_weights": (None, POINTER(Sizes), pointer, POINTER(Weights)),
        "layered_workspace": (c_size_t, POINTER(Layered), c_int32, c_int32),
        "layered_run": (c_int32, POINTER(Layered), c_int32, c_int32, *[pointer] * 5),
        "linear": (c_int32, POINTER(LinearLayer), c_int64, c_int32, pointer, c_int32, pointer, pointer),
        "residual_norm": (c_int32, c_int32, c_int64, c_int32, *[pointer] * 7),
        "embed": (c_int32, *[c_int32] * 5, *[pointer] * 7),
        **{name: (c_int32, POINTER(Shape), POINTER(Format), *own, pointer) for name, own in ops.items()},
    }
    for name, (result, *arguments) in functions.items():
        if (function := getattr(library, f"star_cuda_{name}", None)) is not None:
            function.restype, function.argtypes = result, arguments
    return library
