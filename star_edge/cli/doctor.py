"""``star-edge doctor``: what is installed, what is missing for which verb, and what mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from runtime.errors import MismatchError
from star_edge.cli.common import Output, common_options
from star_edge.dependencies import BASE, VERBS

if TYPE_CHECKING:
    from rich.table import Table

    from star_edge.doctor import DoctorReport, NativeFound, Nvidia, PackageFound


@click.command()
@click.argument("verbs", nargs=-1, metavar="[VERB]...")
@common_options
def command(verbs: tuple[str, ...], output: Output) -> None:
    """Say what is installed here, what is missing for which verb, and the command that brings it.

    \b
    star-edge doctor                   everything; always exit code 0
    star-edge doctor calibrate bench   exit code 4 unless both have what they need
    """
    from star_edge.cli import VERBS as ALL
    from star_edge.doctor import examine

    unknown = [verb for verb in verbs if verb not in ALL]
    if unknown:
        raise click.UsageError(f"No such verb '{unknown[0]}'. Verbs: {', '.join(ALL)}.")
    report = examine(list(dict.fromkeys(verbs)) or [verb for verb in ALL if verb in VERBS])
    output.document(report)
    show(report, output, everything=not verbs)
    if verbs and not report.ready:
        raise MismatchError(
            f"star-edge {' and '.join(verb.verb for verb in report.verbs if not verb.ready)} cannot run here",
            where=report.python.executable,
            found="; ".join([*_states(report), *filter(None, [report.native.problem, report.nvidia.refused])]),
            expected="; ".join(f"{package.name} {package.wanted}" for package in _lacking(report)) or "a whole installation",
            hint=report.command,
        )


def show(report: DoctorReport, output: Output, everything: bool = True) -> None:
    """The machine, packages, tools and verbs in tables; last how many are ready, and the next command."""
    console = output.console
    for table in (_machine(report), _packages(report, everything), _tools(report), _verbs(report)):
        console.print(table)
    if report.nvidia.refused:
        console.print(f"No TensorRT engine for this Jetson. {report.nvidia.refused}.", soft_wrap=True, markup=False)
    ready = sum(verb.ready for verb in report.verbs)
    step = report.command or "star-edge demo"
    console.print(f"{ready} of {len(report.verbs)} verbs have what they need; next: {step}", soft_wrap=True, markup=False)


def _lacking(report: DoctorReport) -> list[PackageFound]:
    """The packages that a verb asked about cannot do without and does not have."""
    missing = {name for verb in report.verbs for name in verb.missing}
    return [package for package in report.packages if package.name in missing]


def _states(report: DoctorReport) -> list[str]:
    words = {"missing": "no {0}", "other version": "{0} {1}", "broken": "{0} {1} without its files"}
    return [words[package.state].format(package.name, package.found) for package in _lacking(report)]


def _table(*titles: str) -> Table:
    """Columns whose entries are broken, never cut, where the terminal is narrow."""
    from rich import box
    from rich.table import Column, Table

    return Table(*(Column(title, overflow="fold") for title in titles), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _row(table: Table, *cells: str) -> None:
    """A row whose brackets are not taken for markup."""
    from rich.markup import escape

    table.add_row(*map(escape, cells))


def _machine(report: DoctorReport) -> Table:
    python, machine = report.python, report.machine
    memory = f", {machine.memory_mb / 1024:.1f} GB" if machine.memory_mb else ""
    environment = "virtual environment" if python.virtual_environment else "not in a virtual environment"
    table = _table("here", "")
    _row(table, "star-edge", report.star_edge_version)
    _row(table, "Python", f"{python.version} (tested with {python.tested}), {python.executable}, {environment}")
    _row(table, "system", f"{machine.system}, {machine.architecture}")
    _row(table, "processor", f"{machine.cpu}, {machine.cores} usable cores{memory}")
    _row(table, "features", ", ".join(name if has else f"no {name}" for name, has in machine.features.items()))
    _row(table, "native engine", _native(report.native))
    _row(table, "NVIDIA", _nvidia(report.nvidia))
    return table


def _native(found: NativeFound) -> str:
    if found.problem:
        return f"{found.problem} ({found.command})"
    runs = ", ".join(f"{precision} by {instruction}" for precision, instruction in found.products.items())
    return f"{found.version}, {found.library}; instruction sets: {found.instruction_sets}; runs {runs}"


def _nvidia(found: Nvidia) -> str:
    parts = {
        "driver": found.driver,
        "nvidia-smi": found.nvidia_smi,
        "board": f"{found.board} ({found.board_name or 'not in star-edge boards'})" if found.board else "",
        "Jetson Linux": found.jetson_linux,
        "JetPack": found.jetpack,
        "TensorRT": found.tensorrt,
        "CUDA": found.cuda,
        "nvcc": found.nvcc,
        "power mode": found.power_mode,
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value) or "no driver, no JetPack, no TensorRT seen"


def _packages(report: DoctorReport, everything: bool) -> Table:
    """All packages, or only what the verbs asked about need or can use."""
    used = {*BASE}
    for verb in report.verbs:
        needs = VERBS[verb.verb]
        used |= {*needs.packages, *(name for option in needs.options for name in option.packages)}
    table = _table("package", "found", "asked for", "tested with", "extra")
    for package in report.packages:
        if everything or package.name in used:
            found = package.found if package.state == "ok" else f"{package.found or '-'} ({package.state})"
            _row(table, package.name, found, package.wanted, package.tested, ", ".join(package.extras))
    return table


def _tools(report: DoctorReport) -> Table:
    table = _table("tool", "found", "for")
    for tool in report.tools:
        _row(table, tool.name, tool.found or f"- ({tool.command})", tool.purpose)
    return table


def _verbs(report: DoctorReport) -> Table:
    table = _table("verb", "ready", "missing", "what brings it")
    for verb in report.verbs:
        _row(table, verb.verb, "yes" if verb.ready else "NO", ", ".join(verb.missing), verb.command)
        for option in verb.options:
            if option.missing:
                _row(table, "", "", f"for {option.purpose}: {', '.join(option.missing)}", option.command)
    return table
