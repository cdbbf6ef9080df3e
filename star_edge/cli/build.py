"""``star-edge build``: a bundle's TensorRT engine, or the graphs and commands to build it by other means."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.bundle import Bundle
from runtime.errors import InputError
from runtime.tensorrt.buckets import BUCKETS, Bucket, parse_buckets
from star_edge.cli.common import Output, common_options, find_bundle

if TYPE_CHECKING:
    from star_edge.build import BuildReport, RtxReport

_log = logging.getLogger("star_edge.build")
_TARGETS = ("tensorrt", "tensorrt-rtx", "onnxruntime")
_OPS = {
    "positions": "StarSegmentedPositions",
    "sparse": "StarSparseAttention",
    "linear": "StarSegmentedLinearAttention",
    "context": "StarContextAttention",
}


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--board", metavar="NAME", help="The board that this must be, see star-edge boards; any if left out.")
@click.option("--fp32", "precision", flag_value="fp32", help="Build the fp32 engine.")
@click.option("--fp16", "precision", flag_value="fp16", help="Build the fp16 engine.")
@click.option("--int8", "precision", flag_value="int8", help="Build the int8 engine.")
@click.option("--target", type=click.Choice(_TARGETS), default="tensorrt", show_default=True)
@click.option("--buckets", metavar="ROWSxCLIPS,...", help=f"Sizes to build for; default: {','.join(map(str, BUCKETS))}.")
@click.option("--int8-ops", metavar="OP,...", help=f"Ops that take and give int8, of {', '.join(_OPS)}, or none; "
              "default: sparse,linear.")  # fmt: skip
@click.option("--tensorrt-include", "include", type=click.Path(path_type=Path), metavar="FOLDER",
              help="TensorRT's headers, if they are not where JetPack puts them.")  # fmt: skip
@click.option(
    "--graph-only", "graph", type=click.Path(path_type=Path), metavar="OUT.onnx", help="Only write the target's graph."
)
@click.option("--print-trtexec", is_flag=True, help="Only print the trtexec commands that build the same.")
@common_options
def command(
    bundle: Path | None,
    board: str | None,
    precision: str | None,
    target: str,
    buckets: str | None,
    int8_ops: str | None,
    include: Path | None,
    graph: Path | None,
    print_trtexec: bool,
    output: Output,
) -> None:
    """Build BUNDLE's TensorRT engine on the board that will run it, in the power mode that it will run in.

    \b
    tensorrt      compile the plugins, build, compare every profile with fp32, store BUNDLE/engines/
    tensorrt-rtx  build without plugins, without a GPU, every precision unless one is named; proves the graphs, keeps nothing
    onnxruntime   for --graph-only: the same answers from function bodies

    A batch runs in the smallest bucket that holds it. Answers outside the tolerance end with exit code 3, and no engine is kept.
    """
    from star_edge import build

    _check_usage(target, graph, print_trtexec, board=board, buckets=buckets, tensorrt_include=include)
    sizes = BUCKETS if buckets is None else parse_buckets(buckets)
    opened, ops = Bundle.open(find_bundle(bundle, folder_for="build")), _parse_ops(int8_ops)
    if graph is not None:
        written = build.write_graph(opened, graph, target, precision, ops)
        output.document(written)
        output.console.print(
            f"{graph}: {written.bytes / 1e6:.2f} MB, {written.precision} for {target}, {written.plugins} plugins; "
            f"next: star-edge inspect {graph}",
            soft_wrap=True,
        )
    elif print_trtexec:
        commands = build.trtexec_commands(opened, precision, sizes, int8_ops, board)
        output.document(commands)
        for line in commands.commands:
            output.console.print(line, markup=False, soft_wrap=True)
    elif target == "tensorrt-rtx":
        rtx = build.prove_with_rtx(opened, precision, sizes, ops, _step(output))
        output.document(rtx)
        _show_rtx(rtx, output)
    else:
        line = shlex.join(["star-edge", *sys.argv[1:]])
        report = build.build(opened, board=board, precision=precision, buckets=sizes, int8_ops=ops, include=include,
                             step=_step(output), command=line)  # fmt: skip
        _show(report, output)


def _check_usage(target: str, graph: Path | None, print_trtexec: bool, **given: object) -> None:
    """Refuse options that what is asked for has no use for."""
    if target == "onnxruntime" and graph is None:
        raise click.UsageError("--target onnxruntime belongs to --graph-only: nothing is built for ONNX Runtime")
    if print_trtexec and (graph is not None or target != "tensorrt"):
        raise click.UsageError("--print-trtexec is of the target tensorrt, and stands without --graph-only")
    what, useless = f"--target {target}", {"board", "tensorrt_include"} if target != "tensorrt" else set()
    if graph is not None:
        what, useless = "--graph-only", {"board", "buckets", "tensorrt_include"}
    elif print_trtexec:
        what, useless = "--print-trtexec", {"tensorrt_include"}
    for name, value in given.items():
        if name in useless and value is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} changes nothing of {what}; leave it out")


def _parse_ops(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")] if text != "none" else []
    if unknown := [word for word in words if word not in _OPS]:
        raise InputError(
            "no such op", where="--int8-ops", found=", ".join(unknown), expected=f"some of {', '.join(_OPS)}, or none"
        )
    return tuple(_OPS[word] for word in words)


def _step(output: Output) -> Callable[[str], contextlib.AbstractContextManager[None]]:
    """Says on stderr what is being done, for how long it has been, and at the end how long it took."""

    @contextlib.contextmanager
    def step(what: str) -> Iterator[None]:
        begun = time.perf_counter()
        with output.progress() as progress:
            progress.add_task(what, total=None)
            yield
        _log.info("%s: %.1f s", what, time.perf_counter() - begun)

    return step


def _show(report: BuildReport, output: Output) -> None:
    from rich.table import Table

    output.document(report)
    made = report.sidecar
    table = Table(title=f"{made.precision} by TensorRT {made.tensorrt} on {made.gpu}", title_justify="left")
    for title in ("rows", "clips", "golden clips", "error", "error of a full clip", "allowed"):
        table.add_column(title, justify="right")
    for check in made.verification:
        table.add_row(f"{check.rows:,}", str(check.clips), str(check.golden_clips), f"{check.error:.1e}",
                      f"{check.long_error:.1e}", f"{check.tolerance:.0e}")  # fmt: skip
    output.console.print(table)
    output.console.print(
        f"{report.engine}: {made.engine_bytes / 1e6:.1f} MB, {made.plugin_layers} plugin layers, {len(made.profiles)} profiles "
        f"passed{_sparse(made.sparse_products)}, built in {made.build_seconds:.0f} s; next: star-edge verify {report.bundle} --engine tensorrt",
        soft_wrap=True,
    )


def _show_rtx(report: RtxReport, output: Output) -> None:
    from rich.table import Table

    table = Table(title=f"without plugins, by TensorRT-RTX {report.builds[0].version}", title_justify="left")
    for title in ("precision", "layers", "2:4 products", "profiles", "MB", "seconds"):
        table.add_column(title, justify="right")
    for built in report.builds:
        table.add_row(built.precision, str(built.layers), str(built.sparse_products or "-"), _sizes(built.profiles),
                      f"{built.engine_bytes / 1e6:.1f}", f"{built.seconds:.1f}")  # fmt: skip
    output.console.print(table)
    output.console.print(
        f"{' and '.join(built.precision for built in report.builds)} built by TensorRT-RTX, and not kept: no Jetson runs it; "
        "next, on the board: star-edge build",
        soft_wrap=True,
    )


def _sparse(products: int) -> str:
    return f", sparse tensor cores allowed in {products} products" if products else ""


def _sizes(buckets: tuple[Bucket, ...]) -> str:
    return ", ".join(map(str, buckets))
