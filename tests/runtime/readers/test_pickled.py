"""Plain data from pickles: the same as unpickling gives, and nothing a file names is ever run."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import pickle
import pickletools
import tracemalloc
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InputError
from runtime.readers import pickled
from runtime.readers.pickled import PickledArray, parse_pickle, read_pickle

PROTOCOLS = (2, 3, 4, 5)
CONTENT = {
    "text": ["", "é", "\U0001f600" * 300, np.str_("numpy")],
    "numbers": (0, 255, 256, -1, 65536, 2**40, -(2**62), 1.5, True, False, None),
    "scalars": [np.float16(0.5), np.int64(-3), np.uint8(7), np.bool_(True), np.float64(1e300)],
    "bytes": [b"short", b"long" * 100],
    "half": np.random.default_rng(0).normal(size=(2, 3, 17, 2)).astype(np.float16),
    "by columns": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "big endian": np.arange(5, dtype=">i4"),
    "strided": np.arange(20, dtype=np.float32)[::2],
    "one": np.float32(3).reshape(1, 1),
    "nested": {"a": {"b": [[(), ((),)], [], {}]}},
}


def plain(value: Any) -> Any:
    """With arrays in place of PickledArray and bytes in place of views."""
    if isinstance(value, PickledArray):
        return value.array
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    return value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_same_as_unpickling(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(CONTENT, protocol))
    np.testing.assert_equal(plain(read_pickle(tmp_path / "x.pkl")), CONTENT)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_names_of_numpy_1_and_2(protocol: int) -> None:
    data = pickle.dumps(np.arange(3.0), protocol)
    old, new = data.replace(b"numpy._core", b"numpy.core"), data.replace(b"numpy.core", b"numpy._core")
    if protocol >= 4:  # names are preceded by their length; a frame's length is not used
        old = old.replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core").replace(b"\x8c\x13numpy.core", b"\x8c\x12numpy.core")
    for variant in (old, new):
        np.testing.assert_array_equal(plain(parse_pickle(variant)), np.arange(3.0))


def test_an_array_under_two_names_is_one() -> None:
    array = np.arange(3.0)
    value = parse_pickle(pickle.dumps([array, array], 4))
    assert value[0] is value[1]


def test_arrays_can_not_be_written_to_and_copy_nothing(tmp_path: Path) -> None:
    array = np.ones(4_000_000)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": array}, 4))
    tracemalloc.start()
    value = read_pickle(tmp_path / "x.pkl")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array.nbytes / 100
    with pytest.raises(ValueError, match="read-only"):
        value["a"].array[0] = 2


class Calls:
    """Pickles as a call of anything with any arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call

    def __call__(self) -> None:
        """Only what can be called may be pickled as a function."""


class Thing:
    """A class of its own, with state."""

    def __init__(self) -> None:
        self.state = 1


