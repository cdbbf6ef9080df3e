"""``star-edge bench``: latency of every engine beside PyTorch on the same clips."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.errors import GateError
from runtime.manifest import PRECISIONS
from star_edge.bench import CUDA_ENGINES, DEFAULT_ENGINES, DEFAULT_WORKLOADS, ENGINES, bench_bundle
from star_edge.bench.jetson import describe, warnings
from star_edge.bench.measure import Plan
from star_edge.cli.common import Output, common_options, find_bundle

if TYPE_CHECKING:
    from star_edge.bench import BenchReport, BenchResult


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--workload", metavar="NAME,...", default=",".join(DEFAULT_WORKLOADS), show_default=True,
              help="CLIPSxFRAMES, CLIPSxFRAMES:PERSONSp, or mix8 (8 clips of 32 to 300 frames).")  # fmt: skip
@click.option("--engine", "engines", type=click.Choice([*dict.fromkeys([*ENGINES, *CUDA_ENGINES])]), multiple=True,
              help="Engine to measure beside eager PyTorch; may be repeated. If left out: "
                   f"{', '.join(DEFAULT_ENGINES[1:])}; the others, peers that take packages or minutes more, only when named. With --device cuda: {', '.join(CUDA_ENGINES)}.")  # fmt: skip
@click.option("--precision", type=click.Choice(["all", *PRECISIONS]), default="all", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of every engine; default: all usable cores.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True,
              help="cuda: PyTorch eager, compiled and in the paper's form, beside our engine, on an NVIDIA GPU.")  # fmt: skip
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True,
              help="Timed seconds of each engine and workload, of at least one call a round.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(min=1), help="Timed calls of each engine and workload, instead of --duration.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Turns each engine takes.")
@click.option("--compile-limit", type=click.FloatRange(min=0, min_open=True), default=180.0, show_default=True,
              help="Seconds that the first call of an engine may take, torch.compile's included.")  # fmt: skip
@click.option("--idle", metavar="MS,...", callback=lambda context, parameter, text: _gaps(text),
              help="Afterwards, also time calls after so many milliseconds without any, e.g. 0,33,100.")  # fmt: skip
@common_options
def command(
    bundle: Path | None,
    workload: str,
    engines: tuple[str, ...],
    precision: str,
    threads: int | None,
    device: str,
    duration: float,
    repeats: int | None,
    rounds: int,
    compile_limit: float,
    idle: tuple[float, ...],
    output: Output,
) -> None:
    """Time BUNDLE's engines beside PyTorch: the paper's scatter form, eager, compiled.

    \b
    Same generated clips, same threads, in turn, each engine in its own process. Answers are compared with the
    fp32 PyTorch reference before and during the measurement; a wrong engine gets no speed, and exit code 3.
    The report is written to BUNDLE/reports/bench.json.
    """
    path = find_bundle(bundle, folder_for="bench")
    report = bench_bundle(
        path,
        workloads=[name.strip() for name in workload.split(",")],
        engines=engines or None,
        precisions=None if precision == "all" else [precision],
        threads=threads,
        device=device,
        plan=Plan(rounds=rounds, seconds=duration, repeats=repeats, first_call_limit_s=compile_limit, idle_ms=idle),
        track=output.track,
    )
    output.document(report)
    show(report, output)
    written = path / "reports" / "bench.json"
    if report.wrong:
        raise GateError(
            "an engine gives wrong answers, so it has no speed",
            where=written,
            found="; ".join(f"{_name(row)} on {row.workload}: {row.reason}" for row in report.wrong),
            expected="logits within the tolerance of their precision",
            hint=f"star-edge verify {path}",
        )
    output.console.print(f"{len(report.results)} rows measured: {written}; next: star-edge run {path} CLIP", soft_wrap=True)


def _gaps(text: str | None) -> tuple[float, ...]:
    """``0,33,100`` in milliseconds below 10,000, each once; UsageError for anything else."""
    parts = text.split(",") if text else []
    if not all(re.fullmatch(r"\s*\d{1,4}(\.\d+)?\s*", part) for part in parts):
        raise click.BadParameter(
            f"'{text}' is no list of milliseconds such as 0,33,100, each below 10000", param_hint="--idle"
        )
    return tuple(dict.fromkeys(float(part) for part in parts))


def show(report: BenchReport, output: Output) -> None:
    """One table a workload, the latency gate, and what the machine is."""
    from rich import box
    from rich.table import Table

    limits = {limit.workload: limit for limit in report.limit}
    for workload in report.workloads:
        rows = [row for row in report.results if row.workload == workload.name]
        table = Table(
            title=f"{workload.name}: {workload.clips} clip{'s' if workload.clips > 1 else ''}, {workload.frames} rows, "
            f"{workload.macs / 1e9:.2f} GMAC, at least {limits[workload.name].floor_ms:.1f} ms in fp32",
            box=box.SIMPLE_HEAD,
            padding=0,
            title_justify="left",
        )
        table.add_column("engine", no_wrap=True)
        gaps = sorted({idle.gap_ms for idle in report.idle})
        titles = ["median\nms", "p90\nms", "p99\nms", "clips\n/s", "times\ntorch", "times\npyg", "peak\nMB"]
        titles += (["GPU\nms"] if report.device == "cuda" else []) + [f"idle\n{gap:g} ms" for gap in gaps]
        for title in titles:
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("ok", no_wrap=True)
        for row in rows:
            table.add_row(*_cells(row, report, gaps))
        output.console.print(table)
        for row in rows:
            if row.reason:
                output.console.print(f"{_name(row)}: {row.reason}", markup=False, soft_wrap=True)
    for gate in report.latency:
        output.console.print(f"{gate.engine} {gate.mode}, {gate.workload}: {gate.statement}", soft_wrap=True)
    if report.disturbed:
        output.console.print(
            f"This machine was busy: others took cores away up to {report.disturbed:.0f} times a second, which slows engines "
            "down unequally. Measure again on an idle machine before quoting a ratio.",
            soft_wrap=True,
        )
    _show_jetson(report, output)
    host = report.host
    clocks = {True: "locked", False: "not locked", None: "not told by this machine"}[host.clocks_locked]
    output.console.print(
        f"{host.cpu}, {report.threads} of {host.cores} cores, clocks {clocks}, load {host.load_average or 0:.1f}; "
        + ", ".join(f"{name} {version}" for name, version in host.versions.items()),
        soft_wrap=True,
    )
    output.console.print(f"limit: {report.limit[0].macs_per_s / 1e9:.1f} GMAC/s, {report.limit[0].how}", soft_wrap=True)


def _name(row: BenchResult) -> str:
    return f"{row.engine} {row.precision} {row.mode}"


def _show_jetson(report: BenchReport, output: Output) -> None:
    """On a Jetson, what it was like before and after, and what of that makes the times doubtful."""
    before, after = report.host.jetson, report.host.jetson_after
    if before is None:
        return
    for word, state in (("before", before), ("after", after)):
        if state is not None:
            output.console.print(f"{word}: {describe(state)}", soft_wrap=True, markup=False)
    for warning in warnings(before, after):
        output.console.print(warning, soft_wrap=True, markup=False)


def _cells(row: BenchResult, report: BenchReport, gaps: Sequence[float]) -> list[str]:
    """As many as the table has columns; the median of the calls after each gap."""
    key = (row.engine, row.mode, row.precision, row.workload)
    idle = {r.gap_ms: r.median_ms for r in report.idle if (r.engine, r.mode, r.precision, r.workload) == key}
    speed = [row.median_ms, row.p90_ms, row.p99_ms, row.clips_per_s, row.faster_than_torch, row.faster_than_pyg]
    speed += [row.peak_rss_mb, *([row.device_median_ms] if report.device == "cuda" else []), *map(idle.get, gaps)]
    cells = [_three_digits(number) for number in speed]
    return [_name(row), *cells, {True: "yes", False: "NO", None: "not run"}[row.correct]]


def _three_digits(number: float | None) -> str:
    """At least three digits: 1.23, 12.3, 123, 1234."""
    if number is None:
        return ""
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}"
