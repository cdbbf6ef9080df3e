"""``star-edge pack``: a bundle as one file, and back."""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from runtime.archive import CLIPS, LIST, MANIFEST, SBOM, PackedFile, PackedList, check_names
from runtime.bundle import REPORTS, Bundle
from runtime.errors import InputError, MismatchError
from runtime.files import write_atomic, write_folder_atomic
from runtime.manifest import Manifest
from runtime.sbom import sbom

_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a zip archive can say


def write_pack(bundle: Bundle, out: Path, *, clips: bytes | None = None, reports: bool = False) -> Bundle:
    """Write a bundle as one archive, read it back, and return it opened.

    Args:
        bundle: a bundle folder, opened.
        out: the file; one that is there is replaced in one step.
        clips: an ``.npz`` of clips to put beside the bundle's files, see :mod:`runtime.packed_clips`.
        reports: also put in the reports that were made from this bundle as it is.

    Raises InputError (already packed, reserved names), MismatchError (a file that changed), OSError.
    """
    write_atomic(out, pack_bytes(bundle, clips=clips, reports=reports))
    return Bundle.open(out)


def pack_bytes(bundle: Bundle, *, clips: bytes | None = None, reports: bool = False) -> bytes:
    """The archive's bytes, see :func:`write_pack`; the same bundle, clips and reports give the same bytes.

    Members are stored, not compressed: what a deflater makes differs with its version, and weights hardly shrink.
    """
    bundle.require_folder("pack")
    manifest = bundle.manifest
    check_names(manifest, bundle.path)
    files = {entry.path: bundle.read(name) for name, entry in manifest.files.items()}
    others = {} if clips is None else {CLIPS: clips}
    if reports:
        current = (report for report in bundle.reports() if report.current)
        others |= {f"{REPORTS}/{report.name}.json": report.data for report in current}
    bill = sbom(manifest, {name: hashlib.sha256(data).hexdigest() for name, data in others.items()})
    members = files | others | {MANIFEST: _manifest_bytes(bundle), SBOM: bill}
    return _zip(members | {LIST: _listing(manifest, members)})


def unpack(path: Path, out: Path) -> Bundle:
    """Make the folder of a packed bundle; all of it stands under ``out``, or nothing does.

    The list and the bill of materials, which the folder's manifest makes again, are left out.

    Raises InputError (not a packed bundle, damaged, or ``out`` exists), MismatchError (changed files), OSError.
    """
    archive = Bundle.open(path).archive
    if archive is None:
        raise InputError("not a packed bundle", where=path, found="a folder", expected="a file made by star-edge pack",
                         hint=f"star-edge inspect {path}")  # fmt: skip
    if out.exists() or out.is_symlink():
        raise InputError(
            "there is something in the way", where=out, expected="a name that is free", hint="choose one with --out"
        )
    if not out.parent.is_dir():
        raise InputError("no folder to unpack into", where=out.parent, hint=f"mkdir -p {out.parent}")

    def members() -> Iterator[tuple[str, bytes]]:
        for name in archive.names:
            if name != SBOM:
                yield name, archive.read(name)

    write_folder_atomic(out, members())
    return Bundle.open(out)


def _manifest_bytes(bundle: Bundle) -> bytes:
    """The manifest as it is on the disk, which must still be the one that was opened."""
    where = bundle.path / MANIFEST
    data = where.read_bytes()
    if Manifest.from_bytes(data, where) != bundle.manifest:
        raise MismatchError("the bundle was changed by another command meanwhile", where=where,
                            expected=f"bundle_id {bundle.manifest.bundle_id[:12]}", hint="run the command again")  # fmt: skip
    return data


def _listing(manifest: Manifest, members: Mapping[str, bytes]) -> bytes:
    files = {name: PackedFile(len(data), hashlib.sha256(data).hexdigest()) for name, data in members.items()}
    listing = PackedList(bundle_id=manifest.bundle_id, files=files)
    return msgspec.json.format(msgspec.json.encode(listing, order="deterministic"), indent=1) + b"\n"


def _zip(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.create_system = 3  # Unix, on every system: its attributes say "a regular file"
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, members[name])
    return buffer.getvalue()
