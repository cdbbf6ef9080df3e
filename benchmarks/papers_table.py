"""The papers' tables in Markdown, from the files in ``results/``."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- papers: begin -->\n", "<!-- papers: end -->\n"

_TITLES = {
    "star-64": "STAR-64, sparse attention",
    "star-64-full": "STAR-64, full attention",
    "star-128": "STAR-128",
    "st-gcn": "ST-GCN",
    "st-gcn++": "ST-GCN++",
    "shift-gcn": "Shift-GCN",
    "ctr-gcn": "CTR-GCN",
    "aagcn": "AAGCN",
    "dg-stgcn": "DG-STGCN",
    "s-tr": "S-TR",
    "t-tr": "T-TR",
    "st-tr": "ST-TR",
    "hyperformer": "Hyperformer",
    "star-64-taught": "STAR-64, taught by full attention",
    "star-64-strong": "STAR-64, stronger augmentation",
    "star-64-regular": "STAR-64, more regularised",
}
# arXiv 2107.07089, tables 1 and 2: top-1 on NTU RGB+D 60 cross-subject; milliseconds on a GPU, batch not said
_PAPER_TOP1 = {"st-gcn": 81.5, "st-tr": 88.7, "star-64": 81.9, "star-128": 83.4}
_PAPER_ABLATION = {"star-64": (83.4, 105.7), "star-64-full": (80.7, 254.7)}
_PAPER_COST = {
    "st-gcn": (333.89, 3.1, 261.49),
    "st-tr": (1593.05, 6.73, 197.55),
    "star-64": (86.54, 0.42, 15.58),
    "star-128": (191.23, 1.26, 73.33),
}
_ENGINES = {"torch": "eager PyTorch", "onnxruntime": "ONNX Runtime", "native": "native"}


def render(name: str = "nw_ucla") -> str:
    """All tables for which there are results."""
    results = _read(f"papers-{name}")
    runs = [Outcome.of(result) for result in results["results"]] if results else []
    kinds: dict[str, list[Outcome]] = {}
    for run in runs:
        kinds.setdefault(run.kind, []).append(run)
    speeds, modules = _read("papers-speed"), _read("papers-modules")
    parts = [_accuracy(kinds)]
    if speeds:
        parts += [_speed(speeds), _ratios(speeds)]
    if modules:
        parts.append(_modules(modules))
    parts.append(_ablation(kinds, speeds))
    parts += [_low_rank(kinds), _sparse(kinds), _ensembles(kinds), _int8(kinds)]
    return "\n".join(part for part in parts if part)


def replace(text: str, tables: str) -> str:
    """A page's text with the part between the markers replaced."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + tables + END + rest.split(END)[1]


class Outcome(NamedTuple):
    """One complete run, as the tables need it.

    Attributes:
        kind: its name without the seed. made: report of the command that made the checkpoint.
        cost: frames and epochs. top1: on test, %. where: device and date.
        int8: reports of calibrating it and of its gate.
    """

    kind: str
    seed: str
    base: str | None
    made: dict[str, Any]
    cost: str
    top1: float
    where: str
    int8: dict[str, Any] | None

    @classmethod
    def of(cls, result: dict[str, Any]) -> Outcome:
        kind, seed = result["run"].rsplit("/", 1)
        first = shlex.split(result["commands"][0])
        options = dict(zip(first, first[1:], strict=False))
        epochs = options.get("--finetune", options.get("--epochs", result["reports"][0].get("epochs")))
        frames = f"{options['--frames']} frames, " if "--frames" in options else ""
        base = first[3].removeprefix("runs/papers/").removesuffix("/ckpt.pt") if first[1] == "compress" else None
        device = "CPU" if result["device"] == "cpu" else result["device"].removeprefix("NVIDIA ")
        where = f"{device}, {result['host']['date'][:10]}"
        top1 = 100 * result["reports"][-1]["top1"]
        return cls(kind, seed, base, result["reports"][0], f"{frames}{epochs}", top1, where, result.get("int8"))

    @property
    def parameters(self) -> int:
        count: int = self.made["parameters"] if "parameters" in self.made else self.made["after"]["parameters"]
        return count


def _accuracy(kinds: dict[str, list[Outcome]]) -> str:
    rows = []
    for kind, found in kinds.items():
        if found[0].base is not None:
            continue
        validation = [100 * run.made["validation_accuracy"] for run in found]
        paper = _PAPER_TOP1.get(kind.removesuffix("-light"))
        rows.append(
            (
                title(kind),
                f"{found[0].parameters:,}",
                ", ".join(dict.fromkeys(run.cost for run in found)),
                len(found),
                f"{statistics.mean(validation):.1f}",
                *_spread(found),
                "" if paper is None else paper,
                "; ".join(dict.fromkeys(run.where for run in found)),
            )
        )
    head = (
        "model",
        "parameters",
        "epochs",
        "seeds",
        "val",
        "test top-1, mean",
        "lowest to highest",
        "paper, NTU-60",
        "trained on",
    )
    return _table("Accuracy on NW-UCLA cross-subject, 445 test clips, in %:", head, rows)


