"""INT8 by every method beside fp32 and fp16: accuracy on val and test, gates, latency.

    python benchmarks/int8_methods.py nw_ucla DATA/nw_ucla.npz ckpt.pt
    python benchmarks/int8_methods.py sbu DATA/sbu_interaction.npz fold0/ckpt.pt fold1/ckpt.pt ...

Every checkpoint is exported with fp16 and calibrated once (512 training clips of its own split); each method is a cut of the same
histograms. The clips of several checkpoints, each judged on its own split, count together. The method is chosen by the val rows;
the test rows report. Latency is that of the first checkpoint's graphs, in turn in one process, one clip of 300 rows.
Writes ``results/int8-NAME.json``.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import click
import msgspec
import numpy as np
import onnx
import torch

from calibration.calibrate import collect, make_table
from calibration.histograms import METHODS, PERCENTILE
from calibration.int8 import logits_of, make_int8_model
from calibration.layer_latency import time_in_turn
from calibration.reader import ClipReader
from calibration.report import Int8Score
from calibration.score import score
from calibration.selection import stratified, training_clips
from exporters.onnx.graph import Base
from exporters.onnx.lowering import lowering_of
from runtime.bundle import Bundle
from runtime.files import write_atomic
from runtime.manifest import model_file
from star_edge.bench.host import read_host
from star_edge.bench.report import Host
from star_edge.bench.workloads import parse_workload
from star_edge.data import Dataset, open_dataset
from star_edge.export import export_checkpoint
from star_edge.torch_engine import open_engine
from star_edge.training.batches import featurise

HERE = Path(__file__).parent
SAMPLES, WORKLOAD, ROUNDS = 512, "1x300", 40
PARTS = ("val", "test")


class Row(msgspec.Struct, frozen=True):
    """One model beside fp32 on one part of the split. The fp16 row is the rounding reference's."""

    precision: str
    method: str
    part: str
    score: Int8Score


class Latency(msgspec.Struct, frozen=True):
    """Median milliseconds of one graph; int8 stands over an fp32 and over an fp16 remainder."""

    graph: str
    median_ms: float


class MethodsReport(msgspec.Struct, frozen=True):
    """``val_fitted``: the weights have seen the val clips, so their top-1 says nothing; agreement and noise do."""

    data: str
    data_sha256: str
    splits: tuple[str, ...]
    samples: int
    val_fitted: bool
    rows: tuple[Row, ...]
    workload: str
    threads: int
    latency: tuple[Latency, ...]
    command: str
    host: Host
    schema: str = "star-edge/int8-methods/1"


class Answers(NamedTuple):
    """Logits of a model and of fp32, and labels, of some clips."""

    logits: np.ndarray
    reference: np.ndarray
    labels: np.ndarray


