"""Bundles (``NAME.star/``): read with every hash checked, written so that a killed command leaves the old one whole.

A packed one (``NAME.star.zip``, :mod:`runtime.pack`) is read the same way, without unpacking; it is never written to.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from runtime.archive import MANIFEST, SUFFIX, Archive
from runtime.calibration_table import CalibrationTable
from runtime.errors import InputError, MismatchError
from runtime.files import abandoned_target, sha256_of, write_atomic, write_folder_atomic
from runtime.golden import Golden
from runtime.manifest import (
    CALIBRATION,
    GOLDEN,
    LOGICAL_NAMES,
    REQUIRED,
    SCHEMA,
    FileEntry,
    Manifest,
    check_schema,
    model_file,
)
from runtime.readers.decoding import JSON_ERRORS

REPORTS = "reports"
_MANIFEST_LIMIT = 16 << 20


class Report(NamedTuple):
    """A report beside the models: its name without suffix, its bytes, whether it was made from the bundle as it is now."""

    name: str
    data: bytes
    current: bool


class Bundle:
    """An opened bundle. Use :meth:`open`.

    Attributes:
        path: its folder, or the file of a packed one.
        manifest: what it holds.
        archive: reads a packed one; None for a folder.
    """

    def __init__(self, path: Path, manifest: Manifest, archive: Archive | None = None) -> None:
        self.path, self.manifest, self.archive = path, manifest, archive

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> Bundle:
        """Open a bundle folder, or a packed bundle.

        Args:
            path: the folder, or the file.
            verify: also hash every file; without it only presence and sizes are checked.

        Raises:
            InputError: not a bundle, a malformed manifest, or an archive that is damaged or not to be trusted.
            MismatchError: newer schema, or a file that is missing, of another size or changed.
        """
        path = Path(path)
        if path.is_file():
            return cls._open_packed(path, verify)
        data = _read_manifest(path)
        bundle = cls(path, Manifest.from_bytes(data, where=path / MANIFEST))
        try:
            for name in bundle.manifest.files:
                bundle._check_file(name, verify)
        except MismatchError:
            if _read_manifest(path) == data:
                raise
            return cls.open(path, verify)  # a command committed a new bundle in between
        return bundle

    @classmethod
    def _open_packed(cls, path: Path, verify: bool) -> Bundle:
        archive = Archive.open(path)
        manifest = Manifest.from_bytes(archive.read(MANIFEST), where=path / MANIFEST)
        archive.check(manifest)
        if verify:
            for name in archive.names:
                archive.read(name)
        return cls(path, manifest, archive)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.manifest.class_names

    def path_of(self, name: str) -> Path:
        """Path of a file by its logical name, e.g. ``model.fp32.onnx``; MismatchError when the bundle has no such file.

        In a packed bundle there is no file at this path: it says where, in messages; :meth:`read` has the bytes.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise MismatchError(
                f"the bundle has no {name}",
                where=self.path,
                found=", ".join(self.manifest.files),
                expected=name,
                hint=_maker_of(name),
            )
        return self.path / entry.path

    def read(self, name: str) -> bytes:
        """Bytes of a file by its logical name, compared with the hash in the manifest."""
        path = self.path_of(name)
        if self.archive is not None:
            return self.archive.read(self.manifest.files[name].path)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise self._damage(name, "missing", f"{self.manifest.files[name].bytes} bytes") from None
        digest = hashlib.sha256(data).hexdigest()
        if digest != self.manifest.files[name].sha256:
            raise self._damage(name, f"SHA-256 {digest}", self.manifest.files[name].sha256)
        return data

    def sidecar(self, name: str) -> bytes | None:
        """Bytes of a file that lies beside the models, e.g. ``clips.npz`` or ``reports/verify.json``; None without it."""
        if self.archive is not None:
            return self.archive.read(name) if name in self.archive else None
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def reports(self) -> list[Report]:
        """The JSON reports beside the models, by name."""
        if self.archive is not None:
            names = [Path(name).stem for name in self.archive.names if name.startswith(f"{REPORTS}/")]
        else:
            names = sorted(path.stem for path in (self.path / REPORTS).glob("*.json"))
        held = ((name, self.sidecar(f"{REPORTS}/{name}.json") or b"") for name in names)
        return [Report(name, data, _made_from(data) == self.manifest.bundle_id) for name, data in held]

    def require_folder(self, command: str) -> None:
        """Raise InputError when the bundle is packed: ``command`` writes into it or needs its folder."""
        if self.archive is not None:
            raise is_packed(self.path, command)

    def precision(self, asked: str | None = None) -> str:
        """The precision asked for, or the default one; MismatchError when the bundle has no model of it."""
        precision = asked or self.manifest.default_precision
        if precision not in self.manifest.precisions:
            raise MismatchError(
                f"the bundle has no {precision} model",
                where=self.path,
                found=", ".join(self.manifest.precisions),
                expected=precision,
                hint=_maker_of(model_file(precision)),
            )
        return precision

    def golden(self) -> Golden:
        """The golden clips; InputError when they do not fit the manifest's skeleton or classes."""
        golden = Golden.from_bytes(self.read(GOLDEN), where=self.path_of(GOLDEN))
        found = (golden.joints.shape[1], golden.logits.shape[1])
        expected = (self.manifest.skeleton.num_joints, len(self.class_names))
        if found != expected:
            raise MismatchError(
                "golden clips do not belong to this bundle",
                where=self.path_of(GOLDEN),
                found=f"{found[0]} joints, {found[1]} classes",
                expected=f"{expected[0]} joints, {expected[1]} classes",
                hint="export the bundle again",
            )
        return golden

    def calibration_bytes(self) -> bytes:
        """``calibration.json`` as it is; MismatchError when the bundle is not calibrated."""
        return self.read(CALIBRATION)

    def calibration(self) -> CalibrationTable:
        """The validated calibration table."""
        return CalibrationTable.from_bytes(self.calibration_bytes(), where=self.path_of(CALIBRATION))

    def _check_file(self, name: str, verify: bool) -> None:
        entry, path = self.manifest.files[name], self.path_of(name)
        if not path.is_file():
            raise self._damage(name, "missing", f"{entry.bytes} bytes")
        if path.stat().st_size != entry.bytes:
            raise self._damage(name, f"{path.stat().st_size} bytes", f"{entry.bytes} bytes")
        if verify and (digest := sha256_of(path)) != entry.sha256:
            raise self._damage(name, f"SHA-256 {digest}", entry.sha256)

    def _damage(self, name: str, found: object, expected: object) -> MismatchError:
        return MismatchError(
            f"{name} is not the file the bundle was made with",
            where=self.path_of(name),
            found=found,
            expected=expected,
            hint=f"copy the bundle again, or {_maker_of(name)}",
        )


