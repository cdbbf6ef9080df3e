import hashlib
import os
from pathlib import Path

import pytest

from runtime.files import sha256_of, write_atomic, write_folder_atomic

NO_PROCESS = 2**22 + 1  # above the largest number that Linux gives to a process


def test_replaces_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new content")
    assert path.read_bytes() == b"new content"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_full_disk_keeps_the_old_file_and_leaves_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("number", [NO_PROCESS, 2**80, os.getpid()], ids=["dead", "impossible", "our own, used again"])
def test_temporaries_of_killed_processes_are_cleared_away(tmp_path: Path, number: int) -> None:
    (tmp_path / f".a.bin.{number}.0123abcd.tmp").write_bytes(b"half")
    (tmp_path / f".b.{number}.0123abcd.tmp" / "splits").mkdir(parents=True)
    (tmp_path / f".b.{number}.0123abcd.tmp" / "splits" / "c").write_bytes(b"half")
    write_atomic(tmp_path / "a.bin", b"whole")
    write_folder_atomic(tmp_path / "b", [("splits/c", b"whole")])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.bin", "b"]
    assert [entry.name for entry in (tmp_path / "b" / "splits").iterdir()] == ["c"]


def test_what_is_not_ours_to_clear_away_stays(tmp_path: Path) -> None:
    """Temporaries of a running process and of other targets, and files that only look alike."""
    names = [
        f".a.bin.{os.getppid()}.0123abcd.tmp",
        f".b.bin.{NO_PROCESS}.0123abcd.tmp",
        f".a.bin.old.{NO_PROCESS}.0123abcd.tmp",
        ".a.bin.mine.tmp",
        f"a.bin.{NO_PROCESS}.0123abcd.tmp",
    ]
    for name in names:
        (tmp_path / name).touch()
    write_atomic(tmp_path / "a.bin", b"whole")
    write_folder_atomic(tmp_path / "[ab].bin", [])  # a name is no pattern
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([*names, "a.bin", "[ab].bin"])


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 3])
def test_sha256_equals_hashlib_across_chunks(tmp_path: Path, size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()
