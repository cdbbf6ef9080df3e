"""``manifest.json``: what a bundle holds, under which hashes, and what its numbers mean."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal, get_args

import msgspec

from runtime.errors import InputError, MismatchError
from runtime.features import FeatureRecipe
from runtime.readers.decoding import JSON_ERRORS
from runtime.skeleton import Skeleton

SCHEMA = "star-edge/bundle/1"
Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

# Logical names of the files a bundle can hold. Models, weights and calibration make the bundle_id.
WEIGHTS, CALIBRATION, GOLDEN = "weights.safetensors", "calibration.json", "golden.npz"
REQUIRED = ("model.fp32.onnx", WEIGHTS, GOLDEN)


def model_file(precision: str) -> str:
    """Logical name of the ONNX model of a precision."""
    return f"model.{precision}.onnx"


LOGICAL_NAMES = (*(model_file(precision) for precision in PRECISIONS), WEIGHTS, CALIBRATION, GOLDEN)


class ModelEntry(msgspec.Struct, frozen=True):
    """The network: registered name and its configuration."""

    name: str
    config: dict[str, Any]


class OpEntry(msgspec.Struct, frozen=True):
    """A custom op the models use, and the paths of the modules that are lowered to it."""

    name: str
    domain: str
    version: int
    modules: tuple[str, ...] = ()


class FileEntry(msgspec.Struct, frozen=True):
    """One file of the bundle: ``path`` is a plain file name inside it."""

    path: str
    bytes: int
    sha256: str


class TrainedRanges(msgspec.Struct, frozen=True):
    """Ranges of activations that quantisation-aware training settled on.

    Attributes:
        start_sha256: hash of the checkpoint it began with.
        weights_sha256: hash of the ``weights.safetensors`` the ranges belong to.
        ranges: calibration key -> amax.
    """

    start_sha256: str
    weights_sha256: str
    ranges: dict[str, float]


class Source(msgspec.Struct, frozen=True):
    """Where the weights come from.

    Attributes:
        checkpoint_sha256: hash of the checkpoint file.
        data: the training source as the checkpoint records it, e.g. a dataset folder.
        data_name: its name, for people.
        data_sha256: its hash, empty when unknown.
        terms: what the owner of the recordings allows.
        split: the split scheme trained on.
        fitted: parts of it whose clips the weights have seen.
        metrics: figures of the checkpoint, e.g. ``val_top1``.
        trained: of a checkpoint from quantisation-aware training.
    """

    checkpoint_sha256: str = ""
    data: str = ""
    data_name: str = ""
    data_sha256: str = ""
    terms: str = ""
    split: str = ""
    fitted: tuple[str, ...] = ()
    metrics: dict[str, Any] = {}
    trained: TrainedRanges | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of a bundle. A writer fills in ``files`` and ``bundle_id``; the rest is the maker's.

    Attributes:
        star_edge_version: version that made the bundle.
        model: network name and configuration.
        skeleton: layout of the joints.
        features: recipe from joints to network input.
        class_names: K names in the order of the logits.
        default_precision: the one used when none is asked for.
        ops: custom ops of the models with their versions.
        nodes: for each precision, module path -> precision its weights and arithmetic are stored in.
        source: checkpoint, data, split and metrics.
        created_by: versions of the packages that made the files; no times, so the same input gives the same bundle.
        files: logical name -> actual file.
        bundle_id: hash of models, weights, calibration and configuration; see :meth:`identity`.
    """

    star_edge_version: str
    model: ModelEntry
    skeleton: Skeleton
    features: FeatureRecipe
    class_names: tuple[str, ...]
    default_precision: Precision
    ops: tuple[OpEntry, ...] = ()
    nodes: dict[str, dict[str, str]] = {}
    source: Source = Source()
    created_by: dict[str, str] = {}
    files: dict[str, FileEntry] = {}
    bundle_id: str = ""
    schema: str = SCHEMA

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions the bundle has a model for."""
        return tuple(precision for precision in PRECISIONS if model_file(precision) in self.files)

    def identity(self) -> str:
        """What ``bundle_id`` must be: SHA-256 over models, weights, calibration and whatever else can change an answer.

        Golden clips, reports, built engines, source and actual file names are not part of it.
        """
        document = {
            "model": self.model,
            "skeleton": self.skeleton,
            "features": self.features,
            "class_names": self.class_names,
            "default_precision": self.default_precision,
            "ops": self.ops,
            "files": {name: entry.sha256 for name, entry in self.files.items() if name != GOLDEN},
        }
        return hashlib.sha256(msgspec.json.encode(document, order="deterministic")).hexdigest()

    def to_bytes(self) -> bytes:
        """Indented JSON with sorted dictionaries."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1) + b"\n"

    def check(self, where: object = None) -> Manifest:
        """Return self if it is consistent, else raise InputError (malformed) or MismatchError (does not fit its id)."""

        def require(holds: bool, what: str, found: object, expected: object) -> None:
            if not holds:
                raise InputError(what, where=where, found=found, expected=expected, hint="export the bundle again")

        self.skeleton.check(where)
        require(bool(self.class_names), "bundle without classes", "no class_names", "at least one")
        for name, entry in self.files.items():
            require(name in LOGICAL_NAMES, "unknown file in the manifest", name, f"one of {', '.join(LOGICAL_NAMES)}")
            require(_is_plain(entry.path), f"'{name}' points outside the bundle", repr(entry.path), "a plain file name")
            require(entry.bytes >= 0 and bool(re.fullmatch("[0-9a-f]{64}", entry.sha256)), f"bad size or hash of '{name}'",
                    f"{entry.bytes} bytes, {entry.sha256!r}", "a size and 64 hex digits")  # fmt: skip
        paths = [entry.path for entry in self.files.values()]
        require(len(set(paths)) == len(paths), "two entries share one file", sorted(paths), "one file an entry")
        missing = [name for name in REQUIRED if name not in self.files]
        require(not missing, "incomplete bundle", f"no {', '.join(missing)}", ", ".join(REQUIRED))
        require(self.default_precision in self.precisions, "the default precision has no model",
                f"default {self.default_precision}", f"one of {', '.join(self.precisions)}")  # fmt: skip
        if self.bundle_id != self.identity():
            raise MismatchError(
                "the manifest was changed after it was written",
                where=where,
                found=f"bundle_id {self.bundle_id[:12] or 'empty'}",
                expected=self.identity()[:12],
                hint="export the bundle again",
            )
        return self

    @classmethod
    def from_bytes(cls, data: bytes, where: object = None) -> Manifest:
        """Read and validate. Raises InputError (not JSON, wrong types) or MismatchError (newer schema, changed id)."""
        check_schema(data, SCHEMA, where)
        try:
            manifest = msgspec.json.decode(data, type=cls)
        except JSON_ERRORS as error:
            raise InputError(f"cannot read the manifest: {error}", where=where, hint="export the bundle again") from None
        return manifest.check(where)


class _Versioned(msgspec.Struct):
    schema: str


def check_schema(data: bytes, expected: str, where: object = None) -> None:
    """Raise unless a JSON document is of the expected kind and no newer than what this version reads.

    Raises InputError when it is not JSON or of another kind, MismatchError when its schema is newer.
    """
    try:
        found = msgspec.json.decode(data, type=_Versioned).schema
    except JSON_ERRORS as error:
        raise InputError(f"not a {expected.rsplit('/', 1)[0]} document: {error}", where=where, expected=expected) from None
    kind, _, version = found.rpartition("/")
    known_kind, _, known_version = expected.rpartition("/")
    if kind != known_kind or not version.isdecimal() or int(version) < 1:
        raise InputError("document of another kind", where=where, found=repr(found), expected=expected)
    if int(version) > int(known_version):
        raise MismatchError(
            "written by a newer star-edge",
            where=where,
            found=found,
            expected=f"{expected} or older",
            hint="pip install --upgrade star-edge",
        )


def _is_plain(name: str) -> bool:
    """Whether a path is one visible file name: nothing that could leave the folder on any system."""
    return bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name))
