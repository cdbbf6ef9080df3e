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
    parts += [_trained(name, results[f"qat-{name}"]) for name in _SETS if f"qat-{name}" in results]
    for name in _SETS:
        if f"verify-{name}" in results:
            parts.append(_verified(name, results[f"verify-{name}"]))
    parts += [_gates(results), *_native(results)]
    return "\n".join(parts)


def replace(text: str, results: str) -> str:
    """README's text with the part between the markers replaced."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + results + END + rest.split(END)[1]


def _accuracy(results: dict[str, Any]) -> str:
    lines = [
        "STAR-64, trained on train and val with `benchmarks/recipes/`, chosen on training and val clips ([how often test was"
        " read](benchmarks/README.md)):\n",
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
    """fp16, and INT8 by each method, beside fp32, if it was measured."""
    reports = {name: results[f"int8-{name}"] for name in _SETS if f"int8-{name}" in results}
    if not reports:
        return []
    columns = sorted({(row["precision"], row["method"]) for report in reports.values() for row in report["rows"]})
    titles = [" ".join(filter(None, column)) for column in columns]
    lines = [
        "fp16 (rounding reference) and INT8 by the method that takes its ranges, beside fp32 on the same clips: on val the signal to"
        " noise of the logits, by which a method is chosen; on test the top-1, the clips of the same class, and the gate:\n",
        "| recordings | clips | fp32 | " + " | ".join(titles) + " | from |",
        "| --- | --- | ---: |" + " ---: |" * len(titles) + " --- |",
    ]
    for name, report in reports.items():
        file = f"[int8-{name}.json](benchmarks/results/int8-{name}.json), {report['host']['date'][:10]}"
        for part, cell in (("val", _noise), ("test", _judged)):
            scores = {(row["precision"], row["method"]): row["score"] for row in report["rows"] if row["part"] == part}
            any_score = scores[columns[0]]
            top1 = f"{any_score['reference_top1']:.2%}" if part == "test" else ""
            lines.append(
                f"| {_SETS[name]} | {any_score['samples']} {part} | {top1} | "
                + " | ".join(cell(scores[column]) for column in columns)
                + f" | {file} |"
            )
    graphs = [entry["graph"] for entry in next(iter(reports.values()))["latency"]]
    lines += [
        "",
        "Their median milliseconds in ONNX Runtime, one clip of 300 rows on one thread, in turn; int8 over an fp32 or an fp16 remainder:\n",
        "| recordings | " + " | ".join(graphs) + " |",
        "| --- |" + " ---: |" * len(graphs),
    ]
    for name, report in reports.items():
        medians = {entry["graph"]: entry["median_ms"] for entry in report["latency"]}
        lines.append(f"| {_SETS[name]} | " + " | ".join(f"{medians[graph]:.1f}" for graph in graphs) + " |")
    return ["\n".join(lines) + "\n"]


def _noise(score: dict[str, Any]) -> str:
    return "no noise" if score["sqnr_db"] is None else f"{score['sqnr_db']:.1f} dB"


def _judged(score: dict[str, Any]) -> str:
    return f"{score['top1']:.2%}, {score['agreement']:.1%}, {'passed' if score['passed'] else 'missed'}"


def _trained(name: str, report: dict[str, Any]) -> str:
    """INT8 after training and by quantisation-aware training, of each model the latter was measured on."""
    lines = [
        f"Quantisation-aware training ({report['epochs']} epochs) on {_SETS[name]}, of a model fitted on train alone, as it is and made hard"
        f" for INT8 ([how](benchmarks/qat.py)): top-1 in INT8, clips of the same class as fp32, gate, each beside fp32 of the same weights"
        f" ([qat-{name}.json](benchmarks/results/qat-{name}.json), {report['host']['date'][:10]}):\n",
        "| model | clips | fp32 | calibrated, by the best method on val | fp32 after training | INT8 after training |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for model in dict.fromkeys(row["model"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["model"] == model]
        best = max((row for row in rows if not row["trained"] and row["part"] == "val"), key=_merit)["method"]
        for part in ("val", "test"):
            here = {(row["trained"], row["method"]): row["score"] for row in rows if row["part"] == part}
            calibrated, trained = here[False, best], here[True, "trained"]
            lines.append(
                f"| {model} | {calibrated['samples']} {part} | {calibrated['reference_top1']:.2%} | {best}: {_judged(calibrated)}"
                f" | {trained['reference_top1']:.2%} | {_judged(trained)} |"
            )
    return "\n".join(lines) + "\n"


def _merit(row: dict[str, Any]) -> tuple[float, float]:
    """By which a method is chosen."""
    score = row["score"]
    return score["agreement"], float("inf") if score["sqnr_db"] is None else score["sqnr_db"]


def _gates(results: dict[str, Any]) -> str:
    """The native engine's gates on models trained for them."""
    lines = [
        "The native engine's gates, on models that were trained anew for them; NW-UCLA's was stopped after 54 of its 90 epochs:\n",
        "| recordings | engine | computed in | top-1 | same class as fp32 | lost / gained | gate | from |",
        "| --- | --- | --- | ---: | ---: | ---: | --- | --- |",
    ]
    for name, title in _SETS.items():
        if f"verify-native-{name}" not in results:
            continue
        record = results[f"verify-native-{name}"]
        file = f"[verify-native-{name}.json](benchmarks/results/verify-native-{name}.json), {record['host']['date'][:10]}"
        for row in record["report"]["results"]:
            lines.append(f"| {title}, {row['samples']} test clips {_row_of(row)} {file} |")
    return "\n".join(lines) + "\n"


