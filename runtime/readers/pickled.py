"""Plain data and numpy arrays from a pickle, without unpickling: nothing that a file names is imported or called.

Python's unpickler calls what the file tells it to. Here the few instructions that ``pickle.dump`` writes for dicts, lists,
tuples, numbers, text and numpy arrays (protocols 2 to 5) are interpreted; any other instruction, and any name but the handful
numpy writes for its arrays, is refused. The names are labels to this reader, never looked up. Arrays stay views of the
mapped file, so that memory holds the structure of a file and not its joints.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import InputError

_MAX_INSTRUCTIONS = 25_000_000  # NTU-120 has some ten million; bounds time, and memory to a few gigabytes
_MAX_NAME = 100  # characters of a module's or function's name
_MAX_INTEGER = 8  # bytes
_MAX_AXES = 8
_NUMBERS = re.compile(r"[<>|=]?(?:b1|f[248]|[iu][1248]|U\d{1,4})")


class _Name(Enum):
    """What a pickle may name; the numpy modules were renamed in numpy 2."""

    RECONSTRUCT = "multiarray._reconstruct"
    SCALAR = "multiarray.scalar"
    FROM_BUFFER = "numeric._frombuffer"
    ARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    ENCODE = "_codecs.encode"


_NAMES = {f"numpy.{core}.{name.value}": name for core in ("core", "_core") for name in list(_Name)[:3]} | {
    name.value: name for name in list(_Name)[3:]
}


@dataclass
class _Type:
    """A dtype: its letter code, then its byte order when the state is set."""

    code: str
    dtype: np.dtype | None = None


@dataclass
class PickledArray:
    """An array of the file; ``array`` is read-only. ``None`` only in a file that never sets its contents."""

    array: np.ndarray | None = None


class _Refused(Exception):
    def __init__(self, what: str, found: object, expected: object) -> None:
        self.what, self.found, self.expected = what, found, expected


_MARK = object()


def read_pickle(path: str | Path) -> Any:
    """The plain data of a pickle file: dict, list, tuple, str, int, float, bool, None, a memoryview for bytes and a
    PickledArray for each array.

    Raises InputError, with the byte where it stands, for a damaged file and for anything that is not plain data: other
    names, object arrays, sets, integers beyond 64 bit. Never runs anything from the file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise InputError("cannot read the pickle", where=path, found=error, expected="a file that is not empty") from None
    return parse_pickle(memoryview(data), str(path))


