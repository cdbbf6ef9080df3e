"""Reading ``NAME.star.zip``, a bundle in one file: nothing in it is believed before it is checked, nothing is written.

The archive holds the files of the bundle under their own names, ``sbom.cdx.json``, optionally ``clips.npz`` and
``reports/*.json``, and ``packed.json``, the list of all of them with sizes and hashes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from runtime.errors import InputError, MismatchError
from runtime.manifest import Manifest, check_schema
from runtime.readers.decoding import DECODE_ERRORS, JSON_ERRORS, reason_of

SCHEMA = "star-edge/packed/1"
SUFFIX = ".star.zip"
LIST, SBOM, CLIPS, MANIFEST = "packed.json", "sbom.cdx.json", "clips.npz", "manifest.json"
RESERVED = (LIST, SBOM, CLIPS, MANIFEST)

# what a reader takes at most; a writer stays far below
_ENTRIES = 256
_LIMITS = {LIST: 1 << 20, MANIFEST: 16 << 20}
_RATIO = 100  # bytes of all files together for one byte of the archive
_LOCAL_HEADER, _END = 30, 22  # bytes of records, without names and comments
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # traditional, strong, hidden names
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_NAME = re.compile(rf"(reports/)?{_PLAIN}")
_REPORT = re.compile(rf"reports/{_PLAIN}\.json")
_AGAIN = "copy the file again, or make it again with star-edge pack"


class PackedFile(msgspec.Struct, frozen=True):
    """Size and hash of one file in the archive."""

    bytes: int
    sha256: str


class PackedList(msgspec.Struct, frozen=True, kw_only=True):
    """``packed.json``: every other file of the archive by name, and the bundle they make."""

    bundle_id: str
    files: dict[str, PackedFile]
    schema: str = SCHEMA


class Archive:
    """A packed bundle whose directory was checked. It keeps no file open; each member is read into memory when asked for.

    Attributes:
        path: the file.
        listing: what ``packed.json`` says.
    """

    def __init__(self, path: Path, listing: PackedList) -> None:
        self.path, self.listing = path, listing

    @classmethod
    def open(cls, path: Path) -> Archive:
        """Check the directory of an archive and read its list.

        Raises:
            InputError: no archive, truncated, or with an entry that no packed bundle has: a path that leaves the folder, a
                link, a name twice, encryption, more bytes than the list or the limits allow.
            MismatchError: a newer schema; a size that is not the listed one.
        """
        with _opened(path) as archive:
            _check_directory(archive, path)
            data = _member(archive, path, LIST, _LIMITS[LIST])
            check_schema(data, SCHEMA, path / LIST)
            listing = _decode(data, path)
            _check_listing(archive, listing, path)
        return cls(path, listing)

    def __contains__(self, name: str) -> bool:
        return name in self.listing.files

    @property
    def names(self) -> tuple[str, ...]:
        """Every file but the list itself, sorted."""
        return tuple(sorted(self.listing.files))

    def read(self, name: str) -> bytes:
        """Bytes of a listed file; MismatchError when they are not the listed ones, InputError when they cannot be read."""
        entry = self.listing.files[name]
        with _opened(self.path) as archive:
            data = _member(archive, self.path, name, entry.bytes)
        digest = hashlib.sha256(data).hexdigest()
        if (len(data), digest) != (entry.bytes, entry.sha256):
            raise _changed(self.path / name, f"{len(data)} bytes, SHA-256 {digest}", f"{entry.bytes} bytes, {entry.sha256}")
        return data

    def check(self, manifest: Manifest) -> None:
        """Raise unless the archive holds the manifest's files, as the manifest has them, and nothing unknown beside them."""
        check_names(manifest, self.path)
        files = {entry.path: PackedFile(entry.bytes, entry.sha256) for entry in manifest.files.values()}
        for name, expected in files.items():
            found = self.listing.files.get(name)
            if found != expected:
                said = f"{found.bytes} bytes, SHA-256 {found.sha256}" if found else "no such file"
                raise _changed(self.path / name, said, f"{expected.bytes} bytes, {expected.sha256}")
        for name in self.names:
            if name not in files and name not in RESERVED and not _REPORT.fullmatch(name):
                raise _refused("the archive holds a file that is not in the manifest", self.path, name, "the manifest's files")
        if self.listing.bundle_id != manifest.bundle_id:
            raise MismatchError("list and manifest are of different bundles", where=self.path / LIST,
                                found=f"bundle_id {self.listing.bundle_id[:12]}", expected=manifest.bundle_id[:12],
                                hint=_AGAIN)  # fmt: skip


def check_names(manifest: Manifest, where: Path) -> None:
    """Raise InputError when a file of the bundle has a name that means something else in a packed one."""
    taken = [entry.path for entry in manifest.files.values() if entry.path in RESERVED]
    if taken:
        raise InputError("a file of the bundle has a reserved name", where=where, found=taken[0],
                         expected=f"none of {', '.join(RESERVED)}", hint="export the bundle again")  # fmt: skip


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive for reading; whatever the format's decoders raise inside becomes an InputError."""
    with path.open("rb") as file:
        begins_as_zip = file.read(2) == b"PK"
        try:
            _check_end(file)
            with zipfile.ZipFile(file) as archive:
                yield archive
        except DECODE_ERRORS as error:
            raise InputError(
                "the packed bundle is damaged or truncated" if begins_as_zip else "not a bundle",
                where=path,
                found=reason_of(error),
                expected=f"a NAME.star folder, or a NAME{SUFFIX} made by star-edge pack",
                hint=_AGAIN,
            ) from None


