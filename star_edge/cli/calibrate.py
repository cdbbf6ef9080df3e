"""``star-edge calibrate``: ranges from training clips, and the INT8 model made from them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from runtime.errors import InputError, MismatchError
from star_edge.cli.common import Output, common_options, find_bundle

if TYPE_CHECKING:
    import numpy as np

    from calibration.calibrate import Agreement, Int8Model
    from runtime.bundle import Bundle
    from runtime.calibration_table import CalibrationTable
    from runtime.manifest import Manifest
    from star_edge.data import Dataset

_COMPARED = 64  # clips on which fp32 and INT8 are shown side by side


class CalibrateReport(msgspec.Struct, frozen=True):
    """What ``star-edge calibrate --json`` prints.

    Attributes:
        samples, requested_samples: clips used and asked for.
        classes: class name -> clips of it used.
        shortest, longest: rows of the clips used.
        held_out_checked: clips were compared by name with those the model is judged by.
        ranges: number of tensors with a recorded range.
        base: float type around the Q/DQ pairs.
        quantised: modules in INT8; ``left_float`` module -> type it keeps and why.
        qdq: number of QuantizeLinear and DequantizeLinear nodes.
        agreement: INT8 beside fp32 on calibration clips; the gate is ``star-edge verify``.
        files: logical name -> bytes of what was written.
    """

    bundle: str
    bundle_id: str
    data: str
    split: str
    method: str
    samples: int
    requested_samples: int
    classes: dict[str, int]
    shortest: int
    longest: int
    held_out_checked: bool
    weights_sha256: str
    ranges: int
    base: str
    quantised: tuple[str, ...]
    left_float: dict[str, str]
    qdq: dict[str, int]
    agreement: Agreement
    files: dict[str, int]
    seconds: float
    schema: str = "star-edge/calibrate/1"


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--samples", type=click.IntRange(min=1), default=512, show_default=True, help="Training clips to calibrate with."
)
@click.option("--method", type=click.Choice(["entropy", "max"]), default="entropy", show_default=True,
              help="How a range is taken from the activations seen.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), help="Dataset; the one the model was trained on if left out.")
@click.option("--split", help="Split scheme whose part train is used; the one recorded in the bundle if left out.")
@common_options
def command(bundle: Path | None, samples: int, method: str, data: Path | None, split: str | None, output: Output) -> None:
    """Add calibrated INT8 to BUNDLE (default: the only *.star here).

    Ranges come from training clips, an equal share of every class from its shortest clip to its longest, one clip at a
    time. Clips that the model is judged by are refused.
    """
    from calibration.ptq import import_modelopt

    import_modelopt()
    from calibration.calibrate import commit, compare, make_int8_model, make_table
    from calibration.reader import ClipReader
    from calibration.selection import check_not_held_out, stratified, training_clips
    from runtime.bundle import Bundle
    from star_edge.verification.verify import check_data

    def track(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
        return output.track(items, description, total)

    started = time.monotonic()
    opened = Bundle.open(find_bundle(bundle))
    dataset, source = _open_data(opened.manifest, data, track)
    check_data(dataset, opened.manifest)
    scheme = split or opened.manifest.source.split or dataset.meta.default_split
    clips = training_clips(dataset, scheme)
    checked = check_not_held_out(opened.manifest, dataset, clips)
    if not checked:
        _say(output, "The recorded training data is not here: these clips could not be compared with its test clips.")
    chosen = clips[stratified(dataset.names[clips], dataset.labels[clips], dataset.lengths[clips], samples, output.seed)]
    _say_what_is_used(dataset, chosen, samples, scheme, output)

    table = make_table(opened, ClipReader(dataset, chosen, opened.manifest.features, track), method, samples)  # type: ignore[arg-type]
    int8 = make_int8_model(opened, table)
    compared = chosen[:: max(1, len(chosen) // _COMPARED)][:_COMPARED]
    agreement = compare(opened, int8, ClipReader(dataset, compared, opened.manifest.features, track))
    calibrated = commit(opened, table, int8)

    seconds = time.monotonic() - started
    output.document(_report(calibrated, table, int8, agreement, dataset, chosen, source, scheme, checked, seconds))
    _say_what_was_made(calibrated, table, int8, agreement, seconds, output)


def _open_data(manifest: Manifest, data: Path | None, track: Any) -> tuple[Dataset, str]:
    """The clips to draw from and where they are: ``--data``, or the recorded source if it is here and unchanged."""
    from star_edge.data import open_dataset

    if data is not None:
        return open_dataset(data, track=track), str(data)
    source = manifest.source
    if not source.data or not Path(source.data).exists():
        raise InputError(
            "the training data recorded in the bundle is not here",
            where=source.data or "nothing recorded",
            expected="the clips the model was trained on",
            hint="star-edge calibrate --data DATASET",
        )
    dataset = open_dataset(source.data, track=track)
    if source.data_sha256 and dataset.meta.sha256 != source.data_sha256:
        raise MismatchError(
            "the training data has changed since the model was trained",
            where=source.data,
            found=f"SHA-256 {dataset.meta.sha256[:12]}",
            expected=source.data_sha256[:12],
            hint="name it, or other data, with --data to use it all the same",
        )
    return dataset, source.data


def _say_what_is_used(dataset: Dataset, chosen: np.ndarray, samples: int, scheme: str, output: Output) -> None:
    lengths, classes = dataset.lengths[chosen], len(set(dataset.labels[chosen].tolist()))
    if len(chosen) < samples:
        _say(output, f"Fewer clips than asked for: {len(chosen)} of {samples}, all that split {scheme} has for training.")
    if classes < len(dataset.meta.class_names):
        _say(output, f"No training clip of {len(dataset.meta.class_names) - classes} classes.")
    _say(
        output,
        f"Calibrating with {len(chosen)} training clips of {dataset.meta.name}, split {scheme}: {classes} classes, "
        f"{lengths.min()} to {lengths.max()} rows",
    )


def _report(
    bundle: Bundle,
    table: CalibrationTable,
    int8: Int8Model,
    agreement: Agreement,
    dataset: Dataset,
    chosen: np.ndarray,
    source: str,
    scheme: str,
    checked: bool,
    seconds: float,
) -> CalibrateReport:
    labels = dataset.labels[chosen].tolist()
    return CalibrateReport(
        bundle=str(bundle.path),
        bundle_id=bundle.manifest.bundle_id,
        data=source,
        split=scheme,
        method=table.method,
        samples=table.samples,
        requested_samples=table.requested_samples,
        classes={name: labels.count(label) for label, name in enumerate(dataset.meta.class_names)},
        shortest=int(dataset.lengths[chosen].min()),
        longest=int(dataset.lengths[chosen].max()),
        held_out_checked=checked,
        weights_sha256=table.weights_sha256,
        ranges=len(table.ranges),
        base=int8.base,
        quantised=int8.modules,
        left_float=int8.left_float,
        qdq=int8.qdq,
        agreement=agreement,
        files={name: bundle.manifest.files[name].bytes for name in ("calibration.json", "model.int8.onnx")},
        seconds=round(seconds, 3),
    )


def _say_what_was_made(
    bundle: Bundle, table: CalibrationTable, int8: Int8Model, agreement: Agreement, seconds: float, output: Output
) -> None:
    reasons: dict[str, list[str]] = {}
    for module, reason in int8.left_float.items():
        reasons.setdefault(reason, []).append(module.rpartition(".")[2])
    _say(
        output,
        f"{len(table.ranges)} ranges by {table.method} in {seconds:.0f} s; {len(int8.modules)} layers in INT8 over {int8.base}: "
        f"{int8.qdq['QuantizeLinear']} QuantizeLinear, {int8.qdq['DequantizeLinear']} DequantizeLinear",
    )
    for reason, modules in reasons.items():
        _say(output, f"  {len(modules):>2} x {'/'.join(sorted(set(modules)))} stays {reason}")
    _say(
        output,
        f"On {agreement.clips} of these clips INT8 agrees with fp32 on {agreement.agreement:.1%}, logits within "
        f"{agreement.relative_err:.2%} of the largest; information only, the gate is star-edge verify",
    )
    size = bundle.manifest.files["model.int8.onnx"].bytes / 1e6
    _say(output, f"{bundle.path}: INT8 added, {size:.1f} MB; next: star-edge verify {bundle.path}")


def _say(output: Output, text: str) -> None:
    """One line for people: never wrapped, so that it can be searched, and no markup, because paths may hold brackets."""
    output.console.print(text, soft_wrap=True, markup=False)
