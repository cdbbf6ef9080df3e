"""Checkpoint to bundle: canonical ONNX, weights, golden clips, and the checks that must pass before anything is written."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx
import torch

from exporters.onnx.functions import DOMAIN, OPS, VERSION
from exporters.onnx.golden import Case, Forward, make_golden, odd_cases
from exporters.onnx.graph import Base, build_model
from exporters.onnx.lowering import Lowering, StarLowering
from exporters.onnx.parity import ParityResult, compare, onnx_forward, require_parity
from exporters.onnx.traced import TracedLowering, trace
from runtime.bundle import MANIFEST, Bundle, BundleWriter
from runtime.errors import InputError
from runtime.files import sha256_of
from runtime.manifest import GOLDEN, WEIGHTS, Manifest, ModelEntry, OpEntry, Source, TrainedRanges, model_file
from star_edge import __version__
from star_edge.models.config import StarConfig, manifest_fields
from star_edge.models.rounded import DTYPES, Rounded, rounded
from star_edge.models.star import Star
from star_edge.training.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint

if TYPE_CHECKING:
    from star_edge.models.registry import Model, ModelConfig


_MOST_CLIPS = 64
_MOST_ROWS = 6_000  # of all clips of a batch, padding included


class ExportReport(msgspec.Struct, frozen=True):
    """What ``star-edge export --json`` prints.

    Attributes:
        bytes: size of the bundle's files.
        parity: every odd input through every model; all passed, or there would be no bundle.
    """

    bundle: str
    bundle_id: str
    checkpoint: str
    model: str
    precisions: tuple[str, ...]
    default_precision: str
    bytes: int
    parity: tuple[ParityResult, ...]
    passed: bool
    schema: str = "star-edge/export/1"


def export_checkpoint(
    path: Path,
    out: Path,
    *,
    fp16: bool = False,
    force: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> ExportReport:
    """Export a checkpoint into a bundle folder.

    Args:
        path: the checkpoint.
        out: the bundle to make.
        fp16: also write an fp16 model and make it the default.
        force: replace a bundle that is there.
        progress: told each step.

    Raises:
        InputError: the checkpoint cannot be used, or ``out`` is taken.
        GateError: an exported model does not give the checkpoint's answers. An old bundle stays as it was.
    """
    check_target(out, force)
    progress(f"reading {path}")
    checkpoint = load_checkpoint(path)
    model = build_from_checkpoint(checkpoint)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    precisions: tuple[Base, ...] = ("fp32", "fp16") if fp16 else ("fp32",)
    progress(f"writing the {' and '.join(precisions)} graph of {checkpoint.model.name}")
    graphs, lowering = _lower(model, weights, precisions)
    models = {precision: graph.SerializeToString(deterministic=True) for precision, graph in graphs.items()}
    parity = check_models(model, models, checkpoint, progress)
    progress("making the golden clips")
    golden = make_golden(checkpoint.skeleton, checkpoint.features, torch_forward(copy.deepcopy(model).double()))
    writer = BundleWriter(out)
    for precision, data in models.items():
        writer.add(model_file(precision), data)
    stored = _safetensors(weights)
    writer.add(WEIGHTS, stored)
    writer.add(GOLDEN, golden.to_bytes())
    progress(f"writing {out}")
    bundle = writer.commit(_manifest(checkpoint, path, graphs, lowering, stored))
    return ExportReport(
        bundle=str(out),
        bundle_id=bundle.manifest.bundle_id,
        checkpoint=str(path),
        model=checkpoint.model.name,
        precisions=bundle.manifest.precisions,
        default_precision=bundle.manifest.default_precision,
        bytes=bundle_bytes(bundle),
        parity=tuple(parity),
        passed=True,
    )


def check_target(out: Path, force: bool) -> None:
    """Raise InputError unless a bundle may be written at ``out``."""
    if not out.parent.is_dir():
        raise InputError("no folder to write the bundle into", where=out.parent, hint=f"mkdir -p {out.parent}")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise InputError("something that is no bundle is in the way", where=out, hint="choose another name with --out")
    if not force:
        raise InputError("the bundle exists", where=out, hint="--force replaces it, with its calibration; --out keeps it")


def check_models(
    model: Model,
    models: dict[Base, bytes],
    checkpoint: Checkpoint,
    progress: Callable[[str], None] = lambda step: None,
) -> list[ParityResult]:
    """Parity of serialized models, and of the fp16 rounding reference, with the fp32 model on the odd inputs.

    Raises GateError; for fp16 it names the first module that overflows.
    """
    cases = odd_cases(checkpoint.skeleton, checkpoint.features, many_clips(model.config))
    reference = torch_forward(model)
    logits = [reference(case.features, case.cu_seqlens) for case in cases]
    if not all(np.isfinite(answer).all() for answer in logits):
        raise InputError("the checkpoint's own fp32 logits are not finite", hint="train again with a lower --lr")
    by_name = {case.name: case for case in cases}
    references: dict[str, Rounded] = {precision: rounded(model, precision) for precision in models if precision in DTYPES}
    results: list[ParityResult] = []

    def judge(engine: str, precision: Base, forward: Forward) -> None:
        progress(f"comparing {precision} in {engine} with the checkpoint on {len(cases)} odd inputs")
        results.extend(compare(cases, logits, engine, precision, forward))

    def overflow(result: ParityResult) -> str | None:
        reference = references.get(result.precision)
        return None if reference is None else _overflow(reference, by_name[result.case])

    for precision, data in models.items():
        if precision in references:
            judge("rounding reference", precision, torch_forward(references[precision]))
        judge("onnxruntime", precision, onnx_forward(data))
        require_parity(results, overflow)
    return results


def many_clips(config: ModelConfig) -> int:
    """How many clips the largest batch of the comparison has: 64, or of padded models fewer, which each take memory as the longest do.

    Attention of 8 heads over 300 frames of two persons, as ST-TR's, takes 9 GB a product for 64 clips.
    """
    if isinstance(config, StarConfig):
        return _MOST_CLIPS
    return min(_MOST_CLIPS, max(2, _MOST_ROWS // (config.persons * config.frames)))


def torch_forward(model: Callable[..., torch.Tensor]) -> Forward:
    """A torch model as a function of numpy arrays; a float64 model computes in float64."""
    dtype = next(model.parameters()).dtype if isinstance(model, torch.nn.Module) else torch.float32

    @torch.no_grad()
    def forward(features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        logits: np.ndarray = model(torch.from_numpy(features).to(dtype), torch.from_numpy(cu_seqlens)).numpy()
        return logits

    return forward


def bundle_bytes(bundle: Bundle) -> int:
    """Size of the files that make the bundle."""
    return sum(entry.bytes for entry in bundle.manifest.files.values())


def _overflow(rounded: Rounded, case: Case) -> str | None:
    """Where an fp16 model first leaves the numbers it has, None when it does not."""
    module = rounded.first_overflow(torch.from_numpy(case.features), torch.from_numpy(case.cu_seqlens))
    return None if module is None else f"{module} exceeds 65504, the largest fp16 number, on '{case.name}'"


def _safetensors(weights: dict[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    data: bytes = save({name: np.ascontiguousarray(array) for name, array in weights.items()})
    return data


def _lower(
    model: Model, weights: dict[str, np.ndarray], precisions: tuple[Base, ...]
) -> tuple[dict[Base, onnx.ModelProto], Lowering]:
    """The graph of each precision: ours for STAR, torch.onnx's for a padded model."""
    config = model.config
    if isinstance(config, StarConfig):
        return {name: build_model(config, weights, name) for name in precisions}, StarLowering(config, lambda: weights)
    assert not isinstance(model, Star)
    graphs: dict[Base, onnx.ModelProto] = {name: trace(model, name) for name in precisions}
    return graphs, TracedLowering(graphs)