def _row_of(row: dict[str, Any]) -> str:
    engine = f"{row['engine']} {row['precision']}" + (", rounding reference" if row["engine"] == "torch" else "")
    return (
        f"| {engine} | {row['compute']} | {row['top1']:.2%} | {row['agreement']:.2%} | {row['lost']} / {row['gained']} "
        f"| {'passed' if row['passed'] else 'missed'} |"
    )


def _verified(name: str, record: dict[str, Any]) -> str:
    report = record["report"]
    lines = [
        f"The {_SETS[name]} model beside fp32 PyTorch on {report['samples']} {report['part']} clips"
        f" ([verify-{name}.json](benchmarks/results/verify-{name}.json), {record['host']['date'][:10]}):\n",
        "| engine | computed in | top-1 | same class as fp32 | lost / gained | gate |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    lines += [_row_of(row) for row in report["results"]]
    return "\n".join(lines) + "\n"


def _native(results: dict[str, Any]) -> list[str]:
    """What the native runtime promises on each processor it was measured on, its latency beside every peer, and its stages."""
    records = {name: record for name, record in results.items() if name.startswith("native-")}
    if not records:
        return []
    parts = [_promises(records)]
    for name, record in records.items():
        for model, report in record["bench"].items():
            busy = max((row.get("preemptions_per_s") or 0) for row in report["results"])
            parts.append(
                f"Median milliseconds, {model} on 25 joints, {_processor(record)} (a shared virtual machine that took cores away up"
                f" to {busy:.0f} times a second meanwhile: read them as ratios, and roughly; {_link(name)}):\n\n{_medians(report)}"
            )
        parts += _stages(name, record)
    return parts


def _processor(record: dict[str, Any]) -> str:
    return f"{record['threads']} threads of {record['host']['cpu']}"


def _link(name: str) -> str:
    return f"[{name}.json](benchmarks/results/{name}.json)"


def _promises(records: dict[str, Any]) -> str:
    heads = [f"{_processor(record)}, {record['host']['date'][:10]}, {_link(name)}" for name, record in records.items()]
    asked: dict[str, str] = {}
    found: dict[str, dict[str, str]] = {}
    for name, record in records.items():
        for line in record["asked"]:
            asked[line["what"]] = line["asked"]
            found.setdefault(line["what"], {})[name] = _found(line)
    lines = [
        "What the native engine was to reach, and what was found ([how](benchmarks/README.md)):\n",
        "| | asked | " + " | ".join(heads) + " |",
        "| --- | ---: |" + " ---: |" * len(records),
    ]
    lines += [
        f"| {what} | {bound} | " + " | ".join(found[what].get(name, "") for name in records) + " |"
        for what, bound in asked.items()
    ]
    ceilings = " and ".join(f"{_ceiling(record):.1f} times on the {record['host']['cpu']}" for record in records.values())
    lines += [
        "",
        f"No fp32 engine can be faster at `1x300` than the fastest fp32 peer by more than its distance from the limit: {ceilings}.",
    ]
    return "\n".join(lines) + "\n"


def _ceiling(record: dict[str, Any]) -> float:
    """Time of the fastest fp32 peer of STAR-64 over the limit."""
    report = record["bench"]["star-64"]
    floor = next(limit["floor_ms"] for limit in report["limit"] if limit["workload"] == "1x300")
    peers = (
        row["median_ms"]
        for row in report["results"]
        if row["workload"] == "1x300"
        and row["precision"] == "fp32"
        and row["correct"]
        and not row["engine"].startswith("native")
    )
    return min(filter(None, peers)) / floor


def _found(line: dict[str, Any]) -> str:
    verdict = {True: "met", False: "**missed**", None: "not measured"}[line["met"]]
    return verdict if line["found"] is None else f"{line['found']:.2f}, {verdict}"


def _stages(name: str, record: dict[str, Any]) -> list[str]:
    """Where the native engine's time goes, if it was measured."""
    profiles = record.get("profiles")
    if not profiles:
        return []
    heads = [f"{entry['model']} {entry['precision']}" for entry in profiles]
    lines = [
        f"Where its time goes at `1x300`, as `star-run --bench --profile` shows it ({_link(name)}):\n",
        "| stage | " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * len(heads),
    ]
    for stage in profiles[0]["shares"]:
        lines.append(f"| {stage} | " + " | ".join(f"{entry['shares'][stage]:.1%}" for entry in profiles) + " |")
    return ["\n".join(lines) + "\n"]


def _medians(report: dict[str, Any]) -> str:
    """Rows of engines, columns of workloads."""
    workloads = [entry["name"] for entry in report["workloads"]]
    lines = [
        "| engine | " + " | ".join(f"`{workload}`" for workload in workloads) + " |",
        "| --- |" + " ---: |" * len(workloads),
    ]
    cells: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in report["results"]:
        if row["median_ms"] is not None:
            cells.setdefault((row["engine"], row["precision"], row["mode"]), {})[row["workload"]] = row["median_ms"]
    for (engine, precision, mode), medians in cells.items():
        shown = (f"{medians[workload]:.2f}" if workload in medians else "" for workload in workloads)
        lines.append(f"| {engine} {precision}, {mode} | " + " | ".join(shown) + " |")
    floors = {limit["workload"]: limit["floor_ms"] for limit in report["limit"]}
    lines.append(
        "| limit: sparse MACs over the FMA peak | " + " | ".join(f"{floors[workload]:.2f}" for workload in workloads) + " |"
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_atomic(README, replace(README.read_text(encoding="utf-8"), render()).encode())