def _spread(found: Sequence[Outcome]) -> tuple[str, str]:
    test = [run.top1 for run in found]
    return f"{statistics.mean(test):.1f}", f"{min(test):.1f} to {max(test):.1f}" if len(test) > 1 else ""


def _speed(speeds: dict[str, Any]) -> str:
    workloads = list(speeds["models"][0]["macs"])
    rows = []
    for model in speeds["models"]:
        cells = [" / ".join(_form(_median(model, engine, workload)) for engine in _ENGINES) for workload in workloads]
        paper = _PAPER_COST.get(model["name"])
        rows.append(
            (
                title(model["name"]),
                "as they are" if model["frames"] is None else f"2 x {model['frames']}",
                f"{model['parameters']:,}",
                f"{model['macs'][workloads[0]] / 1e9:.2f}",
                *cells,
                "" if paper is None else f"{paper[0]} ms, {paper[1]} M, {paper[2]} GMAC",
            )
        )
    head = ("model", "frames", "parameters", "GMAC, 1x300", *(f"{name}, ms" for name in workloads), "paper, GPU")
    intro = (
        f"Latency in {' / '.join(_ENGINES.values())} (fp32, {speeds['threads']} threads, {_host(speeds)}), all models and engines taking"
        " turns; an engine that knows batches in its faster mode:"
    )
    return _table(intro, head, rows)


def _ratios(speeds: dict[str, Any]) -> str:
    """How many times faster and smaller STAR-64 is."""
    models = {model["name"]: model for model in speeds["models"]}
    ours, rows = models["star-64"], []
    for name, model in models.items():
        if name.startswith("star"):
            continue
        cells = []
        for workload in ours["macs"]:
            engines = [
                (_median(model, engine, workload), _median(ours, engine, workload)) for engine in ("torch", "onnxruntime")
            ]
            same = [f"{other / own:.1f}" for other, own in engines if other and own]
            others = [other for other, _ in engines if other]
            native = _median(ours, "native", workload)
            cells.append(" / ".join((*same, f"{min(others) / native:.0f}" if others and native else "-")))
        rows.append((title(name), f"1/{model['parameters'] / ours['parameters']:.1f}", *cells))
    head = ("beside", "parameters", *ours["macs"])
    return _table(
        "How many times faster STAR-64 is, in eager PyTorch / in ONNX Runtime / in its native engine beside the other's faster one"
        " (the paper: 4 to 18 times, with 1/7 to 1/15 of the parameters):",
        head,
        rows,
    )


def _modules(modules: dict[str, Any]) -> str:
    rows = []
    for model in modules["models"]:
        cells = []
        for field in ("macs", "parameters", "time"):
            kinds = sorted(model["kinds"], key=lambda kind: -kind[field])[:3]
            total = sum(kind[field] for kind in model["kinds"])
            cells.append(", ".join(f"{kind['name']} {100 * kind[field] / total:.0f} %" for kind in kinds if kind[field]))
        rows.append((title(model["name"]), *cells))
    intro = f"The top three kinds of modules, children left out (1x300, eager PyTorch, {_host(modules)}):"
    return _table(intro, ("model", "by MACs", "by parameters", "by latency"), rows)


def _ablation(kinds: dict[str, list[Outcome]], speeds: dict[str, Any] | None) -> str:
    timed = {model["name"]: model for model in speeds["models"]} if speeds else {}
    rows = []
    for name, (top1, latency) in _PAPER_ABLATION.items():
        if name in kinds:
            times = [_form(_median(timed[name], "torch", "1x300"))] if name in timed else [""]
            rows.append((title(name), len(kinds[name]), *_spread(kinds[name]), *times, f"{top1} %, {latency} ms"))
    head = ("attention", "seeds", "test top-1, mean", "lowest to highest", "eager PyTorch, 1x300, ms", "paper, NTU-60, GPU")
    return _table("Sparse against full attention:", head, rows)


def _low_rank(kinds: dict[str, list[Outcome]]) -> str:
    rows = []
    for run, base in _compressed(kinds, "star-edge/compress-lowrank/1"):
        before, after = run.made["before"], run.made["after"]
        rows.append(
            (
                title(run.kind),
                run.seed,
                f"{before['parameters']:,} to {after['parameters']:,} ({after['parameters'] / before['parameters']:.0%})",
                f"{before['macs'] / 1e6:,.0f} to {after['macs'] / 1e6:,.0f}",
                f"{before['torch_ms']:.0f} to {after['torch_ms']:.0f}",
                run.cost,
                f"{base:.1f}" if base else "",
                f"{run.top1:.1f}",
                run.where,
            )
        )
    head = ("model", "seed", "parameters", "MMAC, 1x300", "eager, ms", "epochs", "test before", "test after", "on")
    return _table("Low rank (LORTSAR), top-1 in %:", head, rows)