class BundleWriter:
    """Writes a bundle in one step: everything is in place, or the old bundle is whole.

    New content goes to names the old manifest does not use, and ``manifest.json`` is renamed into place last; that is
    the commit. Only then are files of the old bundle removed. A plain name such as ``model.int8.onnx`` is used when it
    is free or already holds the content; otherwise the file is ``model.int8.<hash>.onnx`` and the manifest maps it.

    Args:
        path: folder of the bundle, made when absent. A bundle already there is replaced.
        base: an opened bundle at the same path whose files are kept unless added again or removed.
    """

    def __init__(self, path: str | Path, base: Bundle | None = None) -> None:
        self.path = Path(path)
        self._kept: dict[str, FileEntry] = dict(base.manifest.files) if base else {}
        self._added: dict[str, bytes] = {}
        self._base_id = base.manifest.bundle_id if base else None
        if base:
            base.require_folder("command")
        if base and base.path.resolve() != self.path.resolve():
            raise ValueError("a bundle is updated where it is")

    def add(self, name: str, data: bytes) -> None:
        """Put a file under a logical name (runtime.manifest.LOGICAL_NAMES); nothing is written before :meth:`commit`."""
        if name not in LOGICAL_NAMES:
            raise ValueError(f"unknown logical name {name!r}")
        self._added[name] = data

    def remove(self, name: str) -> None:
        """Leave a file out of the new bundle."""
        self._kept.pop(name, None)
        self._added.pop(name, None)

    def commit(self, manifest: Manifest) -> Bundle:
        """Write everything and return the new bundle.

        Args:
            manifest: the maker's part; ``files`` and ``bundle_id`` are filled in here. To change a bundle, pass its own
                manifest with ``msgspec.structs.replace``.

        Raises InputError when the result would not be a valid bundle, MismatchError when the base was changed by
        another process meanwhile, OSError when the disk is full; the old bundle stays in each case.
        """
        old = self._old_files()
        self._check_base()
        entries = self._entries(old)
        manifest = msgspec.structs.replace(manifest, files=entries)
        manifest = msgspec.structs.replace(manifest, bundle_id=manifest.identity()).check(where=self.path)
        document = manifest.to_bytes()
        if not self.path.exists() or not any(self.path.iterdir()):
            self._make(entries, document)
        else:
            self._update(entries, document, old)
            self._remove_stale(manifest, old)
        return Bundle(self.path, manifest)

    def _make(self, entries: dict[str, FileEntry], document: bytes) -> None:
        """Write a bundle where none is: the whole folder appears by one rename."""
        path = self.path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        files = {entries[name].path: data for name, data in self._added.items()}
        write_folder_atomic(path, (files | {MANIFEST: document}).items())

    def _update(self, entries: dict[str, FileEntry], document: bytes, old: dict[str, str]) -> None:
        """Write into a folder that holds a bundle, or anything else; on failure it is as before."""
        written: list[Path] = []
        try:
            for name, data in self._added.items():
                target = self.path / entries[name].path
                if old.get(entries[name].path) != entries[name].sha256:
                    written.append(target)
                    write_atomic(target, data)
            write_atomic(self.path / MANIFEST, document)
        except BaseException:
            if not _holds(self.path / MANIFEST, document):
                _discard(written)
            raise

    def _old_files(self) -> dict[str, str]:
        """Actual name -> hash of every file that the bundle now on the disk needs and has."""
        where = self.path / MANIFEST
        try:
            data = _read_manifest(self.path)
            check_schema(data, SCHEMA, where)  # a newer bundle is not ours to overwrite: its MismatchError passes
        except InputError:  # nothing there, or nothing that could be opened
            return {}
        try:
            manifest = Manifest.from_bytes(data, where)
        except (InputError, MismatchError):
            return {}
        paths = [self.path / entry.path for entry in manifest.files.values()]
        return {path.name: sha256_of(path) for path in paths if path.is_file()}

    def _check_base(self) -> None:
        if self._base_id is None:
            return
        found = Manifest.from_bytes(_read_manifest(self.path), where=self.path / MANIFEST).bundle_id
        if found != self._base_id:
            raise MismatchError(
                "the bundle was changed by another command meanwhile",
                where=self.path,
                found=f"bundle_id {found[:12]}",
                expected=self._base_id[:12],
                hint="run the command again",
            )

    def _entries(self, old: dict[str, str]) -> dict[str, FileEntry]:
        entries = dict(self._kept)
        for name, data in self._added.items():
            digest = hashlib.sha256(data).hexdigest()
            path = next(path for path in _candidates(name, digest) if old.get(path, digest) == digest)
            entries[name] = FileEntry(path, len(data), digest)
        return {name: entries[name] for name in LOGICAL_NAMES if name in entries}

    def _remove_stale(self, manifest: Manifest, old: dict[str, str]) -> None:
        """Remove files of the old bundle and left-overs of killed commands; a failure here costs only space."""
        used = {entry.path for entry in manifest.files.values()}
        for path in list(self.path.iterdir()):
            if path.name not in used and (path.name in old or _is_ours(path.name)):
                with contextlib.suppress(OSError):
                    path.unlink()


