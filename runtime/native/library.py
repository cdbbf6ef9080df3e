"""``libstar_edge`` through ctypes: the part of the C interface that the ``native`` engine calls.

The structures, numbers and declarations repeat ``include/star_edge/star.h``, whose version is compared when it is loaded.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
from ctypes import POINTER, c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p
from functools import cache
from typing import Any

from runtime.errors import InputError, MismatchError, StarEdgeError
from runtime.native import library_path

ABI_VERSION = 1

# names of star_precision and star_isa, in the order of their numbers; the first one leaves the choice to the library
PRECISIONS = ("default", "fp32", "fp16", "bf16", "int8")
INSTRUCTION_SETS = ("auto", "portable", "avx2", "avx512", "neon")
CUDA_ISA = len(INSTRUCTION_SETS)  # behind those of processors

# by star_status; a status that is not here is a defect of the library
_ERRORS: dict[int, type[StarEdgeError]] = {
    1: InputError,  # STAR_INVALID_ARGUMENT
    2: MismatchError,  # STAR_IO
    3: InputError,  # STAR_BAD_FILE
    4: MismatchError,  # STAR_MISMATCH
    5: MismatchError,  # STAR_UNSUPPORTED
    6: MismatchError,  # STAR_OUT_OF_MEMORY
}
_MESSAGE = re.compile(r"(.*?)(?:; where: (.*?))?(?:; found: (.*?))?(?:; expected: (.*?))?(?:; next: (.*))?", re.DOTALL)


class Bytes(ctypes.Structure):
    """``star_bytes``; does not keep the bytes alive."""

    _fields_ = (("data", c_char_p), ("size", c_size_t))

    @classmethod
    def of(cls, data: bytes) -> Bytes:
        return cls(data, len(data))


class ModelInfo(ctypes.Structure):
    """``star_model_info``."""

    _fields_ = (
        ("joints", c_int64),
        ("channels", c_int64),
        ("classes", c_int64),
        ("dim", c_int64),
        ("heads", c_int64),
        ("layers", c_int64),
        ("precision", c_int),
        ("isa", c_int),
        ("products", c_char_p),
        ("storage", c_char_p),
        ("compute", c_char_p),
        ("bundle_id", c_char_p),
    )


# name -> result, arguments
_DECLARATIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "star_version": (c_char_p, ()),
    "star_abi_version": (c_int32, ()),
    "star_last_error": (c_char_p, ()),
    "star_instruction_sets": (c_char_p, ()),
    "star_products": (c_char_p, (c_int, c_int)),
    "star_model_load_bytes": (c_int, (Bytes, Bytes, Bytes, c_int, c_int, POINTER(c_void_p))),
    "star_model_free": (None, (c_void_p,)),
    "star_model_describe": (c_int, (c_void_p, POINTER(ModelInfo))),
    "star_model_module_precision": (c_char_p, (c_void_p, c_char_p)),
    "star_context_create": (c_int, (c_void_p, c_int32, POINTER(c_void_p))),
    "star_context_free": (None, (c_void_p,)),
    "star_context_threads": (c_int32, (c_void_p,)),
    "star_run": (c_int, (c_void_p, c_void_p, c_void_p, c_int64, c_void_p)),
}


@cache
def load_library() -> ctypes.CDLL:
    """The library with its functions declared; loaded once.

    Raises MismatchError when it is not there, cannot be loaded, or has another interface or version than this package.
    """
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _DECLARATIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise _misfit(
            "the native runtime cannot be loaded", path, error, "the library that was built with this package"
        ) from None
    found = f"{version(library)}, interface {library.star_abi_version()}"
    expected = f"{_package_version()}, interface {ABI_VERSION}"
    if found != expected:
        raise _misfit("the native runtime is of another version", path, found, expected)
    return library


def _misfit(what: str, path: object, found: object, expected: str) -> MismatchError:
    return MismatchError(what, where=path, found=found, expected=expected, hint="make native, or: pip install .")


def _package_version() -> str:
    try:
        return importlib.metadata.version("star-edge")
    except importlib.metadata.PackageNotFoundError:
        return "the version of an installed star-edge"


def version(library: ctypes.CDLL) -> str:
    """Version of the library."""
    return str(library.star_version().decode())


def instruction_sets(library: ctypes.CDLL) -> str:
    """Instruction sets of the library that this processor has, best first."""
    return str(library.star_instruction_sets().decode())


def products(library: ctypes.CDLL, precision: str) -> str:
    """Instruction that multiplies in a precision where the choice is the library's."""
    return str(library.star_products(PRECISIONS.index(precision), 0).decode())


def check(library: ctypes.CDLL, status: int) -> None:
    """Raise what a status other than STAR_OK says, in the parts of the library's message."""
    if status == 0:
        return
    message = library.star_last_error().decode(errors="replace")
    parts = _MESSAGE.fullmatch(message)
    assert parts is not None  # the pattern takes every text
    what, where, found, expected, hint = parts.groups()
    raise _ERRORS.get(status, StarEdgeError)(what, where=where, found=found, expected=expected, hint=hint)
