"""The latency measurement: every engine beside PyTorch on the same clips, no speed for a wrong answer."""

from __future__ import annotations

from star_edge.bench.bench import CUDA_ENGINES, DEFAULT_ENGINES, ENGINES, bench_bundle
from star_edge.bench.report import BenchReport, BenchResult
from star_edge.bench.workloads import DEFAULT_WORKLOADS, parse_workload

__all__ = [
    "CUDA_ENGINES",
    "DEFAULT_ENGINES",
    "DEFAULT_WORKLOADS",
    "ENGINES",
    "BenchReport",
    "BenchResult",
    "bench_bundle",
    "parse_workload",
]
