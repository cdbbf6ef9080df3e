"""The page's first sentence: may this model be used, and what does it cost?"""

from __future__ import annotations

from typing import Literal, NamedTuple

from runtime.manifest import Manifest
from star_edge.report.content import milliseconds, percent
from star_edge.report.sources import Sources
from star_edge.report.summary import Row, shown_workload, summary_rows
from star_edge.verification.report import VerifyReport, VerifyResult

State = Literal["passed", "failed", "not judged"]


class Verdict(NamedTuple):
    """State of the gates, a headline, sentences for a customer, and the rows behind them.

    Attributes:
        default: the row of the bundle's default precision, run by the engine under test.
        warnings: what must be known before the figures are quoted.
    """

    state: State
    headline: str
    sentence: str
    warnings: tuple[str, ...]
    rows: tuple[Row, ...]
    default: Row
    workload: str


def make_verdict(sources: Sources) -> Verdict:
    """From the verification and the bench alone; without a verification nothing is judged."""
    verify, manifest = sources.verify, sources.bundle.manifest
    workload = shown_workload(sources.bench)
    rows = summary_rows(sources.bundle, verify, sources.bench, workload)
    tested = [row for row in rows[1:] if row.size_mb is not None] or list(rows)
    default = next((row for row in tested if row.precision == manifest.default_precision), tested[0])
    state: State = "not judged" if verify is None else "passed" if verify.passed else "failed"
    headline = {
        "passed": "The exported model answers like the original.",
        "failed": "The exported model does not answer like the original.",
        "not judged": "Nobody has compared the exported model with the original yet.",
    }[state]
    return Verdict(state, headline, _sentence(sources, default, workload), _warnings(sources), rows, default, workload)


def _sentence(sources: Sources, default: Row, workload: str) -> str:
    verify, bench = sources.verify, sources.bench
    parts = []
    if verify is None:
        parts.append(f"The comparison: {sources.missing['verify']}. To make it: {sources.command('verify')}.")
    else:
        missed = "; ".join(_missed(row) for row in verify.results if not row.passed)
        if missed:
            parts.append(f"Missed: {missed}.")
        parts.append(
            f"On {verify.samples} {verify.part} clips of {verify.data} the {default.precision} model names the right action in"
            f" {percent(default.top1)}, PyTorch in {percent(verify.results[0].reference_top1)}; they give the same answer on"
            f" {percent(default.agreement)} of the clips."
        )
    if bench and default.median_ms is not None:
        clip = "One clip of 300 frames" if workload == "1x300" else f"One call on {workload}"
        threads = f"{bench.threads} thread{'s' if bench.threads > 1 else ''}"
        took = f"{clip} takes {milliseconds(default.median_ms)} on {threads} of {bench.host.cpu}"
        parts.append(f"{took}{'' if bench.disturbed else _beside_torch(default.times_faster)}.")
    parts.append(f"The model file is {default.size_mb:.1f} MB.")
    return " ".join(parts)


def _beside_torch(times_faster: float | None) -> str:
    if not times_faster:
        return ""
    if times_faster >= 1:
        return f", {times_faster:.1f} times faster than PyTorch"
    return f", {1 / times_faster:.1f} times slower than PyTorch"


def _missed(row: VerifyResult) -> str:
    different = round((1 - row.agreement) * row.samples)
    return (
        f"{row.engine} {row.precision} lost {row.lost} and gained {row.gained} clips ({row.allowed_losses} net losses allowed), answers"
        f" differ on {different} ({row.allowed_disagreements} allowed)"
    )


def _warnings(sources: Sources) -> tuple[str, ...]:
    warnings = []
    if sources.verify and _was_trained_on(sources.verify, sources.bundle.manifest):
        warnings.append("The model was trained on these very clips: its accuracy on them says nothing about new ones.")
    if sources.verify and sources.verify.samples < sources.verify.available:
        warnings.append(f"Only {sources.verify.samples} of {sources.verify.available} clips were compared.")
    if sources.bench and sources.bench.disturbed:
        warnings.append("The machine was busy while latencies were measured: read them roughly, and quote no ratio of them.")
    if sources.bench and sources.bench.wrong:
        warnings.append(f"{len(sources.bench.wrong)} measured rows gave wrong answers and have no speed.")
    return tuple(warnings)


def _was_trained_on(verify: VerifyReport, manifest: Manifest) -> bool:
    source = manifest.source
    return verify.part == "train" or (verify.part in source.fitted and verify.split == source.split)