def write_report(bundle: Bundle, name: str, report: bytes) -> Path:
    """Write ``reports/<name>.json`` beside the models; the document must name the bundle's ``bundle_id``.

    Raises MismatchError when it was made from another bundle.
    """
    bundle.require_folder(name)
    found = msgspec.json.decode(report, type=dict).get("bundle_id")
    path = bundle.path / REPORTS / f"{name}.json"
    if found != bundle.manifest.bundle_id:
        raise MismatchError(
            f"the report '{name}' was not made from this bundle",
            where=path,
            found=f"bundle_id {found}",
            expected=bundle.manifest.bundle_id,
            hint=f"star-edge {name}",
        )
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, report)
    return path


def is_bundle(path: Path) -> bool:
    """Whether a path is meant as a bundle: it is named ``*.star`` or ``*.star.zip`` or holds a manifest."""
    return path.suffix == ".star" or path.name.endswith(SUFFIX) or (path / MANIFEST).is_file()


def is_packed(path: Path, command: str) -> InputError:
    """The error of a command that needs a bundle's folder and was given the file of a packed one."""
    return InputError(
        f"star-edge {command} needs the folder of the bundle",
        where=path,
        found="a packed bundle, which is only read",
        expected="a NAME.star folder",
        hint=f"star-edge pack --unpack {path}",
    )