def _sparse(kinds: dict[str, list[Outcome]]) -> str:
    rows = []
    for run, base in _compressed(kinds, "star-edge/compress-sparse/1"):
        made, stored = run.made, run.made["stored"]
        forms = ", ".join(f"{form} {size / stored['dense']:.2f}" for form, size in stored.items() if form != "dense")
        rows.append(
            (
                title(run.kind),
                run.seed,
                f"{made['method']}, {made['pattern']}",
                f"{1 - made['sparsity']:.1%}",
                forms,
                f"{made['before']['torch_ms']:.0f} to {made['after']['torch_ms']:.0f}",
                run.cost,
                f"{base:.1f}" if base else "",
                f"{run.top1:.1f}",
                run.where,
            )
        )
    head = ("model", "seed", "how", "density", "bytes beside dense", "eager, ms", "epochs", "dense", "sparse", "on")
    return _table("Sparse, top-1 on test in %:", head, rows)


def _ensembles(kinds: dict[str, list[Outcome]]) -> str:
    rows = []
    for run, base in _compressed(kinds, "star-edge/compress-ensemble/1"):
        made = run.made
        alone = [expert["top1"] for expert in made["experts"]]
        rows.append(
            (
                title(run.kind),
                run.seed,
                ", ".join(f"{1 - expert['sparsity']:.2f}" for expert in made["experts"]),
                f"{made['of_dense']:.2f}",
                f"{made['after']['torch_ms'] / made['before']['torch_ms']:.1f}",
                run.cost,
                ", ".join(f"{100 * top1:.1f}" for top1 in alone if top1 is not None),
                f"{base:.1f}" if base else "",
                f"{run.top1:.1f}",
                run.where,
            )
        )
    head = ("model", "seed", "densities", "of dense", "eager, times", "epochs", "val of each", "dense", "ensemble", "on")
    return _table("Sparse ensembles, top-1 on test in % (of each expert on val):", head, rows)


def _int8(kinds: dict[str, list[Outcome]]) -> str:
    rows = []
    for run in (run for found in kinds.values() for run in found if run.int8 is not None):
        assert run.int8 is not None
        calibrated, gate = run.int8["calibrated"], run.int8["verified"]["results"][0]
        rows.append(
            (
                title(run.kind),
                run.seed,
                f"{len(calibrated['quantised'])} of {len(calibrated['quantised']) + len(calibrated['left_float'])}",
                calibrated["method"],
                gate["engine"],
                f"{100 * gate['reference_top1']:.1f}",
                f"{100 * gate['top1']:.1f}",
                f"{gate['agreement']:.1%}",
                "passed" if gate["passed"] else "MISSED",
                run.int8["host"]["date"][:10],
            )
        )
    head = ("model", "seed", "layers in INT8", "ranges", "engine", "fp32", "INT8", "same class", "gate", "on")
    return _table("INT8 with 512 training clips, ranges chosen on val, beside fp32 in PyTorch on test, in %:", head, rows)


def _compressed(kinds: dict[str, list[Outcome]], schema: str) -> Iterable[tuple[Outcome, float | None]]:
    """Runs of a kind of compression, and the test top-1 of what each was made from."""
    tested = {f"{run.kind}/{run.seed}": run.top1 for found in kinds.values() for run in found}
    for found in kinds.values():
        for run in found:
            if run.base is not None and run.made["schema"] == schema:
                yield run, tested.get(run.base)


def title(kind: str) -> str:
    """A kind of run or a model for people."""
    plain = kind.removesuffix("-light")
    return _TITLES.get(plain, plain) + (", light" if plain != kind else "")


def _median(model: dict[str, Any], engine: str, workload: str) -> float | None:
    """Median of a workload in an engine's faster mode."""
    found = [row["median_ms"] for row in model["results"] if (row["engine"], row["workload"]) == (engine, workload)]
    return min((median for median in found if median is not None), default=None)


def _form(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:,.0f}"


def _host(report: dict[str, Any]) -> str:
    host = report["host"]
    return f"{host['cores']} cores of {host['cpu']}, {host['date'][:10]}"


def _table(intro: str, head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([intro, "", f"| {' | '.join(map(str, head))} |", f"|{' --- |' * len(head)}", *lines]) + "\n"


def _read(stem: str) -> dict[str, Any] | None:
    path = RESULTS / f"{stem}.json"
    return json.loads(path.read_bytes()) if path.exists() else None
