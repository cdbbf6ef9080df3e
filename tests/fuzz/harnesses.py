"""Every reader of outside bytes as a function of bytes; only errors that a user can act on may come out."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import StarEdgeError

Read = Callable[[bytes], Any]
CORPUS = Path(__file__).resolve().parent / "corpus"
_CLASSES = ("wave", "kick")
COLUMN_FILES = ("lengths", "person_lengths", "labels", "subjects", "names", "xyz", "splits/xsub")


def harness(name: str, folder: Path) -> Callable[[bytes], None]:
    """The harness of one reader, with ``folder`` to itself; calling it raises what is a bug of the reader."""
    read = READERS[name](folder)

    def run(data: bytes) -> None:
        try:
            read(data)
        except StarEdgeError as error:
            str(error)

    return run


def _file(path: Path, read: Callable[[Path], Any]) -> Read:
    """Bytes that become a file first, because the reader takes a path."""

    def run(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return run


def _ntu(folder: Path) -> Read:
    from runtime.readers.ntu import read_ntu

    return _file(folder / "S001C001P001R001A001.skeleton", read_ntu)


def _npz(folder: Path) -> Read:
    from star_edge.data.sources.npz import NpzSource

    def read(path: Path) -> None:
        source = NpzSource(path)
        entries = range(len(source.names))
        list(source.read(entries, 1))
        source.splits(np.array(entries))

    return _file(folder / "clips.npz", read)


def _npy(folder: Path) -> Read:
    from runtime.readers.npy import read_npy

    return _file(folder / "clip.npy", read_npy)


def _pyskl(folder: Path) -> Read:
    from runtime.readers.pyskl import load_pyskl, read_annotation

    def read(path: Path) -> None:
        for entry in load_pyskl(path).entries:
            if isinstance(entry, StarEdgeError):
                raise entry
            read_annotation(entry, 2)

    return _file(folder / "set.pkl", read)


def _nw_ucla(folder: Path) -> Read:
    from runtime.readers.clip_json import parse_nw_ucla

    return parse_nw_ucla


def _kinetics(folder: Path) -> Read:
    from runtime.readers.clip_json import parse_kinetics

    return parse_kinetics


def _clip_json(folder: Path) -> Read:
    from runtime.readers.clip_json import read_clip_json

    return _file(folder / "clip.json", read_clip_json)


def _stream(folder: Path) -> Read:
    """Lines through a stream whose recogniser answers zeros."""
    from runtime.bundle import Bundle
    from runtime.recognizer import Recognizer
    from runtime.stream_lines import recognise_lines
    from runtime.streaming import Stream

    class Zeros:
        name, precision = "zeros", "fp32"

        def run(self, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
            return np.zeros((len(cu_seqlens) - 1, len(_CLASSES)), dtype=np.float32)

    recognizer = Recognizer(Bundle.open(small_bundle(folder / "x.star")), Zeros())  # type: ignore[arg-type]
    return lambda data: list(recognise_lines(io.BytesIO(data), Stream(recognizer, window=3, hop=2), "input"))


def _skeleton(folder: Path) -> Read:
    from star_edge.skeletons import get_skeleton

    return _file(folder / "layout.json", lambda path: get_skeleton(str(path)).edges())


def _recipe(folder: Path) -> Read:
    from star_edge.training.recipe import get_recipe

    return _file(folder / "mine.json", lambda path: get_recipe(str(path)))


def _recordings(folder: Path) -> Read:
    from star_edge.data.sources.base import DESCRIPTION_FILE, read_description

    return _file(folder / DESCRIPTION_FILE, lambda path: read_description(path.parent))


def _dataset_meta(folder: Path) -> Read:
    dataset = small_dataset(folder / "dataset")
    return _file(dataset / "meta.json", lambda path: _read_dataset(path.parent))


def _dataset_column(folder: Path) -> Read:
    """The first byte says which of the files the others are."""
    dataset = small_dataset(folder / "dataset")
    whole = {name: (dataset / f"{name}.npy").read_bytes() for name in COLUMN_FILES}

    def run(data: bytes) -> None:
        name = COLUMN_FILES[data[0] % len(COLUMN_FILES)] if data else COLUMN_FILES[0]
        path = dataset / f"{name}.npy"
        path.write_bytes(data[1:])
        try:
            _read_dataset(dataset)
        finally:
            path.write_bytes(whole[name])

    return run


def _read_dataset(folder: Path) -> None:
    from star_edge.data import Dataset

    dataset = Dataset.open(folder)
    for index in range(len(dataset)):
        dataset.clip(index)


def _manifest(folder: Path) -> Read:
    bundle = small_bundle(folder / "x.star")
    return _file(bundle / "manifest.json", lambda path: _read_bundle(path.parent))


def _packed(folder: Path) -> Read:
    return _file(folder / "x.star.zip", _read_bundle)


def _read_bundle(path: Path) -> None:
    from runtime.archive import CLIPS
    from runtime.bundle import Bundle
    from runtime.packed_clips import read_packed_clips

    bundle = Bundle.open(path)
    bundle.reports()
    bundle.golden()
    if bundle.sidecar(CLIPS) is not None:
        read_packed_clips(bundle)


def _calibration(folder: Path) -> Read:
    from runtime.calibration_table import CalibrationTable

    return CalibrationTable.from_bytes


def _golden(folder: Path) -> Read:
    from runtime.golden import Golden

    return Golden.from_bytes


def _checkpoint(folder: Path) -> Read:
    import torch

    from star_edge.training.checkpoint import load_checkpoint

    torch.nn.init.xavier_normal_(torch.empty(2, 2, device="meta"))  # imports what torch else imports with the first input
    return _file(folder / "ckpt.pt", load_checkpoint)


def _case(folder: Path) -> Read:
    from star_edge.verification.layers import Case

    return _file(folder / "case.npz", Case.read)


def _onnx(folder: Path) -> Read:
    from star_edge.inspection import inspect_onnx

    return _file(folder / "model.onnx", inspect_onnx)


def _engine(folder: Path) -> Read:
    """The engine, and the file beside it."""
    from star_edge.inspection import inspect_engine

    path = folder / "x.engine"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        path.with_suffix(".json").write_bytes(data[28:])
        inspect_engine(path)

    return run


def _engine_sidecar(folder: Path) -> Read:
    """Also with the engine it describes, which it may name in any way."""
    from runtime.tensorrt.sidecar import EngineSidecar, read_engine

    def run(data: bytes) -> None:
        read_engine(folder / "x.json", EngineSidecar.from_bytes(data))

    return run


READERS: dict[str, Callable[[Path], Read]] = {
    "ntu": _ntu,
    "npz": _npz,
    "npy": _npy,
    "pyskl": _pyskl,
    "nw_ucla": _nw_ucla,
    "kinetics": _kinetics,
    "clip_json": _clip_json,
    "stream": _stream,
    "skeleton": _skeleton,
    "recipe": _recipe,
    "recordings": _recordings,
    "dataset_meta": _dataset_meta,
    "dataset_column": _dataset_column,
    "manifest": _manifest,
    "packed": _packed,
    "calibration": _calibration,
    "golden": _golden,
    "checkpoint": _checkpoint,
    "case": _case,
    "onnx": _onnx,
    "engine": _engine,
    "engine_sidecar": _engine_sidecar,
}


# inputs that say nothing about one format are shared
_JSON = {"nw_ucla", "kinetics", "clip_json", "stream", "skeleton", "recipe", "recordings", "dataset_meta", "manifest", "calibration", "engine_sidecar"}  # fmt: skip


def corpora(name: str) -> list[Path]:
    """The folders whose files a reader is tried on, its own first."""
    return [CORPUS / name, *([CORPUS / "json"] if name in _JSON else [])]


def small_dataset(folder: Path) -> Path:
    """A dataset of two clips, one of two persons; the same bytes wherever it is made."""
    import msgspec

    from star_edge.data.convert import convert

    source = folder.with_name("small.npz")
    source.write_bytes(small_npz())
    convert(source, folder)
    meta = folder / "meta.json"
    meta.write_bytes(msgspec.json.encode(msgspec.json.decode(meta.read_bytes()) | {"source": "small.npz"}))
    return folder


def small_npz() -> bytes:
    """Two clips, the second of two persons."""
    from star_edge.skeletons import NITE15

    buffer = io.BytesIO()
    np.savez(
        buffer,
        xyz=np.linspace(0.1, 1, 5 * 15 * 3, dtype=np.float32).reshape(5, 15, 3).round(2),
        lengths=np.array([1, 4]),
        persons=np.array([1, 2]),
        labels=np.array([0, 1]),
        subjects=np.array([1, 2]),
        names=np.array(["one", "two"]),
        class_names=np.array(_CLASSES),
        edges=np.array(NITE15.bones),
    )
    return buffer.getvalue()


def small_bundle(folder: Path) -> Path:
    """A bundle that no engine could run, whose golden clips are two rows."""
    from runtime.bundle import BundleWriter
    from runtime.features import FeatureRecipe
    from runtime.golden import Golden
    from runtime.manifest import Manifest, ModelEntry
    from runtime.tolerances import TOLERANCES
    from star_edge.skeletons import NITE15

    rows = np.linspace(0.1, 1, 2 * 15 * 3, dtype=np.float32).reshape(2, 15, 3)
    logits = np.zeros((1, len(_CLASSES)), dtype=np.float32)
    golden = Golden(rows, np.array([0, 2], np.int32), np.array([[2]], np.int32), ("two rows",), logits, TOLERANCES)
    writer = BundleWriter(folder)
    for name, data in (("model.fp32.onnx", b"model"), ("weights.safetensors", b"weights"), ("golden.npz", golden.to_bytes())):
        writer.add(name, data)
    manifest = Manifest(
        star_edge_version="0.1.0",
        model=ModelEntry("none", {}),
        skeleton=NITE15,
        features=FeatureRecipe(channels=3),
        class_names=_CLASSES,
        default_precision="fp32",
    )
    return writer.commit(manifest).path