@click.command()
@click.argument("name")
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
def main(name: str, data: Path, checkpoints: tuple[Path, ...], threads: int) -> None:
    """Measure, and write results/int8-NAME.json."""
    torch.set_num_threads(threads)
    dataset = open_dataset(data)
    answers: dict[tuple[str, str, str], list[Answers]] = {}
    with tempfile.TemporaryDirectory() as folder:
        bundles = [_export(checkpoint, Path(folder) / f"{i}.star") for i, checkpoint in enumerate(checkpoints)]
        for bundle in bundles:
            for key, found in _judge(bundle, dataset).items():
                answers.setdefault(key, []).append(found)
        latency = _latency(bundles[0], dataset, threads)
        rows = tuple(
            Row(*key, score(*(np.concatenate(parts) for parts in zip(*found, strict=True)))) for key, found in answers.items()
        )
        report = MethodsReport(
            data=dataset.meta.name,
            data_sha256=dataset.meta.sha256,
            splits=tuple(bundle.manifest.source.split for bundle in bundles),
            samples=SAMPLES,
            val_fitted="val" in bundles[0].manifest.source.fitted,
            rows=rows,
            workload=WORKLOAD,
            threads=threads,
            latency=latency,
            command=shlex.join(["python", "benchmarks/int8_methods.py", *(Path(word).name for word in sys.argv[1:])]),
            host=read_host(),
        )
    path = HERE / "results" / f"int8-{name}.json"
    write_atomic(path, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    for row in rows:
        judged = row.score
        click.echo(
            f"{row.part:4} {row.precision} {row.method:10} top-1 {judged.top1:.2%} of {judged.reference_top1:.2%}, same class "
            f"{judged.agreement:.2%}, lost {judged.lost}, gained {judged.gained}, gate {'passed' if judged.passed else 'MISSED'}"
        )
    for entry in latency:
        click.echo(f"{WORKLOAD} {entry.graph}: {entry.median_ms:.2f} ms")


def _export(checkpoint: Path, out: Path) -> Bundle:
    export_checkpoint(checkpoint, out, fp16=True)
    return Bundle.open(out)


def _judge(bundle: Bundle, dataset: Dataset) -> dict[tuple[str, str, str], Answers]:
    """(precision, method, part) -> answers on the bundle's split."""
    scheme = bundle.manifest.source.split
    train = training_clips(dataset, scheme)
    chosen = train[stratified(dataset.names[train], dataset.labels[train], dataset.lengths[train], SAMPLES)]
    reader = ClipReader(dataset, chosen, bundle.manifest.features)
    fp32 = bundle.read(model_file("fp32"))
    histograms = collect(onnx.load_model_from_string(fp32), lowering_of(bundle), reader)
    found: dict[tuple[str, str, str], Answers] = {}
    for part in PARTS:
        clips = dataset.indices(scheme, part)
        judged, labels = ClipReader(dataset, clips, bundle.manifest.features), dataset.labels[clips]
        reference = logits_of(fp32, judged, "fp32")
        found["fp16", "", part] = Answers(_rounded(bundle, dataset, clips), reference, labels)
        for method in METHODS:
            table = make_table(bundle, histograms, method, PERCENTILE, reader.names, SAMPLES)
            logits = logits_of(make_int8_model(bundle, table).data, judged, method)
            found["int8", method, part] = Answers(logits, reference, labels)
    return found


def _rounded(bundle: Bundle, dataset: Dataset, clips: Sequence[int] | np.ndarray) -> np.ndarray:
    """Logits of the fp16 rounding reference [N, K]."""
    engine = open_engine(bundle, precision="fp16", threads=1)
    manifest = bundle.manifest
    return np.concatenate(
        [engine.run(*featurise([dataset.clip(int(clip))], manifest.skeleton, manifest.features)) for clip in clips]
    )


def _latency(bundle: Bundle, dataset: Dataset, threads: int) -> tuple[Latency, ...]:
    """Of the float graphs, and of INT8 over both of them; the ranges do not matter for it."""
    lowering = lowering_of(bundle)
    clips = dataset.indices(bundle.manifest.source.split, "train")[:8]
    reader = ClipReader(dataset, clips, bundle.manifest.features)
    histograms = collect(onnx.load_model_from_string(bundle.read(model_file("fp32"))), lowering, reader)
    ranges = make_table(bundle, histograms, "max", PERCENTILE, reader.names, len(clips)).ranges
    graphs = {precision: bundle.read(model_file(precision)) for precision in ("fp32", "fp16")}
    for base in get_args(Base):
        graphs[f"int8 over {base}"] = lowering.int8_model(ranges, base, lowering.quantised_modules).SerializeToString()
    features, cu_seqlens = parse_workload(WORKLOAD).make(bundle.manifest.skeleton, bundle.manifest.features)
    times = time_in_turn(graphs, {"features": features, "cu_seqlens": cu_seqlens}, threads, ROUNDS)
    return tuple(Latency(graph, float(np.median(seconds)) * 1e3) for graph, seconds in times.items())


if __name__ == "__main__":
    main()
