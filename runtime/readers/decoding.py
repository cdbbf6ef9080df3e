"""What numpy and msgspec raise for bytes that are not the array file or JSON document they claim to be."""

from __future__ import annotations

import lzma
import struct
import tokenize
import zipfile
import zlib

import msgspec

DECODE_ERRORS: tuple[type[Exception], ...] = (
    ValueError, EOFError, OSError, MemoryError, OverflowError,  # npy: header, size, file
    SyntaxError, tokenize.TokenError, TypeError, KeyError, IndexError, AttributeError,  # npy: header taken for a Python literal
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, NotImplementedError, RuntimeError,  # npz: the archive
)  # fmt: skip
JSON_ERRORS: tuple[type[Exception], ...] = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def reason_of(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none, or only a key that was not found."""
    if isinstance(error, KeyError):
        return f"no key {error}"
    return (str(error).splitlines() or [type(error).__name__])[0]
