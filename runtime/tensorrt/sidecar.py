"""``engines/<name>.json``, beside ``<name>.engine``: what built an engine, from what, for which machine, and how right it was.

Both are replaced in one step. The new engine is written as ``<name>.<hash>.engine``; then the sidecar, which has its hash, is
renamed into place: that is the commit; then the engine is renamed to its plain name. A reader looks under both names.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import msgspec

from runtime.bundle import Bundle
from runtime.errors import InputError, MismatchError
from runtime.files import abandoned_target, write_atomic
from runtime.manifest import check_schema
from runtime.readers.decoding import JSON_ERRORS
from runtime.tensorrt.buckets import Bucket

SCHEMA = "star-edge/engine/1"
ENGINES = "engines"
SUFFIX = ".engine"


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU as CUDA tells of it: its name, compute capability (87) and multiprocessors, which a power mode can switch off.

    ``integrated``: it shares the processor's memory, as Jetson's does.
    """

    name: str
    sm: int
    multiprocessors: int
    integrated: bool = False

    def __str__(self) -> str:
        return f"{self.name}, {self.multiprocessors} SMs"


class Power(msgspec.Struct, frozen=True, kw_only=True):
    """Power mode as nvpmodel names it, clocks of the GPU in MHz, and whether they were pinned; None is unknown."""

    mode: str | None = None
    gpu_mhz: float | None = None
    gpu_max_mhz: float | None = None
    jetson_clocks: bool | None = None


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """The plugin library: the key it is kept under, the hash of its sources and of the file."""

    key: str
    sources_sha256: str
    sha256: str


class Layer(msgspec.Struct, frozen=True):
    """A layer of the built engine and TensorRT's name for its kind, where it tells."""

    name: str
    kind: str = ""


class ProfileCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Clips run in one bucket beside their fp32 logits.

    Attributes:
        golden_clips: golden clips that fit the bucket, repeated until it was full.
        error: largest error of a logit, relative to the largest logit of the reference.
        long_error: the same of one generated clip as long as the bucket, beside the native engine's fp32.
    """

    rows: int
    clips: int
    golden_clips: int
    error: float
    long_error: float
    tolerance: float


class EngineSidecar(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is.

    Attributes:
        bundle_id, precision: of the bundle's model it was built from.
        tensorrt, cuda, driver: versions; cuda is the runtime's, driver the newest CUDA it takes.
        gpu, board, power: where and in which state it was built. board is empty elsewhere than on a Jetson.
        plugin: the library it needs.
        int8_ops: ops whose plugins take and give int8.
        sparse_products: products with a 2:4 weight, for which TensorRT might use sparse tensor cores.
        graph_sha256: of the ONNX bytes that were parsed.
        engine_sha256, engine_bytes: of the file.
        profiles: one a bucket, in the order of TensorRT's optimisation profiles.
        plugin_layers: counted after parsing. layers: of the built engine.
        build_seconds: of TensorRT's builder alone.
        verification: one entry a profile.
        command: the command line.
    """

    star_edge_version: str
    bundle_id: str
    precision: str
    tensorrt: str
    cuda: str
    driver: str
    gpu: Gpu
    plugin: Plugin
    graph_sha256: str
    engine_sha256: str
    engine_bytes: int
    profiles: tuple[Bucket, ...]
    plugin_layers: int
    layers: tuple[Layer, ...]
    build_seconds: float
    verification: tuple[ProfileCheck, ...]
    command: str
    board: str = ""
    power: Power = Power()
    int8_ops: tuple[str, ...] = ()
    sparse_products: int = 0
    schema: str = SCHEMA

    @property
    def name(self) -> str:
        """Name of the files without suffix."""
        return engine_name(self.tensorrt, self.gpu.sm, self.precision)

    @classmethod
    def from_bytes(cls, data: bytes, where: object = None) -> EngineSidecar:
        """Read and validate. Raises InputError (not JSON, wrong types) or MismatchError (newer schema)."""
        check_schema(data, SCHEMA, where)
        try:
            sidecar = msgspec.json.decode(data, type=cls)
        except JSON_ERRORS as error:
            raise InputError(f"cannot read the engine's description: {error}", where=where, hint="star-edge build") from None
        key, profiles = sidecar.plugin.key, sidecar.profiles
        holds = (
            profiles
            and list(profiles) == sorted(set(profiles))
            and min(min(bucket.rows, bucket.clips) for bucket in profiles) > 0
            and re.fullmatch("[0-9a-f]{16}", key)
            and re.fullmatch("[0-9a-f]{64}", sidecar.engine_sha256)
        )
        if not holds:
            raise InputError(
                "the engine's description contradicts itself",
                where=where,
                found=f"profiles {', '.join(map(str, profiles)) or 'none'}, plugin {key!r}, engine {sidecar.engine_sha256!r}",
                expected="profiles in ascending order, and keys of 16 and 64 hex digits",
                hint="star-edge build",
            )
        return sidecar

    def to_bytes(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def engine_name(tensorrt: str, sm: int, precision: str) -> str:
    """``10.3.0-sm87-fp16``."""
    return f"{tensorrt}-sm{sm}-{precision}"


def write_engine(bundle: Bundle, plan: bytes, sidecar: EngineSidecar) -> Path:
    """Put an engine and its sidecar into the bundle; a killed call leaves the old pair whole. Returns the engine's path."""
    bundle.require_folder("build")
    folder = bundle.path / ENGINES
    folder.mkdir(exist_ok=True)
    plain, hashed = _paths(folder, sidecar)
    described = folder / f"{sidecar.name}.json"
    _finish(described)
    write_atomic(hashed, plan)
    write_atomic(described, sidecar.to_bytes())
    _finish(described)
    return plain


def read_engine(path: Path, sidecar: EngineSidecar) -> bytes:
    """Bytes of the engine that a sidecar at ``path`` describes; MismatchError when there is none, or another."""
    plain, hashed = _paths(path.parent, sidecar, path.stem)
    try:
        plan = hashed.read_bytes() if hashed.is_file() else plain.read_bytes()
    except FileNotFoundError:
        raise MismatchError(
            "an engine's file is missing", where=plain, expected=f"{sidecar.engine_bytes} bytes", hint="star-edge build"
        ) from None
    return plan


def _finish(described: Path) -> None:
    """Give the engine of a sidecar its plain name, and remove what killed calls left beside it."""
    name, hashed = described.stem, None
    with contextlib.suppress(OSError, InputError, MismatchError):
        plain, hashed = _paths(described.parent, EngineSidecar.from_bytes(described.read_bytes()), name)
        if hashed.is_file():
            hashed.replace(plain)
    unfinished = re.compile(rf"{re.escape(name)}\.[0-9a-f]{{16}}{re.escape(SUFFIX)}")
    for path in described.parent.iterdir():
        if path != hashed and unfinished.fullmatch(abandoned_target(path.name) or path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def _paths(folder: Path, sidecar: EngineSidecar, name: str = "") -> tuple[Path, Path]:
    name = name or sidecar.name
    return folder / f"{name}{SUFFIX}", folder / f"{name}.{sidecar.engine_sha256[:16]}{SUFFIX}"
