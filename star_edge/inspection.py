"""What is in a bundle, checkpoint, ONNX file, dataset or clip: typed documents, gathered without changing anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.archive import CLIPS
from runtime.bundle import Bundle, is_bundle
from runtime.engine import EngineReport
from runtime.errors import InputError, MissingDependencyError, StarEdgeError
from runtime.features import FeatureRecipe
from runtime.manifest import CALIBRATION, Manifest, model_file
from runtime.readers.decoding import JSON_ERRORS
from runtime.skeleton import Skeleton
from runtime.tensorrt.sidecar import ENGINES
from star_edge.data.dataset import Dataset, DatasetMeta, is_dataset
from star_edge.lowering import NodeLowering, lowerings, qualified, type_name

if TYPE_CHECKING:
    from onnx import ModelProto

SCHEMA = "star-edge/inspect/1"
# the setting that parameter counts are given for, with the features each model is registered with: the skeleton and the classes
# of NTU RGB+D 60
_COUNTED = ("ntu25", 60)
# the first bytes of an engine; its last four are the builder's version (NVIDIA/TensorRT issue 3073; tried with RTX 1.7.1.116)
_BUILDERS = {b"ftrt": "TensorRT", b"vtrt": "TensorRT-RTX"}
_ENGINE_HEADER = 28


class Document(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of the documents of ``star-edge inspect --json``; ``kind`` tells them apart."""

    schema: str = SCHEMA


class ModelSummary(msgspec.Struct, frozen=True):
    """A registered model: its configuration and its parameters for ntu25 and 60 classes; None without torch."""

    name: str
    config: dict[str, Any]
    parameters: int | None


class ModelsDocument(Document, frozen=True, kw_only=True, tag="models"):
    models: tuple[ModelSummary, ...]


class SkeletonSummary(msgspec.Struct, frozen=True):
    """A layout, and the number of its attention pairs within three hops."""

    layout: Skeleton
    edges: int


class SkeletonsDocument(Document, frozen=True, kw_only=True, tag="skeletons"):
    skeletons: tuple[SkeletonSummary, ...]


class CalibrationSummary(msgspec.Struct, frozen=True):
    """Method, clips used and asked for, and ranges of a calibration table."""

    method: str
    samples: int
    requested_samples: int
    ranges: int


class ReportSummary(msgspec.Struct, frozen=True):
    """A report beside the bundle; current when it was made from the bundle as it is now."""

    name: str
    current: bool


class EngineDocument(Document, frozen=True, kw_only=True, tag="engine"):
    """A built engine.

    Attributes:
        builder, version: what made it, by the file's header.
        sidecar: the JSON file of the same name; empty without one that can be read.
        current: built from the bundle it lies in as that is now; None outside a bundle.
    """

    path: str
    bytes: int
    builder: str
    version: str
    sidecar: dict[str, Any]
    current: bool | None


class BundleDocument(Document, frozen=True, kw_only=True, tag="bundle"):
    """A bundle whose files were all compared with their hashes.

    Attributes:
        clips: how many came with it.
        engines: built from it, or from what it was before.
        lowerings: precision -> module -> how it is lowered, where it is not by the standard operator in that precision; empty
            without onnx.
        native: what the native engine runs here in each precision; refused: why it does not run the bundle, and then none.
    """

    path: str
    manifest: Manifest
    precisions: tuple[str, ...]
    calibration: CalibrationSummary | None
    reports: tuple[ReportSummary, ...]
    packed: bool = False
    clips: int | None = None
    engines: tuple[EngineDocument, ...] = ()
    lowerings: dict[str, dict[str, str]] = {}
    native: tuple[EngineReport, ...] = ()
    refused: str = ""


class CheckpointDocument(Document, frozen=True, kw_only=True, tag="checkpoint"):
    path: str
    bytes: int
    version: str
    model: str
    config: dict[str, Any]
    parameters: int
    skeleton: Skeleton
    features: FeatureRecipe
    class_names: tuple[str, ...]
    data: dict[str, Any]
    metrics: dict[str, Any]
    recipe: dict[str, Any]
    quantisation: dict[str, Any] | None = None


class Port(msgspec.Struct, frozen=True):
    """An input or output of a graph: name, element type, shape with names for free sizes."""

    name: str
    type: str
    shape: tuple[int | str, ...]


