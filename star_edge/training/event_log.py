"""TensorBoard's event files, written at once: a disk that is full is an error of the call, not of a thread."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path


def new_event_file(folder: Path) -> Path:
    """A name in ``folder`` that TensorBoard looks for."""
    return folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"


def append_scalars(path: Path, step: int, values: Mapping[str, float]) -> None:
    """Append the scalars of a step to an event file, made if absent; on failure it is as before, and OSError names it."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    size = path.stat().st_size if path.exists() else 0
    records = io.BytesIO()
    writer = RecordWriter(records)
    if not size:
        writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
    scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    writer.write(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)).SerializeToString())
    try:
        with path.open("ab") as file:
            file.write(records.getvalue())
    except OSError as error:
        if size:
            os.truncate(path, size)
        else:
            path.unlink(missing_ok=True)
        error.filename = str(path)
        raise