def _read_manifest(path: Path) -> bytes:
    """Bytes of the manifest; InputError when the folder is no bundle."""
    manifest = path / MANIFEST
    if not manifest.is_file():
        found = "a folder without manifest.json" if path.is_dir() else "a file" if path.exists() else "nothing"
        raise InputError(
            "not a bundle", where=path, found=found, expected="a NAME.star folder", hint="star-edge export ckpt.pt"
        )
    if manifest.stat().st_size > _MANIFEST_LIMIT:
        raise InputError(
            "the manifest is too large to be one",
            where=manifest,
            found=f"{manifest.stat().st_size} bytes",
            expected=f"at most {_MANIFEST_LIMIT}",
        )
    return manifest.read_bytes()


def _maker_of(name: str) -> str:
    """The command that makes a file."""
    if name in (CALIBRATION, model_file("int8")):
        return "star-edge calibrate"
    if name == model_file("bf16"):
        return "--engine native, which needs no model for it"
    return "star-edge export ckpt.pt" if name in REQUIRED else f"star-edge export --{name.split('.')[1]} ckpt.pt"


class _NamesBundle(msgspec.Struct):
    bundle_id: str = ""


def _made_from(report: bytes) -> str:
    """The bundle_id a report names; empty when it cannot be read."""
    try:
        return msgspec.json.decode(report, type=_NamesBundle).bundle_id
    except JSON_ERRORS:
        return ""


def _candidates(name: str, digest: str) -> Iterator[str]:
    """Actual names for a file, the plain one first; the last one can only be taken by the same content."""
    stem, _, suffix = name.rpartition(".")
    yield name
    yield f"{stem}.{digest[:8]}.{suffix}"
    yield f"{stem}.{digest}.{suffix}"


_OURS = re.compile(
    "|".join(rf"{re.escape(n.rpartition('.')[0])}(\.[0-9a-f]{{8,64}})?\.{n.rpartition('.')[2]}" for n in LOGICAL_NAMES)
)


def _is_ours(name: str) -> bool:
    """Whether a file name is one that a writer gives to a bundle's file, or that of a temporary a killed one left."""
    target = abandoned_target(name)
    return target == MANIFEST or bool(_OURS.fullmatch(target or name))


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False


def _discard(files: list[Path]) -> None:
    """Undo the files of a failed commit."""
    with contextlib.suppress(OSError):
        for file in files:
            file.unlink(missing_ok=True)