class OnnxDocument(Document, frozen=True, kw_only=True, tag="onnx"):
    """An ONNX file.

    Attributes:
        operators: nodes of the graph by operator, with its domain where it is not the standard one.
        functions: local functions (domain::name) and the number of their nodes.
        quantize, dequantize: QuantizeLinear and DequantizeLinear nodes of the graph.
        nodes: every other node by name.
        initializers: element type -> number of elements.
    """

    path: str
    bytes: int
    ir_version: int
    opsets: dict[str, int]
    producer: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: dict[str, int]
    functions: dict[str, int]
    quantize: int
    dequantize: int
    initializers: dict[str, int]
    nodes: dict[str, NodeLowering]


class DatasetDocument(Document, frozen=True, kw_only=True, tag="dataset"):
    path: str
    meta: DatasetMeta


class ClipSummary(msgspec.Struct, frozen=True):
    """Rows and joints of a clip, rows of each person, rows dropped because the person was lost."""

    name: str
    rows: int
    joints: int
    persons: tuple[int, ...]
    dropped: int


class ClipsDocument(Document, frozen=True, kw_only=True, tag="clips"):
    path: str
    clips: tuple[ClipSummary, ...]


def inspect(target: str) -> Document:
    """The document of ``models``, ``skeletons``, a file or a folder; InputError when it is none of the known kinds."""
    if target in _LISTS:
        return _LISTS[target]()
    path = Path(target)
    if is_bundle(path):
        return inspect_bundle(path)
    if is_dataset(path):
        return DatasetDocument(path=target, meta=Dataset.open(path).meta)
    if path.suffix in _FILES and path.exists():
        return _FILES[path.suffix](path)
    raise InputError(
        "nothing to inspect" if not path.exists() else "unknown kind of file",
        where=target,
        found="no such file" if not path.exists() else "a folder" if path.is_dir() else path.suffix or "no suffix",
        expected=f"{', '.join(_LISTS)}, a bundle, a dataset folder or a file: {', '.join(_FILES)}",
    )


def inspect_models() -> ModelsDocument:
    """The registered models."""
    from star_edge.models.registry import MODELS

    return ModelsDocument(models=tuple(ModelSummary(name, entry.fields, _parameters(name)) for name, entry in MODELS.items()))


def inspect_skeletons() -> SkeletonsDocument:
    """The named layouts."""
    from star_edge.skeletons import LAYOUTS

    return SkeletonsDocument(skeletons=tuple(SkeletonSummary(layout, len(layout.edges())) for layout in LAYOUTS.values()))


def inspect_bundle(path: Path) -> BundleDocument:
    """A bundle, packed or not, with every hash checked."""
    from runtime.packed_clips import read_packed_clips

    bundle = Bundle.open(path)
    manifest = bundle.manifest
    calibration = None
    if CALIBRATION in manifest.files:
        table = bundle.calibration()
        calibration = CalibrationSummary(table.method, table.samples, table.requested_samples, len(table.ranges))
    native, refused = _native(bundle)
    return BundleDocument(
        path=str(path),
        manifest=manifest,
        precisions=manifest.precisions,
        calibration=calibration,
        reports=tuple(ReportSummary(report.name, report.current) for report in bundle.reports()),
        packed=bundle.archive is not None,
        clips=None if bundle.sidecar(CLIPS) is None else len(read_packed_clips(bundle).clips),
        engines=tuple(inspect_engine(file) for file in sorted(path.glob(f"{ENGINES}/*.engine"))),
        lowerings=_lowerings(bundle),
        native=native,
        refused=refused,
    )


def _native(bundle: Bundle) -> tuple[tuple[EngineReport, ...], str]:
    """The native engine's reports, one a precision, or why there is none."""
    from runtime.engines.native import open_engine, precisions

    try:
        engines = [open_engine(bundle, precision=precision, threads=1) for precision in precisions(bundle.manifest)]
    except StarEdgeError as error:
        return (), error.what
    return tuple(engine.report() for engine in engines), ""


def _lowerings(bundle: Bundle) -> dict[str, dict[str, str]]:
    try:
        import onnx  # noqa: F401
    except ImportError:
        return {}
    found = {}
    for precision, modules in bundle.manifest.nodes.items():
        if precision in bundle.manifest.precisions:
            name = model_file(precision)
            nodes = lowerings(_onnx_model(bundle.read(name), bundle.path_of(name)))
            found[precision] = {node: held.lowering for node, held in nodes.items() if node in modules and held.lowering}
    return found