def _check_end(file: BinaryIO) -> None:
    """Raise unless the file ends with an archive's end record: zipfile would take that of a member in a truncated one."""
    file.seek(-min(_END, file.seek(0, os.SEEK_END)), os.SEEK_END)
    end = file.read()
    if len(end) < _END or not end.startswith(b"PK\5\6") or end[-2:] != b"\0\0":
        raise zipfile.BadZipFile("no end record at the end of the file")


def _check_directory(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise InputError for an entry that must not be read, before anything is."""
    entries, size = archive.infolist(), path.stat().st_size
    if len(entries) > _ENTRIES:
        raise _refused("the archive holds too many files", path, len(entries), f"at most {_ENTRIES}")
    for entry in entries:
        _check_entry(entry, path)
    folded = [entry.filename.casefold() for entry in entries]
    twice = sorted({name for name in folded if folded.count(name) > 1})
    if twice:
        raise _refused("the archive holds a file twice", path, twice[0], "every name once")
    if LIST not in archive.namelist():
        raise _refused("not a bundle: an archive without its list", path, ", ".join(sorted(archive.namelist())[:5]) or "nothing",
                       LIST)  # fmt: skip
    total = sum(entry.file_size for entry in entries)
    if total > _RATIO * size:
        raise _refused(
            "the archive would grow too large", path, f"{total} bytes out of {size}", f"at most {_RATIO} times as many"
        )
    _check_layout(entries, archive.start_dir, path)


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
    if not _NAME.fullmatch(name) or name != entry.filename:
        raise _refused(
            "the archive holds a path that is not a plain file name", path, ascii(name), "names such as model.fp32.onnx"
        )
    if kind not in (0, stat.S_IFREG):
        what = "a link" if kind == stat.S_IFLNK else "something that is no file"
        raise _refused(f"the archive holds {what}", path, f"{name}, type {kind:o}", "regular files")
    if entry.flag_bits & _ENCRYPTED:
        raise _refused("the archive is encrypted", path, name, "no encryption", "decrypt it, or copy the bundle's folder")
    if entry.compress_type not in _METHODS:
        raise _refused("the archive is compressed in an unknown way", path, f"{name}, method {entry.compress_type}",
                       "stored or deflated")  # fmt: skip


def _check_layout(entries: list[zipfile.ZipInfo], end: int, path: Path) -> None:
    """Entries that share bytes unfold to more than the archive holds; none may reach into the next."""
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    ends = [*(entry.header_offset for entry in ordered[1:]), end]
    for entry, limit in zip(ordered, ends, strict=True):
        needed = entry.header_offset + _LOCAL_HEADER + len(entry.filename) + entry.compress_size
        if needed > limit:
            raise _refused("entries of the archive overlap", path, f"{entry.filename} ends at {needed}", f"at most {limit}")


def _decode(data: bytes, path: Path) -> PackedList:
    try:
        return msgspec.json.decode(data, type=PackedList)
    except JSON_ERRORS as error:
        raise _refused("cannot read the archive's list", path / LIST, error, SCHEMA) from None


def _check_listing(archive: zipfile.ZipFile, listing: PackedList, path: Path) -> None:
    """The list and the directory must name the same files with the same sizes."""
    held = {entry.filename: entry.file_size for entry in archive.infolist() if entry.filename != LIST}
    unknown, missing = sorted(held.keys() - listing.files), sorted(listing.files.keys() - held)
    if unknown:
        raise _refused(
            "the archive holds a file that its list does not name", path, unknown[0], ", ".join(sorted(listing.files))
        )
    if missing:
        raise MismatchError("the archive lacks a file of its list", where=path, found="no such file", expected=ascii(missing[0]),
                            hint=_AGAIN)  # fmt: skip
    if MANIFEST not in held:
        raise _refused("not a bundle: an archive without a manifest", path, ", ".join(sorted(held)), MANIFEST)
    for name, entry in listing.files.items():
        if held[name] != entry.bytes:
            raise _changed(path / name, f"{held[name]} bytes", f"{entry.bytes} bytes")
        if entry.bytes > _LIMITS.get(name, entry.bytes):
            raise _refused(f"{name} is too large to be one", path, f"{entry.bytes} bytes", f"at most {_LIMITS[name]}")


def _member(archive: zipfile.ZipFile, path: Path, name: str, limit: int) -> bytes:
    """A member's bytes; it is never unfolded beyond one byte more than ``limit``, whatever its headers claim."""
    with archive.open(name) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise _refused(f"{name} is larger than it may be", path, f"more than {limit} bytes", f"{limit} bytes")
    return data


def _refused(what: str, where: object, found: object, expected: object, hint: str = _AGAIN) -> InputError:
    return InputError(what, where=where, found=found, expected=expected, hint=hint)


def _changed(where: Path, found: object, expected: object) -> MismatchError:
    return MismatchError(
        f"{where.name} is not the file the bundle was made with", where=where, found=found, expected=expected, hint=_AGAIN
    )