def _manifest(
    checkpoint: Checkpoint, path: Path, graphs: dict[Base, onnx.ModelProto], lowering: Lowering, weights: bytes
) -> Manifest:
    data = checkpoint.data
    return Manifest(
        star_edge_version=__version__,
        model=ModelEntry(checkpoint.model.name, manifest_fields(checkpoint.model.config)),
        skeleton=checkpoint.skeleton,
        features=checkpoint.features,
        class_names=checkpoint.class_names,
        default_precision=list(graphs)[-1],
        ops=tuple(OpEntry(op, DOMAIN, VERSION, modules) for op in OPS if (modules := _nodes_of(graphs["fp32"], op))),
        nodes={precision: lowering.node_precisions(precision) for precision in graphs},
        source=Source(
            checkpoint_sha256=sha256_of(path),
            data=data.source,
            data_name=data.name,
            data_sha256=data.sha256,
            terms=data.terms,
            split=data.split,
            fitted=data.fitted,
            metrics={name: float(value) for name, value in checkpoint.metrics.items() if _is_number(value)},
            trained=_trained_ranges(checkpoint, weights),
        ),
        created_by={
            "numpy": np.__version__,
            "onnx": onnx.__version__,
            "star-edge": __version__,
            "torch": str(torch.__version__),
        },
    )


def _nodes_of(model: onnx.ModelProto, op: str) -> tuple[str, ...]:
    return tuple(node.name for node in model.graph.node if node.op_type == op)


def _trained_ranges(checkpoint: Checkpoint, weights: bytes) -> TrainedRanges | None:
    trained = checkpoint.quantisation
    if trained is None:
        return None
    return TrainedRanges(trained.start_sha256, hashlib.sha256(weights).hexdigest(), trained.ranges)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
