"""Whether SmoothQuant helps: logits of fake INT8 beside fp32 on val clips, with and without it.

    python benchmarks/smoothquant.py DATA/nw_ucla.npz nw_ucla.pt DATA/msr_action3d.npz msr.pt ...

SmoothQuant (Xiao et al., arXiv 2211.10438) divides each channel c of a product's input by s_c = sqrt(max|x_c| / max|w_c|) and
multiplies the weight's column by it. Inputs and weights are rounded by ModelOpt's fake quantisers, ranges taken by mse from 128
training clips. Rule, written before the measurement: it is to be built in if it gains more than 1 dB on all of the models that INT8
is recorded for, or mends a gate that calibration misses. Writes ``results/smoothquant.json``.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import numpy as np
import torch
from torch import Tensor

from calibration.report import Int8Score
from calibration.score import score
from calibration.selection import stratified, training_clips
from runtime.files import write_atomic
from star_edge.bench.host import read_host
from star_edge.bench.report import Host
from star_edge.data import Dataset, open_dataset
from star_edge.models.star import Star
from star_edge.training.batches import packed_batches
from star_edge.training.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint
from star_edge.training.evaluate import FRAMES_PER_BATCH, model_logits
from star_edge.training.fake_quant import Batches, find_ranges, insert_quantisers, quantised_products, set_ranges, show_inputs

HERE = Path(__file__).parent
SAMPLES = 128
_LEAST = 1e-5  # magnitude of a channel that is always zero


class Smoothing(msgspec.Struct, frozen=True):
    """One checkpoint on the val clips of its split."""

    checkpoint: str
    data: str
    split: str
    plain: Int8Score
    smooth: Int8Score


class SmoothingReport(msgspec.Struct, frozen=True):
    samples: int
    results: tuple[Smoothing, ...]
    command: str
    host: Host
    schema: str = "star-edge/smoothquant/1"


@click.command()
@click.argument("pairs", nargs=-1, required=True, metavar="DATA CKPT...", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
def main(pairs: tuple[Path, ...], threads: int) -> None:
    """Measure, and write results/smoothquant.json."""
    torch.set_num_threads(threads)
    results = []
    for data, path in zip(pairs[::2], pairs[1::2], strict=True):
        results.append(measure(open_dataset(data), path))
        click.echo(f"{results[-1]}")
    report = SmoothingReport(
        samples=SAMPLES,
        results=tuple(results),
        command=shlex.join(["python", "benchmarks/smoothquant.py", *(Path(word).name for word in sys.argv[1:])]),
        host=read_host(),
    )
    path = HERE / "results" / "smoothquant.json"
    write_atomic(path, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def measure(dataset: Dataset, path: Path) -> Smoothing:
    """Both kinds of INT8 of one checkpoint."""
    saved = load_checkpoint(path)
    scheme = saved.data.split
    train, val = training_clips(dataset, scheme), dataset.indices(scheme, "val")
    chosen = train[stratified(dataset.names[train], dataset.labels[train], dataset.lengths[train], SAMPLES)]
    clips, labels = dataset.clips(val), dataset.labels[val]
    reference = model_logits(build_from_checkpoint(saved), clips, saved.skeleton, saved.features)
    scores = []
    for smooth in (False, True):
        model = int8_model(saved, dataset, chosen, smooth)
        scores.append(score(model_logits(model, clips, saved.skeleton, saved.features), reference, labels))
    return Smoothing(path.stem, dataset.meta.name, scheme, *scores)


def int8_model(saved: Checkpoint, dataset: Dataset, clips: np.ndarray, smooth: bool) -> Star:
    """The checkpoint's model in fake INT8."""

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for rows, cu_seqlens, _ in packed_batches(dataset.clips(clips), saved.skeleton, saved.features, FRAMES_PER_BATCH):
            yield torch.from_numpy(rows), torch.from_numpy(cu_seqlens)

    model = build_from_checkpoint(saved)
    assert isinstance(model, Star)
    insert_quantisers(model)
    if smooth:
        smooth_inputs(model, batches())
    set_ranges(model, find_ranges(model, batches))
    return model


@torch.no_grad()
def smooth_inputs(model: Star, batches: Batches) -> None:
    """Divide the channels of every quantised input, and multiply its weight's columns, in place."""
    largest: dict[str, Tensor] = {}

    def enlarge(key: str, values: Tensor) -> None:
        found = values.abs().reshape(-1, values.shape[-1]).amax(0)
        largest[key] = torch.maximum(largest.get(key, found), found)

    show_inputs(model, batches, enlarge)
    for module, product in quantised_products(model).items():
        scale = (largest[f"{module}.in"].clamp(min=_LEAST) / product.weight.abs().amax(0).clamp(min=_LEAST)).sqrt()
        product.weight.mul_(scale)
        product.register_forward_pre_hook(lambda _, inputs, scale=scale: (inputs[0] / scale,))


if __name__ == "__main__":
    main()