MARKER = Path("ran")
TRAPS: dict[str, Any] = {
    "os.system": Calls(os.system, f"touch {MARKER}"),
    "eval": Calls(eval, f"open('{MARKER}', 'w')"),
    "exec": Calls(exec, f"open('{MARKER}', 'w')"),
    "open": Calls(open, str(MARKER), "w"),
    "import": Calls(__import__, "os"),
    "getattr": Calls(getattr, Path, "touch"),
    "a call's result called": Calls(Calls(getattr, Path, "touch"), MARKER),
    "partial": partial(os.system, f"touch {MARKER}"),
    "touch": Calls(Path.touch, MARKER),
    "numpy.load": Calls(np.load, "x.npy", None, True),
    "numpy.save": Calls(np.save, str(MARKER), 1),
    "numpy.fromfile": Calls(np.fromfile, "/etc/hostname"),
    "numpy.testing": Calls(np.testing.assert_equal, 1, 2),
    "numpy.memmap": Calls(np.memmap, str(MARKER), "u1", "w+", 0, (1,)),
    "numpy.zeros": Calls(np.zeros, 10**12),
    "numpy.ndarray": Calls(np.ndarray, (10**12,)),
    "bytes": Calls(bytes, 10**12),
    "decode": Calls(codecs.decode, "rot", "rot13"),
    "encode otherwise": Calls(codecs.encode, "text", "zlib"),
    "a class": Thing(),
    "a class itself": Thing,
    "a function": os.getcwd,
    "a set": {1, 2},
    "a frozen set": frozenset({1}),
    "an ordered dict": OrderedDict(a=1),
    "a complex number": 1j,
    "objects": np.array([1, "a", None], dtype=object),
    "objects that are traps": np.array([Calls(os.system, f"touch {MARKER}")], dtype=object),
    "texts": np.array(["ab", "c"]),
    "fields": np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
    "dates": np.zeros(2, dtype="M8[s]"),
    "masked": np.ma.masked_array([1.0], [True]),
    "a large number": 2**64,
    "an empty array": np.zeros((0, 3)),
    "numbers as keys": {1: 2},
    "a tuple as key": {(1, 2): 3},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("trap", TRAPS)
def test_nothing_but_plain_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (TRAPS[trap], {"annotations": [TRAPS[trap]]}):
        data = pickle.dumps(content, protocol)
        with pytest.raises(InputError) as caught:
            parse_pickle(data, "x.pkl")
        assert str(caught.value.where).startswith("x.pkl, byte ")
        assert not MARKER.exists()


def test_protocol_of_text_is_refused() -> None:
    with pytest.raises(InputError):
        parse_pickle(pickle.dumps({"a": [1.5, "b"]}, 0))


@pytest.mark.parametrize("name", [np.dtype("f4"), np.ndarray])
def test_names_alone_are_no_data(name: Any) -> None:
    with pytest.raises(InputError):
        parse_pickle(pickle.dumps(name, 4))


def code(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
FLOAT = (
    b"cnumpy\ndtype\n" + short("f4") + b"\x89\x88\x87R(K\x03" + short("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
ARRAY = RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R"  # an array before its contents are set
TEXT = b"cnumpy\ndtype\n" + short("U1") + b"\x89\x88\x87R(K\x03" + short("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
CRAFTED = {
    "a letter that is none": code(b"cnumpy.core.multiarray\nscalar\n", TEXT, b"C\x04\xff\xff\xff\x7f\x86R"),
    "a dotted name": code(short("numpy"), short("core.multiarray._reconstruct"), b"\x93"),
    "a name by way of another": code(short("numpy.core.multiarray"), short("os.system"), b"\x93"),
    "a name out of an array": code(ARRAY, short("x"), b"\x93"),
    "extension registry": code(b"\x82\x01"),
    "a persistent id": code(short("x"), b"Q"),
    "a new object": code(NDARRAY, b")\x81"),
    "an instance": code(b"(ios\nsystem\n"),
    "an object": code(b"(", NDARRAY, b"o"),
    "the class called": code(NDARRAY, b"K\x01\x85\x85R"),
    "another class reconstructed": code(RECONSTRUCT, b"cnumpy\ndtype\n", b"K\x00\x85C\x01b\x87R"),
    "a huge array reconstructed": code(RECONSTRUCT, NDARRAY, b"J\xff\xff\xff\x7f\x85C\x01b\x87R"),
    "state set on a name": code(NDARRAY, b"}", short("__reduce__"), b"K\x01sb"),
    "state set on a list": code(b"]}b"),
    "attributes of an array": code(ARRAY, b"}", short("dtype"), b"K\x01sb"),
    "contents of another size": code(ARRAY, b"(K\x01K\x09\x85", FLOAT, b"\x89C\x08aaaaaaaatb"),
    "a negative size": code(ARRAY, b"(K\x01J\xff\xff\xff\xff\x85", FLOAT, b"\x89C\x08aaaaaaaatb"),
    "nothing a billion times": code(ARRAY, b"(K\x01K\x00J\xff\xff\xff\x7f\x86", FLOAT, b"\x89C\x00tb"),
    "a list as contents": code(ARRAY, b"(K\x01K\x02\x85", FLOAT, b"\x89]tb"),
    "a type of objects": code(b"cnumpy\ndtype\n", short("O8"), b"\x89\x88\x87R"),
    "a type by expression": code(b"cnumpy\ndtype\n", short("(1000000,)f8,O"), b"\x89\x88\x87R"),
    "a mark inside": code(b"(\x85"),
    "no mark": code(b"K\x01t"),
    "nothing": code(),
    "two values": code(b"K\x01K\x02"),
    "an unset memo": code(b"h\x05"),
    "half a dictionary": code(b"}(K\x01u"),
    "text that is none": code(b"\x8c\x02\xff\xfe"),
    "a surrogate": code(b"\x8c\x03\xed\xa0\x80"),
    "a name without end": b"\x80\x04c" + b"a" * 1000,
    "protocol 6": b"\x80\x06N.",
    "no stop": b"\x80\x04N",
    "empty": b"",
}


@pytest.mark.parametrize("crafted", CRAFTED)
def test_crafted_instructions(crafted: str) -> None:
    with pytest.raises(InputError):
        parse_pickle(CRAFTED[crafted])


def test_keys_are_never_hashed_deep() -> None:
    """Python's own unpickler dies of this one."""
    with pytest.raises(InputError, match="dictionary"):
        parse_pickle(code(b"}N", b"\x85" * 1_000_000, b"K\x01s"))


def test_deep_nesting_is_harmless() -> None:
    value = parse_pickle(code(b"N" + b"\x85" * 1_000_000))
    assert isinstance(value, tuple)


@pytest.mark.parametrize("codec", ["encode", "scalar"])
def test_one_piece_copied_again_and_again(codec: str) -> None:
    if codec == "encode":
        piece = b"c_codecs\nencode\n\x94X\x40\x42\x0f\x00" + b"a" * 1_000_000 + b"\x94" + short("latin1") + b"\x94\x86R"
        data = code(b"(", piece, b"h\x00h\x01h\x02\x86R" * 1000, b"l")
    else:
        text = (
            b"cnumpy\ndtype\n"
            + short("U999")
            + b"\x89\x88\x87R(K\x03"
            + short("<")
            + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        )
        piece = (
            b"cnumpy.core.multiarray\nscalar\n\x94"
            + text
            + b"\x94B"
            + (3996).to_bytes(4, "little")
            + b"a\0\0\0" * 999
            + b"\x94\x86R"
        )
        data = code(b"(", piece, b"h\x00h\x01h\x02\x86R" * 1000, b"l")
    tracemalloc.start()
    with pytest.raises(InputError, match="repeats"):
        parse_pickle(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * len(data)


def test_instructions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "_MAX_INSTRUCTIONS", 1000)
    with pytest.raises(InputError, match="too large"):
        parse_pickle(code(b"(", b"}" * 1000, b"l"))


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.pkl").touch()
    for name in ("empty.pkl", "absent.pkl", "."):
        with pytest.raises(InputError, match="cannot read the pickle"):
            read_pickle(tmp_path / name)


GOOD = [pickle.dumps({key: CONTENT[key] for key in ("text", "numbers", "half", "scalars", "nested")}, p) for p in PROTOCOLS]


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(GOOD), st.data())
def test_truncated_files_are_refused(good: bytes, data: st.DataObject) -> None:
    with pytest.raises(InputError):
        parse_pickle(good[: data.draw(st.integers(0, len(good) - 1))])


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    for start in (b"", b"\x80\x04"):
        with contextlib.suppress(InputError):
            parse_pickle(start + data)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(GOOD), st.data())
def test_mutated_files_are_read_or_refused(good: bytes, data: st.DataObject) -> None:
    mutated = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(mutated)))
        mutated[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    with contextlib.suppress(InputError):
        parse_pickle(bytes(mutated))


OPCODES = st.sampled_from(
    [op.code.encode("latin-1") for op in pickletools.opcodes] + [NDARRAY, RECONSTRUCT, FLOAT, ARRAY, short("<")]
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(OPCODES, st.binary(max_size=3)), max_size=30))
def test_any_instructions_are_read_or_refused(instructions: list[tuple[bytes, bytes]]) -> None:
    buffer = io.BytesIO()
    for operation, argument in instructions:
        buffer.write(operation + argument)
    with contextlib.suppress(InputError):
        parse_pickle(code(buffer.getvalue()))
