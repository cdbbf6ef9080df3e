"""What low rank leaves of STEP-CATFormer: its parameters at each rank of its ten square matrices, and what these lose.

    python benchmarks/step_catformer.py

The model is the registered one, for ntu25 and 60 classes. By Eckart-Young the best matrix of rank k loses the singular values behind the
k-th, so that one spectrum of each matrix tells the error at every rank. The weights are freshly initialised: random matrices are
the worst case, which the law of Marchenko and Pastur foretells; what trained ones lose is not measured.
Writes ``results/step-catformer.json`` and prints it as the table of benchmarks/README.md.
"""

from __future__ import annotations

import math
import resource
import shlex
import sys
import time
from pathlib import Path

import click
import msgspec
import torch
from torch import Tensor, nn

from runtime.files import write_atomic
from star_edge.bench.host import read_host
from star_edge.bench.report import Host
from star_edge.compression.low_rank import candidates, factorise
from star_edge.models.config import PaddedConfig
from star_edge.models.registry import build_model, padded_config
from star_edge.skeletons import NTU25

RESULT = Path(__file__).parent / "results" / "step-catformer.json"
RANKS = (1024, 512, 256, 128, 64)
_MODEL, _CLASSES = "step-catformer", 60


class Cut(msgspec.Struct, frozen=True):
    """The model with factors of one rank in place of its square matrices.

    Attributes:
        parameters: of the whole model.
        lowest, highest: relative error of a matrix, in the Frobenius norm, over all of them.
        expected: of a random matrix, by the law of Marchenko and Pastur.
    """

    rank: int
    parameters: int
    lowest: float
    highest: float
    expected: float


class Report(msgspec.Struct, frozen=True):
    """Attributes: side, matrices: rows and number of the square matrices. seconds, peak_mb: of the whole run."""

    model: str
    parameters: int
    side: int
    matrices: tuple[str, ...]
    cuts: tuple[Cut, ...]
    seed: int
    seconds: float
    peak_mb: int
    command: str
    host: Host
    schema: str = "star-edge/step-catformer/1"


@click.command()
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(threads: int, seed: int) -> None:
    """Measure, write results/step-catformer.json and print its table."""
    torch.set_num_threads(threads)
    report = measure(padded_config(_MODEL, NTU25, channels=4, classes=_CLASSES), RANKS, seed)
    write_atomic(RESULT, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    click.echo(table(report))


def measure(config: PaddedConfig, ranks: tuple[int, ...], seed: int) -> Report:
    """A fresh model of this shape at each rank."""
    begun = time.monotonic()
    torch.manual_seed(seed)
    model = build_model(_MODEL, config)
    matrices = square_matrices(model, config)
    errors = [[relative_error(energies, rank) for rank in ranks] for energies in map(spectrum, matrices.values())]
    side = 4 * config.dim * config.joints
    return Report(
        model=_MODEL,
        parameters=_count(model),
        side=side,
        matrices=tuple(matrices),
        cuts=tuple(
            Cut(rank, parameters_at(config, tuple(matrices), rank), min(found), max(found), expected_error(rank / side))
            for rank, found in zip(ranks, zip(*errors, strict=True), strict=True)
        ),
        seed=seed,
        seconds=time.monotonic() - begun,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        command=shlex.join(["python", "benchmarks/step_catformer.py", *sys.argv[1:]]),
        host=read_host(),
    )


def square_matrices(model: nn.Module, config: PaddedConfig) -> dict[str, Tensor]:
    """Path -> weight of the layers that mix all joints and channels: [V * 4 * dim, V * 4 * dim]."""
    side = 4 * config.dim * config.joints
    paths = [path for path, matrix in candidates(model).items() if (matrix.outputs, matrix.inputs) == (side, side)]
    return {path: model.get_parameter(f"{path}.weight").detach() for path in paths}


def spectrum(matrix: Tensor) -> Tensor:
    """Squared singular values of a matrix, largest first, as eigenvalues of W Wᵀ: several times faster than its SVD."""
    return torch.linalg.eigvalsh(matrix @ matrix.T).flip(0).clamp(min=0).double()


def relative_error(energies: Tensor, rank: int) -> float:
    """|W - W_k| / |W| in the Frobenius norm."""
    return float((energies[rank:].sum() / energies.sum()).sqrt())


def expected_error(share: float) -> float:
    """Of a large square matrix of independent entries, cut to this share of its ranks.

    Its singular values are distributed as 2 sin(t), t in [0, pi / 2] with density 4 cos²(t) / pi (Marchenko-Pastur, square): those
    up to t are (2t + sin(2t)) / pi of them and hold (2t - sin(4t) / 2) / pi of the energy.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if (2 * middle + math.sin(2 * middle)) / math.pi < 1 - share:
            low = middle
        else:
            high = middle
    return math.sqrt((2 * low - math.sin(4 * low) / 2) / math.pi)


def parameters_at(config: PaddedConfig, paths: tuple[str, ...], rank: int) -> int:
    """Parameters of the model with two factors in place of each of these layers."""
    with torch.device("meta"):
        model = build_model(_MODEL, config)
        factorise(model, dict.fromkeys(paths, rank))
    return _count(model)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def table(report: Report) -> str:
    """The report as Markdown."""
    lines = [
        "| rank of the ten matrices | parameters | left | error of a random matrix | expected |",
        "| ---: | ---: | ---: | ---: | ---: |",
        f"| {report.side:,}, whole | {report.parameters:,} | 100 % | | |",
    ]
    for cut in report.cuts:
        share = cut.parameters / report.parameters
        error = f"{100 * cut.lowest:.2f} to {100 * cut.highest:.2f} %"
        lines.append(f"| {cut.rank:,} | {cut.parameters:,} | {100 * share:.0f} % | {error} | {100 * cut.expected:.2f} % |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
