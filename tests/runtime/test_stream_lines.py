"""Streams as JSON lines: what comes out equals the stream's results, and a bad line is named."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import star_edge
from runtime.errors import InputError
from runtime.stream_lines import recognise_lines
from runtime.streaming import Stream


@pytest.fixture
def stream(tiny_bundle: Path) -> Stream:
    return Stream(star_edge.load(tiny_bundle, engine="onnxruntime", threads=1), window=4, hop=2)


def frame(seed: int, *ids: Any, **fields: Any) -> bytes:
    rng = np.random.default_rng(seed)
    persons = [{"id": i, "joints": rng.normal(size=(15, 3)).round(3).tolist()} for i in ids]
    return json.dumps({"persons": persons, **fields}).encode() + b"\n"


def test_results_equal_those_of_the_stream(stream: Stream, tiny_bundle: Path) -> None:
    lines = [frame(step, 1, "two", t=step / 10) if step % 3 else frame(step, "two") for step in range(9)]
    found = list(recognise_lines(io.BytesIO(b"\n".join(lines)), stream, "input"))
    other = Stream(star_edge.load(tiny_bundle, engine="onnxruntime", threads=1), window=4, hop=2)
    expected = []
    for line in lines:
        persons = json.loads(line)["persons"]
        result = other.push([(person["id"], np.array(person["joints"], np.float32)) for person in persons])
        if result:
            expected.append(result)
    assert len(found) == len(expected) == 4
    assert [line.t for line in found] == [0.1, None, 0.5, 0.7]
    for line, result in zip(found, expected, strict=True):
        assert result.prediction is not None
        assert (line.frame, line.rows, line.persons) == (result.frame, result.rows, result.persons)
        assert (line.name, line.confidence) == (result.prediction.name, result.prediction.confidence)


def test_a_hop_without_anybody_has_a_line_without_a_label(stream: Stream) -> None:
    found = list(recognise_lines(io.BytesIO(b'{"persons":[]}\n' * 2), stream, "input"))
    assert [(line.frame, line.persons, line.label, line.name) for line in found] == [(2, (), None, None)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"no json\n", "not a frame"),
        (b'{"persons": [{"id": 1}]}\n', "not a frame"),
        (b'{"persons": [{"id": 1, "joints": [[1, 2]]}]}\n', "not a frame"),
        (b'{"persons": [{"id": 1, "joints": [[1, 2, NaN]]}]}\n', "not a frame"),
        (b'{"persons": [{"id": 1.5, "joints": []}]}\n', "not a frame"),
        (b"\xff\xfe\n", "not a frame"),
        (b"[" * 100_000 + b"\n", "not a frame"),
        (b'{"persons": [{"id": 1, "joints": [[1, 2, 3]]}]}\n', "wrong joint count"),
        (b'{"persons": [{"id": 1, "joints": [%s]}]}\n' % b",".join([b"[1e39,0,0]"] * 15), "NaN or infinity"),
        (frame(0, 1, 1), "appears twice"),
        (b" " * (4 << 20), "line too long"),
    ],
)
def test_bad_line_is_named(stream: Stream, line: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        list(recognise_lines(io.BytesIO(frame(0, 1) + b"\n" + line), stream, "input"))
    assert "input, line 3" in (caught.value.where or "")
