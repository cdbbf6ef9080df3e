"""Prints the papers' tables from what was measured."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

# top-1 of the papers, NTU RGB+D 60 cross-subject: another dataset, so no figure to reach here
PAPERS = {"st-gcn": 81.5, "st-tr": 88.7, "star-64": 81.9, "star-128": 83.4, "star-64-full": 80.7}


def print_tables(path: Path) -> None:
    """Top-1 on test of every kind of run: mean and spread over its seeds."""
    results = msgspec.json.decode(path.read_bytes())["results"]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        kinds.setdefault(result["run"].rsplit("/", 1)[0], []).append(result)
    table = Table(
        "run", "parameters", "seeds", "val", "test top-1", "lowest to highest", "paper, NTU-60 x-sub", title=path.name
    )
    for kind, found in kinds.items():
        test = [100 * result["reports"][-1]["top1"] for result in found]
        first = found[0]["reports"][0]
        validation = [result["reports"][0].get("validation_accuracy") for result in found]
        known = [100 * value for value in validation if value is not None]
        paper = PAPERS.get(kind)
        table.add_row(
            kind,
            f"{first['parameters']:,}" if "parameters" in first else f"{first['after']['parameters']:,}",
            str(len(found)),
            f"{statistics.mean(known):.1f}" if known else "",
            f"{statistics.mean(test):.1f}",
            f"{min(test):.1f} to {max(test):.1f}",
            "" if paper is None else f"{paper}",
        )
    console = Console(width=140)
    console.print(table)
    console.print(
        "NTU RGB+D is given on request alone, so the papers' accuracies stand on other clips and cannot be compared."
    )
