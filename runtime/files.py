"""Files that are whole or absent: atomic writes, and the hash that says what is in one."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

_CHUNK = 1 << 20
_TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.[0-9a-f]{8}\.tmp")


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the new one, never a part.

    A temporary beside the target is written, flushed to the disk and renamed into place; on any error it is removed
    and the old file stays. Temporaries of this target that a killed process left are cleared away. The folder must exist.
    """
    path = Path(path)
    _remove_abandoned(path)
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk does not say which file; the temporary's name says nothing to users
        raise
    _flush_folder(path.parent)


def write_folder_atomic(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Make the folder ``path`` with all of ``files``, or leave nothing.

    The files, given by relative name, are written into a temporary folder beside ``path``, which is renamed when all are
    on the disk; on any error, also one of the iterable, it is removed. OSError when ``path`` exists and is not empty.
    What a killed process left is cleared away as by :func:`write_atomic`.
    """
    path = Path(path)
    _remove_abandoned(path)
    temporary = _temporary(path)
    try:
        temporary.mkdir()
        for name, data in files:
            target = temporary / name
            target.parent.mkdir(exist_ok=True)
            write_atomic(target, data)
        temporary.rename(path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    _flush_folder(path.parent)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder in the system's place for temporary files, removed at the end; an OSError that names no file names it."""
    with tempfile.TemporaryDirectory(prefix="star-edge-") as folder:
        try:
            yield Path(folder)
        except OSError as error:
            error.filename = error.filename or folder
            raise


def abandoned_target(name: str) -> str | None:
    """The name that a killed process was writing, when ``name`` is that of its temporary; else None."""
    match = _TEMPORARY.fullmatch(name)
    return match[1] if match and not _runs(int(match[2])) else None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _temporary(path: Path) -> Path:
    """A free name beside ``path`` that says which process writes it."""
    return path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")


def _remove_abandoned(path: Path) -> None:
    """Remove the temporaries of ``path`` whose process is gone."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if abandoned_target(temporary.name) != path.name:
            continue
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _runs(pid: int) -> bool:
    """Whether another process has this number. Our own number was a killed process's: in a container they come again."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def _flush_folder(folder: Path) -> None:
    """Make a rename durable; some file systems cannot, and the rename has happened all the same."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
