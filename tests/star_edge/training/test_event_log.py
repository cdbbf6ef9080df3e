"""TensorBoard's own reader finds what was appended, and a full disk takes nothing away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from star_edge.training.event_log import append_scalars, new_event_file


def scalars(path: Path) -> list[tuple[int, str, float]]:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    events = [Event.FromString(data) for data in RawEventFileLoader(str(path)).Load()]
    assert events[0].file_version == "brain.Event:2"
    return [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = new_event_file(tmp_path)
    append_scalars(path, 1, {"loss": 2.0, "accuracy/fit": 0.5})
    append_scalars(path, 2, {"loss": 1.5})
    assert scalars(path) == [(1, "loss", 2.0), (1, "accuracy/fit", 0.5), (2, "loss", 1.5)]


@pytest.mark.parametrize("room", [0, 1, 40])
def test_full_disk(tmp_path: Path, files_of_at_most: Callable[[int], Any], room: int) -> None:
    path = new_event_file(tmp_path)
    with files_of_at_most(room), pytest.raises(OSError, match=path.name):
        append_scalars(path, 1, {"loss": 2.0})
    assert not path.exists()
    append_scalars(path, 1, {"loss": 2.0})
    before = path.read_bytes()
    with files_of_at_most(len(before) + room), pytest.raises(OSError, match=path.name):
        append_scalars(path, 2, {"loss": 1.5})
    assert path.read_bytes() == before
