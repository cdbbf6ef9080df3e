"""Post-training quantisation beside quantisation-aware training, on a model as it is and on one made hard for INT8.

    python benchmarks/qat.py msr_action3d DATA/msr_action3d.npz ckpt.pt

The hard model is the same one with a hidden unit of each encoder's FFN stuck: the unit that ``linear2`` reads least always gives the
activation ``--stuck``, and ``linear2``'s bias takes it away again. In float that costs what the unit told, which is little; INT8 has
to span the level, so that its steps are coarse for all other units. The level was chosen on val.

Both models are judged three times on val and test, by ONNX Runtime: INT8 after PTQ by every method, INT8 after ``train --qat`` with
its default recipe, each beside the fp32 of the same weights; for QAT also beside the fp32 model it began with. An interrupted
training goes on in ``--out``. Writes ``results/qat-NAME.json``.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click
import msgspec
import numpy as np
import onnx
import torch

from calibration.calibrate import collect, make_table, methods_of
from calibration.histograms import PERCENTILE
from calibration.int8 import logits_of, make_int8_model
from calibration.reader import ClipReader
from calibration.report import Int8Score
from calibration.score import score
from calibration.selection import stratified, training_clips
from exporters.onnx.lowering import lowering_of
from runtime.bundle import Bundle
from runtime.files import write_atomic
from runtime.manifest import model_file
from star_edge.bench.host import read_host
from star_edge.bench.report import Host
from star_edge.data import Dataset, open_dataset
from star_edge.export import export_checkpoint
from star_edge.training.checkpoint import load_checkpoint, save_checkpoint
from star_edge.training.qat import QatTrainer

HERE = Path(__file__).parent
SAMPLES = 512
PARTS = ("val", "test")


class Row(msgspec.Struct, frozen=True):
    """INT8 of one model by one method on one part: beside fp32 of the same weights, and of those training began with."""

    model: str
    trained: bool
    method: str
    part: str
    score: Int8Score
    beside_start: Int8Score


class QatReport(msgspec.Struct, frozen=True):
    """``stuck``: the activation of the hard model's stuck units."""

    data: str
    data_sha256: str
    split: str
    samples: int
    stuck: float
    epochs: int
    lr: float
    rows: tuple[Row, ...]
    command: str
    host: Host
    schema: str = "star-edge/qat/1"


@click.command()
@click.argument("name")
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--stuck", type=float, default=100.0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/qat-benchmark"), show_default=True)
def main(name: str, data: Path, checkpoint: Path, stuck: float, threads: int, out: Path) -> None:
    """Measure, and write results/qat-NAME.json."""
    torch.set_num_threads(threads)
    dataset = open_dataset(data)
    hard = out / f"{name}-hard.pt"
    out.mkdir(parents=True, exist_ok=True)
    stick(checkpoint, hard, stuck)
    rows: list[Row] = []
    for model, start in (("as it is", checkpoint), ("hard", hard)):
        folder = out / f"{name}-{start.stem}"
        trainer = QatTrainer.of(start, data, None, folder)
        if (folder / "last.pt").exists():
            trainer.resume()
        trained = trainer.run(lambda epoch: click.echo(f"{epoch}"))
        began = export(start, out / "start.star")
        for is_trained, bundle in ((False, began), (True, export(trained, out / "trained.star"))):
            rows += [Row(model, is_trained, *found) for found in judge(bundle, began, dataset)]
    report = QatReport(
        data=dataset.meta.name,
        data_sha256=dataset.meta.sha256,
        split=trainer.task.data.split,
        samples=SAMPLES,
        stuck=stuck,
        epochs=trainer.recipe.epochs,
        lr=trainer.recipe.lr,
        rows=tuple(rows),
        command=shlex.join(["python", "benchmarks/qat.py", *(Path(word).name for word in sys.argv[1:])]),
        host=read_host(),
    )
    write_atomic(HERE / "results" / f"qat-{name}.json", msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    for row in rows:
        click.echo(f"{row.model:8} {'QAT' if row.trained else 'PTQ'} {row.method:10} {row.part:4} {row.score}")


def stick(checkpoint: Path, out: Path, level: float) -> None:
    """Write the checkpoint with one stuck hidden unit in each FFN."""
    saved = load_checkpoint(checkpoint)
    weights = saved.state_dict
    for path in [name.removesuffix(".linear2.weight") for name in weights if name.endswith(".linear2.weight")]:
        read = weights[f"{path}.linear2.weight"]
        unit = read.norm(dim=0).argmin()
        weights[f"{path}.linear1.weight"][unit] = 0
        weights[f"{path}.linear1.bias"][unit] = level
        weights[f"{path}.linear2.bias"] -= level * read[:, unit]
    save_checkpoint(saved, out)


def export(checkpoint: Path, out: Path) -> Bundle:
    export_checkpoint(checkpoint, out, force=True)
    return Bundle.open(out)


def judge(bundle: Bundle, began: Bundle, dataset: Dataset) -> list[tuple[str, str, Int8Score, Int8Score]]:
    """(method, part, beside fp32, beside fp32 of ``began``) of every method; of ``trained`` alone where there are such ranges."""
    scheme = bundle.manifest.source.split
    train = training_clips(dataset, scheme)
    chosen = train[stratified(dataset.names[train], dataset.labels[train], dataset.lengths[train], SAMPLES)]
    reader = ClipReader(dataset, chosen, bundle.manifest.features)
    fp32 = bundle.read(model_file("fp32"))
    histograms = collect(onnx.load_model_from_string(fp32), lowering_of(bundle), reader)
    methods = methods_of(bundle, None if bundle.manifest.source.trained else "best")
    tables = {method: make_table(bundle, histograms, method, PERCENTILE, reader.names, SAMPLES) for method in methods}
    found: list[tuple[str, str, Int8Score, Int8Score]] = []
    for part in PARTS:
        clips = dataset.indices(scheme, part)
        judged, labels = ClipReader(dataset, clips, bundle.manifest.features), dataset.labels[clips]
        own, first = (logits_of(each.read(model_file("fp32")), judged, "fp32") for each in (bundle, began))
        for method, table in tables.items():
            logits: np.ndarray = logits_of(make_int8_model(bundle, table).data, judged, method)
            found.append((method, part, score(logits, own, labels), score(logits, first, labels)))
    return found


if __name__ == "__main__":
    main()