def parse_pickle(data: bytes | memoryview, where: str = "pickle") -> Any:
    """:func:`read_pickle` for the bytes of a file; ``where`` stands in error messages."""
    machine = _Machine(memoryview(data).toreadonly())
    try:
        return machine.run()
    except _Refused as error:
        raise InputError(error.what, where=f"{where}, byte {machine.instruction}", found=error.found,
                         expected=error.expected) from None  # fmt: skip
    except (struct.error, IndexError, KeyError, UnicodeError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise InputError("pickle is damaged", where=f"{where}, byte {machine.instruction}", found=type(error).__name__,
                         expected="a whole pickle of protocol 2 to 5") from None  # fmt: skip


class _Machine:
    """A stack, a memo and a position in the file: the pickle machine without its means to run code.

    Attributes:
        instruction: where the instruction being read begins.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = self.instruction = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def run(self) -> Any:
        for _ in range(_MAX_INSTRUCTIONS):
            self.instruction = self._at
            code = self._take(1)[0]
            if code == _STOP:
                return self._finish()
            action = _ACTIONS.get(code)
            if action is None:
                raise _Refused("pickle does more than hold data", f"instruction {bytes([code])!r}", _PLAIN)
            action(self)
        raise _Refused("pickle is too large", f"over {_MAX_INSTRUCTIONS} instructions", "one data set")

    def _finish(self) -> Any:
        (value,) = self._stack
        if isinstance(value, (_Name, _Type)) or value is _MARK:
            raise _Refused("pickle holds no data", type(value).__name__, _PLAIN)
        return value

    def _take(self, count: int) -> memoryview:
        if not 0 <= count <= len(self._data) - self._at:
            raise _Refused("pickle is truncated", f"{len(self._data) - self._at} bytes left", f"{count} bytes")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def counted(self, layout: str) -> memoryview:
        return self._take(self.number(layout))

    def text(self, layout: str) -> None:
        self._stack.append(str(self.counted(layout), "utf-8"))

    def integer(self, layout: str) -> None:
        size = self.number(layout)
        if not 0 <= size <= _MAX_INTEGER:
            raise _Refused("integer is too large", f"{size} bytes", f"at most {_MAX_INTEGER} bytes")
        self._stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def line(self) -> str:
        end = self._at
        while end < min(len(self._data), self._at + _MAX_NAME) and self._data[end] != 10:
            end += 1
        text = str(self._take(end - self._at), "ascii")
        self._take(1)
        return text

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise _Refused("pickle is damaged", "a mark where a value belongs", _PLAIN)
        return value

    def since_mark(self) -> list[Any]:
        for start in range(len(self._stack) - 1, -1, -1):
            if self._stack[start] is _MARK:
                values = self._stack[start + 1 :]
                del self._stack[start:]
                return values
        raise _Refused("pickle is damaged", "no mark", _PLAIN)

    def top(self, kind: type) -> Any:
        value = self._stack[-1]
        if type(value) is not kind:
            raise _Refused("pickle is damaged", type(value).__name__, kind.__name__)
        return value

    def pack(self, count: int) -> None:
        values = tuple(self.pop() for _ in range(count))[::-1]
        self._stack.append(values)

    def extend(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def update(self, values: list[Any]) -> None:
        target = self.top(dict)
        keys = values[::2]
        # a key is hashed: nested tuples, a million deep, would end the process
        if len(values) % 2 or any(type(key) is not str for key in keys):
            raise _Refused("dictionary is not plain", "a key of another type, or no value", "text as keys")
        target.update(zip(keys, values[1::2], strict=True))

    def remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def recall(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def name(self, module: object, name: object) -> None:
        known = _NAMES.get(f"{module}.{name}") if isinstance(module, str) and isinstance(name, str) else None
        if known is None:
            raise _Refused(
                "pickle names something to run or to make; star-edge does not run code from files",
                f"{module!s:.60}.{name!s:.60}"
                if isinstance(module, str) and isinstance(name, str)
                else "a name made up of objects",
                _PLAIN,
            )
        self._stack.append(known)

    def reduce(self) -> None:
        """A name applied to arguments; only the shapes that numpy writes are taken."""
        arguments, name = self.pop(), self.pop()
        if type(arguments) is not tuple or not isinstance(name, _Name):
            raise _Refused("pickle calls something", type(name).__name__, _PLAIN)
        self._stack.append(_CALLS[name](self, *arguments) if name in _CALLS else self._refuse_call(name))

    def _refuse_call(self, name: _Name) -> Any:
        raise _Refused("pickle calls something", name.value, _PLAIN)

    def reconstruct(self, kind: object, shape: object, _code: object) -> PickledArray:
        if kind is not _Name.ARRAY or shape != (0,):
            raise _Refused("array is not plain", "another class or shape", "numpy.ndarray")
        return PickledArray()

    def dtype(self, code: object, *_flags: object) -> _Type:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            found = "Python objects" if isinstance(code, str) and code.startswith("O") else f"type {code!s:.20}"
            raise _Refused("array does not hold numbers", found, "an array of integers or floats")
        return _Type(code, np.dtype(code))

    def scalar(self, kind: object, raw: object) -> Any:
        dtype = self._dtype_of(kind)
        self._spend(dtype.itemsize)
        if not isinstance(raw, (bytes, memoryview)) or len(raw) != dtype.itemsize or not len(raw):
            raise _Refused("number is damaged", type(raw).__name__, f"{dtype.itemsize} bytes")
        if dtype.kind == "U":  # numpy takes numbers for letters that no text has
            return str(raw, f"utf-32-{'be' if dtype.str[0] == '>' else 'le'}").rstrip("\0")
        return np.frombuffer(raw, dtype)[0].item()

    def from_buffer(self, raw: object, kind: object, shape: object, order: object) -> PickledArray:
        return PickledArray(self._array(raw, kind, shape, order == "F"))

    def encode(self, text: object, codec: object) -> bytes:
        """How protocol 2 writes bytes."""
        if not isinstance(text, str) or codec != "latin1":
            raise _Refused("pickle calls something", _Name.ENCODE.value, _PLAIN)
        self._spend(len(text))
        return text.encode("latin-1")

    def build(self) -> None:
        """The contents of a dtype or an array; everything else has none."""
        state, target = self.pop(), self._stack[-1]
        if type(state) is not tuple:
            raise _Refused("pickle sets what is not data", type(state).__name__, _PLAIN)
        if isinstance(target, PickledArray):
            _version, shape, kind, by_columns, raw = state
            target.array = self._array(raw, kind, shape, bool(by_columns))
        elif isinstance(target, _Type):
            _version, order, *fields = state
            if order not in ("<", ">", "|", "=") or any(field is not None for field in fields[:3]):
                raise _Refused("array does not hold numbers", "fields", "an array of integers or floats")
            target.dtype = np.dtype(target.code).newbyteorder(order)
        else:
            raise _Refused("pickle sets what is not data", type(target).__name__, _PLAIN)

    def _array(self, raw: object, kind: object, shape: object, by_columns: bool) -> np.ndarray:
        dtype = self._dtype_of(kind)
        if dtype.kind == "U":
            raise _Refused("array does not hold numbers", "text", "an array of integers or floats")
        if not isinstance(raw, (bytes, memoryview)):
            raise _Refused("array is not plain", type(raw).__name__, "bytes")
        if type(shape) is not tuple or len(shape) > _MAX_AXES or not all(type(n) is int and n >= 0 for n in shape):
            raise _Refused("array has no usable shape", f"{shape!s:.60}" if _flat(shape) else "no numbers", "whole numbers")
        if not len(raw):
            raise _Refused("array is empty", f"shape {shape}", "at least one number")
        return np.frombuffer(raw, dtype).reshape(shape, order="F" if by_columns else "C")

    @staticmethod
    def _dtype_of(kind: object) -> np.dtype:
        if not isinstance(kind, _Type) or kind.dtype is None:
            raise _Refused("array does not hold numbers", type(kind).__name__, "a numpy type of numbers")
        return kind.dtype

    def _spend(self, count: int) -> None:
        """Count what is copied: each byte of a true file is copied once, a bomb copies one piece a million times."""
        self._copied += count
        if self._copied > len(self._data):
            raise _Refused("pickle repeats its contents", f"{self._copied} bytes", f"at most {len(self._data)} bytes")


def _flat(shape: object) -> bool:
    return type(shape) is tuple and all(type(n) is int for n in shape[: _MAX_AXES + 1])


_PLAIN = "dicts, lists, tuples, numbers, text and numpy arrays of numbers"
_CALLS: dict[_Name, Callable[..., Any]] = {
    _Name.RECONSTRUCT: _Machine.reconstruct,
    _Name.SCALAR: _Machine.scalar,
    _Name.FROM_BUFFER: _Machine.from_buffer,
    _Name.DTYPE: _Machine.dtype,
    _Name.ENCODE: _Machine.encode,
}


def _protocol(machine: _Machine) -> None:
    protocol = machine.number("B")
    if not 2 <= protocol <= 5:
        raise _Refused("pickle of an unknown protocol", protocol, "2 to 5")


def _name_of_stack(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.update([key, value])


_STOP = ord(".")
# letters and their meaning: pickletools of the standard library
_INSTRUCTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": _protocol,
    b"\x95": lambda machine: machine.number("<Q"),  # a frame says how much to read at once: no meaning here
    b"(": lambda machine: machine.push(_MARK),
    b"0": lambda machine: machine.pop(),
    b"1": lambda machine: machine.since_mark(),
    b"N": lambda machine: machine.push(None),
    b"\x88": lambda machine: machine.push(True),
    b"\x89": lambda machine: machine.push(False),
    b"J": lambda machine: machine.push(machine.number("<i")),
    b"K": lambda machine: machine.push(machine.number("<B")),
    b"M": lambda machine: machine.push(machine.number("<H")),
    b"\x8a": lambda machine: machine.integer("<B"),
    b"\x8b": lambda machine: machine.integer("<i"),
    b"G": lambda machine: machine.push(machine.number(">d")),
    b"\x8c": lambda machine: machine.text("<B"),
    b"X": lambda machine: machine.text("<I"),
    b"\x8d": lambda machine: machine.text("<Q"),
    b"C": lambda machine: machine.push(machine.counted("<B")),
    b"B": lambda machine: machine.push(machine.counted("<I")),
    b"\x8e": lambda machine: machine.push(machine.counted("<Q")),
    b"\x96": lambda machine: machine.push(machine.counted("<Q")),
    b"]": lambda machine: machine.push([]),
    b"a": lambda machine: machine.extend([machine.pop()]),
    b"e": lambda machine: machine.extend(machine.since_mark()),
    b"l": lambda machine: machine.push(machine.since_mark()),
    b"}": lambda machine: machine.push({}),
    b"s": _item,
    b"u": lambda machine: machine.update(machine.since_mark()),
    b")": lambda machine: machine.push(()),
    b"t": lambda machine: machine.push(tuple(machine.since_mark())),
    b"\x85": lambda machine: machine.pack(1),
    b"\x86": lambda machine: machine.pack(2),
    b"\x87": lambda machine: machine.pack(3),
    b"q": lambda machine: machine.remember(machine.number("<B")),
    b"r": lambda machine: machine.remember(machine.number("<I")),
    b"\x94": lambda machine: machine.remember(len(machine._memo)),
    b"h": lambda machine: machine.recall(machine.number("<B")),
    b"j": lambda machine: machine.recall(machine.number("<I")),
    b"c": lambda machine: machine.name(machine.line(), machine.line()),
    b"\x93": _name_of_stack,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}
_ACTIONS = {key[0]: action for key, action in _INSTRUCTIONS.items()}
