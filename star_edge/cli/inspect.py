"""``star-edge inspect``: what is in a bundle, checkpoint, ONNX file, dataset or recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from star_edge.cli.common import Output, common_options, find_bundle

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column

    from star_edge import inspection

_CLIPS_SHOWN = 20  # of a recording with many; --json has all


@click.command()
@click.argument("target", required=False, metavar="[models|skeletons|FILE|BUNDLE]")
@common_options
def command(target: str | None, output: Output) -> None:
    """Say what is in TARGET, the only *.star here if left out.

    \b
    models           the registered models
    skeletons        the named joint layouts
    x.star           a bundle, packed or not: files, precisions, per-node precision, classes, source
    ckpt.pt          a checkpoint: configuration, parameters, recipe, metrics
    model.onnx       operators, functions, precision and lowering of the nodes, inputs and outputs
    x.engine         a TensorRT engine: what built it, and whether its bundle is still the one it was built from
    dataset/         clips, splits, what was skipped
    a.skeleton       persons and rows of a recording (.npz, .npy, .json too)
    """
    from star_edge.inspection import inspect

    document = inspect(target or str(find_bundle(None)))
    output.document(document)
    _SHOW[type(document).__name__](document, output.console)


def _rows(console: Console, title: str, rows: Mapping[str, Any]) -> None:
    """Two columns of names and values; empty values are left out."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(_name(""), _name(""), title=escape(title), show_header=False, title_justify="left")
    for name, value in rows.items():
        if value or value == 0:
            table.add_row(escape(name), escape(_text(value)))
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(entry)}" for name, entry in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(_text(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _name(title: str) -> Column:
    """A column whose entries are broken, never cut, where the terminal is narrow."""
    from rich.table import Column

    return Column(title, overflow="fold")


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _show_models(document: inspection.ModelsDocument, console: Console) -> None:
    from rich.table import Table

    table = Table("model", "configuration", "parameters (ntu25, 60 classes)")
    for model in document.models:
        count = "install star-edge[train] to count" if model.parameters is None else f"{model.parameters:,}"
        table.add_row(model.name, _text(model.config), count)
    console.print(table)
    console.print(
        f"{len(document.models)} models; next: star-edge train --data DATASET --model {document.models[0].name}",
        soft_wrap=True,
    )


def _show_skeletons(document: inspection.SkeletonsDocument, console: Console) -> None:
    from rich.table import Table

    table = Table(_name("layout"), "joints", "bones", _name("root"), "pairs", "coordinates", "edges")
    for entry in document.skeletons:
        layout, pairs = entry.layout, f"{entry.edges} of {entry.layout.num_joints**2}"
        coordinates = "x, y, z" if layout.dims == 3 else "x, y, score"
        table.add_row(layout.name, str(layout.num_joints), str(len(layout.bones)), layout.joints[layout.root],
                      str(len(layout.pairs)), coordinates, pairs)  # fmt: skip
    console.print(table)
    console.print(
        f"{len(document.skeletons)} layouts; next: star-edge inspect skeletons --json for joints and bones", soft_wrap=True
    )


