"""``star-edge boards``: what is known of the boards, and how fast they could run a bundle at best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

import boards as catalog
from star_edge.cli.common import Output, common_options, find_bundle

if TYPE_CHECKING:
    from rich.table import Table

    from star_edge.bench.roofline import PredictionReport

SCHEMA = "star-edge/boards/1"


class BoardsReport(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``star-edge boards --json`` and of ``boards show``: ``here`` is this machine, if it is a Jetson."""

    boards: tuple[catalog.Board, ...]
    releases: tuple[catalog.Release, ...]
    here: catalog.Detected | None
    schema: str = SCHEMA


@click.group(invoke_without_command=True)
@common_options
@click.pass_context
def command(context: click.Context, output: Output) -> None:
    """List the boards, show what is known of one with sources, or predict how fast they could run a bundle.

    \b
    star-edge boards                            boards and JetPack releases
    star-edge boards show orin-nano-8gb         every fact with its source and how sure it is
    star-edge boards predict --board agx-orin-64gb
    """
    if context.invoked_subcommand is not None:
        return
    report = BoardsReport(boards=tuple(map(catalog.load, catalog.names())), releases=catalog.releases(), here=catalog.detect())
    output.document(report)
    output.console.print(_boards(report))
    output.console.print(_releases(report.releases, sources=False))
    here = report.here.board if report.here else ""
    output.console.print(
        f"{len(report.boards)} boards, facts from documents, nothing measured"
        + (f"; this is {here}" if here else "")
        + f"; next: star-edge boards show {here or report.boards[0].name}",
        soft_wrap=True,
    )


@command.command()
@click.argument("name")
@common_options
def show(name: str, output: Output) -> None:
    """Every fact of the board NAME with its source and how sure it is, and the JetPack releases for it.

    \b
    S   read in source code, a header, a changelog or the vendor's own documentation
    V   tried by this project
    D   derived by arithmetic from cited numbers
    3P  stated by a third party only
    U   not confirmed
    """
    board = catalog.load(name)
    releases = tuple(release for release in catalog.releases() if board.family in release.families)
    output.document(BoardsReport(boards=(board,), releases=releases, here=catalog.detect()))
    output.console.print(_facts(board))
    output.console.print(_releases(releases, sources=True))
    output.console.print(f"{board.title}; next: star-edge boards predict --board {board.name}", soft_wrap=True)


@command.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--board", metavar="NAME", help="One board; all if left out.")
@click.option("--workload", metavar="NAME,...", default="1x300", show_default=True, help="As star-edge bench takes them.")
@common_options
def predict(bundle: Path | None, board: str | None, workload: str, output: Output) -> None:
    """Predict BUNDLE's least time on each board and power mode: nothing is run, and no figure is a measurement.

    The larger of two times per precision: multiply-accumulates over the rate of the units that do them, and bytes moved
    over the memory's bandwidth. What both leave out is written in star_edge/bench/roofline.py.
    """
    from runtime.bundle import Bundle
    from star_edge.bench.roofline import predict as predict_all

    chosen = [catalog.load(board)] if board else [catalog.load(name) for name in catalog.names()]
    report = predict_all(Bundle.open(find_bundle(bundle)), chosen, [name.strip() for name in workload.split(",")])
    output.document(report)
    _show_predictions(report, output)


def _show_predictions(report: PredictionReport, output: Output) -> None:
    console = output.console
    console.print(f"This is {report.statement}.", soft_wrap=True)
    for name in dict.fromkeys(row.workload for row in report.predictions):
        table = _table(f"{name}: predicted, not measured", "board", "power mode", "precision")
        for title in ("predicted\nms", "arithmetic\nms", "memory\nms", "floor\nms"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("bound by")
        table.add_column("sure")
        for row in report.predictions:
            if row.workload == name:
                times = (row.predicted_ms, row.arithmetic_ms, row.memory_ms, row.floor_ms)
                mode = row.mode or "highest clock"
                _row(table, row.board, mode, row.precision, *(f"{time:.3g}" for time in times), row.bound, row.confidence)
        console.print(table)
    for board in dict.fromkeys(gap.board for gap in report.unknown):
        modes = ", ".join(gap.mode for gap in report.unknown if gap.board == board)
        console.print(f"{board}: no prediction for {modes}: the GPU's clock there is not known", soft_wrap=True)
    console.print(
        f"{len(report.predictions)} predictions, no measurement; on the board: star-edge bench {report.bundle}", soft_wrap=True
    )


def _boards(report: BoardsReport) -> Table:
    table = _table(
        "boards; 2:4 sparse and DLA figures are not used", "board", "arch", "SMs", "GPU MHz", "memory", "L2", "power modes"
    )
    for board in report.boards:
        facts = board.facts
        modes = ", ".join(f"{mode} (default)" if _is_default(board, mode) else mode for mode in board.modes)
        memory = f"{facts.memory_gb.value} GB, {facts.memory_gb_per_s.value:g} GB/s"
        cache = f"{facts.l2_mb.value:g} MB" if facts.l2_mb else "unknown"
        _row(
            table,
            board.name,
            facts.arch.value,
            str(facts.sms.value),
            str(facts.gpu_mhz.value),
            memory,
            cache,
            modes or "unknown",
        )
    return table


def _is_default(board: catalog.Board, mode: str) -> bool:
    return board.facts.default_mode is not None and board.facts.default_mode.value == mode


def _releases(releases: tuple[catalog.Release, ...], sources: bool) -> Table:
    titles = ("JetPack", "Jetson Linux", "for", "CUDA", "cuDNN", "TensorRT", "Ubuntu, Python", "state")
    table = _table("JetPack", *titles, *(("sure", "from") if sources else ()))
    for release in releases:
        state = f"refused: {release.refused}" if release.refused else release.note or "supported"
        system = f"{release.ubuntu}, {release.python}"
        _row(table, release.name, ", ".join(release.l4t), ", ".join(release.families), release.cuda, release.cudnn,
             release.tensorrt, system, state, *((release.confidence, release.source) if sources else ()))  # fmt: skip
    return table


def _facts(board: catalog.Board) -> Table:
    table = _table(f"{board.title} ({board.name})", "fact", "value", "sure", "from")
    for name in board.facts.__struct_fields__:
        _fact_row(table, name, getattr(board.facts, name))
    for mode, facts in board.modes.items():
        for name in facts.__struct_fields__:
            _fact_row(table, f"{mode}: {name}", getattr(facts, name))
    return table


def _fact_row(table: Table, name: str, fact: catalog.Fact[Any] | None) -> None:
    if fact is None:
        _row(table, name, "unknown", "", "")
        return
    value = ", ".join(fact.value) if isinstance(fact.value, tuple) else str(fact.value)
    _row(table, name, value, fact.confidence, fact.source + (f"; {fact.note}" if fact.note else ""))


def _table(title: str, *titles: str) -> Table:
    """Columns whose entries are broken, never cut, where the terminal is narrow."""
    from rich import box
    from rich.table import Column, Table

    columns = (Column(name, overflow="fold") for name in titles)
    return Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _row(table: Table, *cells: str) -> None:
    """A row whose brackets are not taken for markup."""
    from rich.markup import escape

    table.add_row(*map(escape, cells))
