"""Write README's results from the recorded measurements, so that no figure there is typed by hand.

python benchmarks/readme_results.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.files import write_atomic

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
_SETS = {
    "nw_ucla": "NW-UCLA, cross-subject",
    "msr_action3d": "MSR Action3D, cross-subject",
    "sbu": "SBU Kinect Interaction, 5-fold",
}


def render() -> str:
    """README's part between the markers, from the files in ``results/``."""
    results = {path.stem: json.loads(path.read_bytes()) for path in sorted((HERE / "results").glob("*.json"))}
    parts = [_accuracy(results), *_methods(results)]
    for name in _SETS:
        if f"verify-{name}" in results:
            parts.append(_verified(name, results[f"verify-{name}"]))
        if f"bench-{name}" in results:
            parts.append(_latency(name, results[f"bench-{name}"]))
    return "\n".join(parts)


def replace(text: str, results: str) -> str:
    """README's text with the part between the markers replaced."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + results + END + rest.split(END)[1]


def _accuracy(results: dict[str, Any]) -> str:
    lines = [
        "STAR-64, trained on train and val with `benchmarks/recipes/`; no choice was made on test clips:\n",
        "| recordings | test clips | top-1 | seed | date | from |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for name, title in _SETS.items():
        report = results.get(f"accuracy-{name}")
        if report:
            date = report["host"]["date"][:10]
            file = f"[accuracy-{name}.json](benchmarks/results/accuracy-{name}.json)"
            lines.append(f"| {title} | {report['clips']} | {report['top1']:.2%} | {report['seed']} | {date} | {file} |")
    return "\n".join(lines) + "\n"


def _methods(results: dict[str, Any]) -> list[str]:
    """How INT8 by each method compares on val, if it was recorded."""
    reports = {name: results[f"calibrate-{name}"]["report"] for name in _SETS if f"calibrate-{name}" in results}
    if not reports:
        return []
    methods = sorted({score["method"] for report in reports.values() for score in report["scores"]})
    lines = [
        "INT8 of these models beside their fp32 on val clips, signal to noise of the logits and clips of the same class, by the method"
        " that takes the ranges (`star-edge calibrate --method best`):\n",
        "| recordings | val clips | " + " | ".join(methods) + " | from |",
        "| --- | ---: |" + " ---: |" * len(methods) + " --- |",
    ]
    for name, report in reports.items():
        scores = {score["method"]: score for score in report["scores"]}
        cells = (f"{_decibel(scores[method]['sqnr_db'])}, {scores[method]['agreement']:.1%}" for method in methods)
        file = f"[calibrate-{name}.json](benchmarks/results/calibrate-{name}.json)"
        lines.append(f"| {_SETS[name]} | {report['scores'][0]['samples']} | " + " | ".join(cells) + f" | {file} |")
    return ["\n".join(lines) + "\n"]


def _decibel(value: float | None) -> str:
    return "no noise" if value is None else f"{value:.1f} dB"


def _verified(name: str, record: dict[str, Any]) -> str:
    report = record["report"]
    lines = [
        f"The {_SETS[name]} model beside fp32 PyTorch on {report['samples']} {report['part']} clips"
        f" ([verify-{name}.json](benchmarks/results/verify-{name}.json), {record['host']['date'][:10]}):\n",
        "| engine | computed in | top-1 | same class as fp32 | lost / gained | gate |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for row in report["results"]:
        engine = f"{row['engine']} {row['precision']}" + (", rounding reference" if row["engine"] == "torch" else "")
        lines.append(
            f"| {engine} | {row['compute']} | {row['top1']:.2%} | {row['agreement']:.2%} | {row['lost']} / {row['gained']} "
            f"| {'passed' if row['passed'] else 'missed'} |"
        )
    return "\n".join(lines) + "\n"


def _latency(name: str, record: dict[str, Any]) -> str:
    report = record["report"]
    host, workloads = report["host"], [entry["name"] for entry in report["workloads"]]
    busy = max((row.get("preemptions_per_s") or 0) for row in report["results"])
    lines = [
        f"Median milliseconds of its engines on {report['threads']} threads of {host['cpu']} ({host['cores']} cores, a shared virtual"
        f" machine that took cores away up to {busy:.0f} times a second meanwhile: read them as ratios, and roughly;"
        f" [bench-{name}.json](benchmarks/results/bench-{name}.json), {host['date'][:10]}):\n",
        "| engine | " + " | ".join(f"`{workload}`" for workload in workloads) + " |",
        "| --- |" + " ---: |" * len(workloads),
    ]
    cells: dict[tuple[str, str, str], dict[str, float | None]] = {}
    for row in report["results"]:
        if row["median_ms"] is not None:
            cells.setdefault((row["engine"], row["precision"], row["mode"]), {})[row["workload"]] = row["median_ms"]
    for (engine, precision, mode), medians in cells.items():
        shown = (f"{medians[workload]:.1f}" if workload in medians else "" for workload in workloads)
        lines.append(f"| {engine} {precision}, {mode} | " + " | ".join(shown) + " |")
    floors = {limit["workload"]: limit["floor_ms"] for limit in report["limit"]}
    lines.append(
        "| limit: sparse MACs over the FMA peak | " + " | ".join(f"{floors[workload]:.1f}" for workload in workloads) + " |"
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_atomic(README, replace(README.read_text(encoding="utf-8"), render()).encode())