def _show_bundle(document: inspection.BundleDocument, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    manifest = document.manifest
    source = manifest.source
    _rows(
        console,
        document.path,
        {
            "bundle_id": manifest.bundle_id,
            "made by": f"star-edge {manifest.star_edge_version}",
            "with": manifest.created_by,
            "model": f"{manifest.model.name} ({_text(_short(manifest.model.config))})",
            "skeleton": f"{manifest.skeleton.name}, {manifest.skeleton.num_joints} joints",
            "features": f"{manifest.features.channels} channels, centre {manifest.features.centre}",
            "classes": f"{len(manifest.class_names)}: {_text(manifest.class_names)}",
            "precisions": f"{_text(document.precisions)} (default {manifest.default_precision})",
            "ops": [f"{op.domain}::{op.name} v{op.version}" for op in manifest.ops],
            "trained on": source.data_name,
            "data": source.data,
            "terms": source.terms,
            "split": source.split,
            "metrics": source.metrics,
            "checkpoint": source.checkpoint_sha256,
            "quantisation-aware": f"{len(source.trained.ranges)} trained ranges" if source.trained else None,
            "clips": None if document.clips is None else f"{document.clips}, for star-edge run --clips",
            "reports": [f"{report.name}{'' if report.current else ' (outdated)'}" for report in document.reports],
            "engines": [_engine(engine) for engine in document.engines],
        },
    )
    files = Table(_name("file"), _name("stored as"), "size", "sha256")
    for name, entry in manifest.files.items():
        files.add_row(name, "" if entry.path == name else escape(entry.path), _size(entry.bytes), entry.sha256[:12])
    console.print(files)
    if document.calibration:
        calibration = document.calibration
        console.print(f"calibration: {calibration.ranges} ranges by {escape(calibration.method)} from {calibration.samples} clips "
                      f"({calibration.requested_samples} asked for)")  # fmt: skip
    _show_nodes(manifest.nodes, document.lowerings, console)
    _show_native(document, console)
    total = _size(sum(entry.bytes for entry in manifest.files.values()))
    step = f"star-edge run {document.path} --self-test" if document.packed else f"star-edge verify {document.path}"
    console.print(
        f"whole: {len(manifest.files)} files, {total}, every hash as it should be; next: {step}",
        soft_wrap=True,
    )


def _show_nodes(nodes: Mapping[str, Mapping[str, str]], lowerings: Mapping[str, Mapping[str, str]], console: Console) -> None:
    """One row a module, one column a precision; how it is lowered stands where that is not by a standard operator."""
    from rich.markup import escape
    from rich.table import Table

    if not nodes:
        return
    table = Table(_name("module"), *(f"in {precision}" for precision in nodes))
    for module in sorted({module for stored in nodes.values() for module in stored}):
        table.add_row(escape(module), *(
            ", ".join(filter(None, (stored.get(module, "-"), lowerings.get(precision, {}).get(module))))
            for precision, stored in nodes.items()
        ))  # fmt: skip
    console.print(table)


def _show_native(document: inspection.BundleDocument, console: Console) -> None:
    """One row a precision, as it runs on this machine."""
    from rich.table import Table

    if document.refused:
        console.print(f"the native engine does not run this bundle here: {document.refused}", markup=False, soft_wrap=True)
        return
    table = Table("native, here", "stored", "computed", _name("by"), _name("modules"))
    for report in document.native:
        modules = Counter(report.nodes.values())
        table.add_row(report.precision, report.storage, report.compute, report.provider,
                      ", ".join(f"{count} in {precision}" for precision, count in modules.most_common()))  # fmt: skip
    console.print(table)


def _short(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without its long lists."""
    held = {name: value for name, value in config.items() if value or value == 0}
    return {name: f"({len(value)})" if isinstance(value, (list, tuple)) else value for name, value in held.items()}


def _show_checkpoint(document: inspection.CheckpointDocument, console: Console) -> None:
    _rows(
        console,
        document.path,
        {
            "made by": f"star-edge {document.version}",
            "model": document.model,
            "config": _short(document.config),
            "parameters": f"{document.parameters:,}",
            "skeleton": f"{document.skeleton.name}, {document.skeleton.num_joints} joints",
            "features": f"{document.features.channels} channels, centre {document.features.centre}",
            "classes": f"{len(document.class_names)}: {_text(document.class_names)}",
            "data": document.data,
            "metrics": document.metrics,
            "recipe": document.recipe,
            "quantisation-aware": _trained(document.quantisation),
        },
    )
    console.print(f"checkpoint of {_size(document.bytes)}; next: star-edge export --fp16 {document.path}", soft_wrap=True)


def _trained(quantisation: dict[str, Any] | None) -> str | None:
    """Where quantisation-aware training began, and how many ranges it gave."""
    if quantisation is None:
        return None
    start, sha256 = quantisation["start"], quantisation["start_sha256"]
    return f"trained on from {start} ({sha256[:12]}), {len(quantisation['ranges'])} ranges"


def _engine(engine: inspection.EngineDocument) -> str:
    """An engine in a bundle, in a few words."""
    return f"{Path(engine.path).name} ({engine.builder} {engine.version}, {_size(engine.bytes)}{'' if engine.current else ', outdated'})"


def _built(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """What of an engine's description people read, in rows; all of it where it is none of ours. --json has the rest."""
    from runtime.tensorrt.sidecar import EngineSidecar

    try:
        made = msgspec.convert(sidecar, EngineSidecar)
    except msgspec.ValidationError:
        return {"beside it": sidecar}
    worst = max((max(check.error, check.long_error) for check in made.verification), default=None)
    return {
        "precision": made.precision,
        "on": f"{made.board or 'no Jetson'}, {made.gpu}, CUDA {made.cuda}",
        "power": msgspec.to_builtins(made.power),
        "plugins": f"{made.plugin_layers} layers of {len(made.layers)}, library {made.plugin.sha256[:12]}",
        "int8 ops": made.int8_ops,
        "profiles": [str(bucket) for bucket in made.profiles],
        "furthest from fp32": None if worst is None else f"{worst:.1e} of at most {made.verification[0].tolerance:.0e}",
        "built in": f"{made.build_seconds:.0f} s by star-edge {made.star_edge_version}: {made.command}",
    }


def _show_engine(document: inspection.EngineDocument, console: Console) -> None:
    made_from = {None: "in no bundle", True: "this bundle as it is", False: "another state of this bundle, or unknown"}
    _rows(
        console,
        document.path,
        {
            "builder": f"{document.builder} {document.version}",
            "built from": made_from[document.current],
            **_built(document.sidecar),
        },
    )
    console.print(f"engine of {_size(document.bytes)}; next: star-edge inspect BUNDLE", soft_wrap=True)


def _show_onnx(document: inspection.OnnxDocument, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    def ports(values: tuple[inspection.Port, ...]) -> list[str]:
        return [f"{port.name} {port.type} [{_text(port.shape)}]" for port in values]

    _rows(
        console,
        document.path,
        {
            "IR, opsets": f"{document.ir_version}, {_text(document.opsets)}",
            "producer": document.producer,
            "inputs": ports(document.inputs),
            "outputs": ports(document.outputs),
            "nodes": f"{sum(document.operators.values())}: {_text(document.operators)}",
            "functions": {name: f"({nodes} nodes)" for name, nodes in document.functions.items()},
            "Q/DQ": f"{document.quantize} QuantizeLinear, {document.dequantize} DequantizeLinear",
            "initializers": {kind: f"{count:,}" for kind, count in document.initializers.items()},
        },
    )
    table = Table("nodes", _name("operator"), "precision", _name("lowering"))
    for (operator, precision, lowering), count in Counter(map(msgspec.structs.astuple, document.nodes.values())).most_common():
        table.add_row(str(count), escape(operator), precision, escape(lowering))
    console.print(table)
    console.print(
        f"ONNX model of {_size(document.bytes)}, {sum(document.operators.values())} nodes; next: star-edge inspect BUNDLE",
        soft_wrap=True,
    )


def _show_dataset(document: inspection.DatasetDocument, console: Console) -> None:
    meta = document.meta
    _rows(
        console,
        document.path,
        {
            "name": meta.name,
            "source": meta.source,
            "terms": meta.terms,
            "skeleton": f"{meta.skeleton.name}, {meta.skeleton.num_joints} joints",
            "classes": f"{len(meta.class_names)}: {_text(meta.class_names)}",
            "clips": meta.clips,
            "rows": f"{meta.frames} ({meta.dropped_rows} lost rows dropped)",
            "frames per second": meta.fps,
            "skipped": Counter(skip.reason for skip in meta.skipped),
        },
    )
    for name, split in meta.splits.items():
        default = " (default)" if name == meta.default_split else ""
        _rows(console, f"split {name}{default}", {"train": split.train, "val": split.val, "test": split.test,
              "unused": split.unused, "val subjects": split.val_subjects, "description": split.description})  # fmt: skip
    console.print(f"{meta.clips} clips; next: star-edge data info {document.path}", soft_wrap=True)


def _show_clips(document: inspection.ClipsDocument, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(_name("clip"), "joints", "rows", "persons", "lost")
    for clip in document.clips[:_CLIPS_SHOWN]:
        table.add_row(escape(clip.name), str(clip.joints), str(clip.rows), _text(clip.persons), str(clip.dropped))
    console.print(table)
    more = len(document.clips) - _CLIPS_SHOWN
    rest = f" ({more} not shown, see --json)" if more > 0 else ""
    count = f"{len(document.clips)} clip" + ("s" if len(document.clips) > 1 else "")
    console.print(f"{count}{rest}; next: star-edge run {document.path}", soft_wrap=True)


_SHOW: dict[str, Callable[[Any, Console], None]] = {
    "ModelsDocument": _show_models,
    "SkeletonsDocument": _show_skeletons,
    "BundleDocument": _show_bundle,
    "CheckpointDocument": _show_checkpoint,
    "OnnxDocument": _show_onnx,
    "EngineDocument": _show_engine,
    "DatasetDocument": _show_dataset,
    "ClipsDocument": _show_clips,
}
