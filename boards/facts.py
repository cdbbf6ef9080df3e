"""A fact, and the TOML files that facts stand in."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec
import msgspec.toml

from runtime.errors import MismatchError

FOLDER = Path(__file__).parent
Confidence = Literal["S", "V", "D", "3P", "U"]
CONFIDENCE: tuple[Confidence, ...] = ("V", "S", "D", "3P", "U")  # surest first
Value = TypeVar("Value")
Document = TypeVar("Document", bound=msgspec.Struct)


class Fact(msgspec.Struct, Generic[Value], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value, where it was found, how sure it is (see :mod:`boards`), and what limits it."""

    value: Value
    source: str
    confidence: Confidence
    note: str = ""


def read_toml(path: Path, kind: type[Document]) -> Document:
    """A file of this package; MismatchError when the installation's is not what this version knows."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=kind)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise MismatchError(
            "a file of the installation is damaged",
            where=path,
            found=str(error),
            hint="pip install --force-reinstall star-edge",
        ) from None