def inspect_engine(path: Path) -> EngineDocument:
    """A TensorRT or TensorRT-RTX engine, with the file that says what it was built from; InputError when it is none."""
    with path.open("rb") as file:
        header = file.read(_ENGINE_HEADER)
    builder = _BUILDERS.get(header[:4])
    if builder is None or len(header) < _ENGINE_HEADER:
        raise InputError("not an engine, or truncated", where=path, found=repr(header[:4]), expected="a TensorRT engine")
    try:
        sidecar = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=dict[str, Any])
    except OSError:
        sidecar = {}
    except JSON_ERRORS:
        sidecar = {}
    bundle = path.resolve().parents[1]
    current = None
    if path.resolve().parent.name == ENGINES and is_bundle(bundle):
        current = sidecar.get("bundle_id") == Bundle.open(bundle, verify=False).manifest.bundle_id
    version = ".".join(map(str, header[-4:]))
    return EngineDocument(
        path=str(path), bytes=path.stat().st_size, builder=builder, version=version, sidecar=sidecar, current=current
    )


def inspect_checkpoint(path: Path) -> CheckpointDocument:
    """A checkpoint; needs torch."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingDependencyError("torch", "train", "Inspecting a checkpoint") from None
    from star_edge.training.checkpoint import build_from_checkpoint, load_checkpoint

    saved = load_checkpoint(path)
    return CheckpointDocument(
        path=str(path),
        bytes=path.stat().st_size,
        version=saved.version,
        model=saved.model.name,
        config=msgspec.to_builtins(saved.model.config),
        parameters=sum(parameter.numel() for parameter in build_from_checkpoint(saved).parameters()),
        skeleton=saved.skeleton,
        features=saved.features,
        class_names=saved.class_names,
        data=msgspec.to_builtins(saved.data),
        metrics=saved.metrics,
        recipe=saved.recipe,
        quantisation=msgspec.to_builtins(saved.quantisation),
    )


def inspect_onnx(path: Path) -> OnnxDocument:
    """An ONNX file; needs onnx."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise MissingDependencyError("onnx", "export", "Inspecting an ONNX file") from None
    model = _onnx_model(path.read_bytes(), path)
    operators = Counter(qualified(node.domain, node.op_type) for node in model.graph.node)
    return OnnxDocument(
        path=str(path),
        bytes=path.stat().st_size,
        ir_version=model.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        inputs=_ports(model.graph.input),
        outputs=_ports(model.graph.output),
        operators=dict(operators.most_common()),
        functions={qualified(function.domain, function.name): len(function.node) for function in model.functions},
        quantize=operators["QuantizeLinear"],
        dequantize=operators["DequantizeLinear"],
        initializers=_initializers(model),
        nodes=lowerings(model),
    )


def _onnx_model(data: bytes, where: Path) -> ModelProto:
    """A model without its external data; InputError when it is none."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise InputError("not an ONNX file, or truncated", where=where, found=error) from None
    if not model.ir_version or not model.graph.node:
        raise InputError("not an ONNX file", where=where, found="no graph")
    return model


def inspect_clips(path: Path) -> ClipsDocument:
    """A recording in a file."""
    from runtime.readers import read_clips

    return ClipsDocument(
        path=str(path),
        clips=tuple(
            ClipSummary(clip.name, len(clip), clip.joints.shape[1], clip.person_lengths, clip.dropped)
            for clip in read_clips(path)
        ),
    )


_LISTS: dict[str, Callable[[], Document]] = {"models": inspect_models, "skeletons": inspect_skeletons}
_FILES: dict[str, Callable[[Path], Document]] = {
    ".pt": inspect_checkpoint,
    ".onnx": inspect_onnx,
    ".engine": inspect_engine,
    ".plan": inspect_engine,
    ".skeleton": inspect_clips,
    ".npz": inspect_clips,
    ".npy": inspect_clips,
    ".json": inspect_clips,
}


def _parameters(name: str) -> int | None:
    try:
        import torch
    except ImportError:
        return None
    from star_edge.models.registry import build_model, model_config, registered
    from star_edge.skeletons import get_skeleton

    layout, classes = _COUNTED
    channels = registered(name).recipe.get("features", FeatureRecipe()).channels
    with torch.device("meta"):
        model = build_model(name, model_config(name, get_skeleton(layout), channels, classes))
    return sum(parameter.numel() for parameter in model.parameters())


def _ports(values: Any) -> tuple[Port, ...]:
    ports = []
    for value in values:
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
        ports.append(Port(value.name, type_name(tensor.elem_type), shape))
    return tuple(ports)


def _initializers(model: ModelProto) -> dict[str, int]:
    from math import prod

    sizes: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        sizes[type_name(tensor.data_type)] += prod(tensor.dims)
    return dict(sorted(sizes.items()))
