"""Every engine in one row: size, accuracy and speed beside PyTorch."""

from __future__ import annotations

import msgspec

from runtime.bundle import Bundle
from runtime.manifest import WEIGHTS, model_file
from star_edge.bench.report import BenchReport
from star_edge.engines import default_engine
from star_edge.verification.report import VerifyReport

SHOWN = "1x300"  # the workload that a single figure stands for


class Row(msgspec.Struct, frozen=True):
    """One engine and precision; None where it was not measured.

    Attributes:
        size_mb: the file the engine reads the model from.
        median_ms: one clip of the workload; times_faster: than eager PyTorch on the same clip.
    """

    engine: str
    precision: str
    size_mb: float | None
    top1: float | None
    agreement: float | None
    median_ms: float | None
    times_faster: float | None
    passed: bool | None


def summary_rows(bundle: Bundle, verify: VerifyReport | None, bench: BenchReport | None, workload: str) -> tuple[Row, ...]:
    """PyTorch first, then every row of the verification with the latency of the same engine and precision.

    Without a verification the default engine stands in, in the precisions the bundle has models of.
    """
    results = bench.results if bench else ()
    timed = {(row.engine, row.precision): row for row in results if row.workload == workload}
    sizes = bundle.manifest.files
    eager = timed.get(("torch", "fp32"))
    reference = verify.results[0].reference_top1 if verify else None
    agreed = 1.0 if verify else None
    rows = [
        Row(
            "torch",
            "fp32",
            sizes[WEIGHTS].bytes / 1e6,
            reference,
            agreed,
            eager.median_ms if eager else None,
            1.0 if eager else None,
            None,
        )
    ]
    judged: list[tuple[str, str, float | None, float | None, bool | None]]
    if verify is None:
        judged = [(default_engine(bundle.manifest), precision, None, None, None) for precision in bundle.manifest.precisions]
    else:
        judged = [(row.engine, row.precision, row.top1, row.agreement, row.passed) for row in verify.results]
    for engine, precision, top1, agreement, passed in judged:
        if engine == "torch":  # rounds every tensor to the precision: an accuracy, not an engine to time
            rows.append(Row("torch rounded to", precision, None, top1, agreement, None, None, passed))
            continue
        speed = timed.get((engine, precision))
        size = sizes[WEIGHTS if engine == "native" else model_file(precision)].bytes / 1e6
        rows.append(
            Row(
                engine,
                precision,
                size,
                top1,
                agreement,
                speed.median_ms if speed else None,
                speed.faster_than_torch if speed else None,
                passed,
            )
        )
    return tuple(rows)


def shown_workload(bench: BenchReport | None) -> str:
    """The workload that a single figure stands for: 1x300, or the largest of one clip that was measured."""
    names = [workload.name for workload in bench.workloads if workload.clips == 1] if bench else []
    return SHOWN if SHOWN in names or not names else names[-1]
