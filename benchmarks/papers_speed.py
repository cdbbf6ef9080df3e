"""Latency, parameters and MACs of the papers' models on the same clips and machine, all engines of all models taking turns.

The models are those for NTU RGB+D (25 joints, 60 classes, two persons), padded ones with the frames of their authors. Their weights
are random: no engine here is faster for some weights than for others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import torch

from runtime.bundle import Bundle
from runtime.features import FeatureRecipe
from star_edge.bench.bench import workload_entries
from star_edge.bench.host import read_host
from star_edge.bench.measure import Contender, Plan, Trial
from star_edge.bench.process import EngineProcess
from star_edge.bench.report import BenchResult, Host
from star_edge.bench.workloads import parse_workload
from star_edge.export import export_checkpoint
from star_edge.models.registry import build_model, model_config, registered
from star_edge.skeletons import NTU25
from star_edge.training.checkpoint import Checkpoint, DataEntry, ModelEntry, save_checkpoint

CLASSES = 60
WORKLOADS = ("1x300", "1x300:2p", "mix8")
REFERENCE = ("torch", "per-clip")


class Subject(NamedTuple):
    """A model to be timed: its name in the table, and in the registry."""

    name: str
    model: str
    attention: Literal["sparse", "full"] | None = None


SUBJECTS = (
    Subject("star-64", "star-64"),
    Subject("star-64-full", "star-64", "full"),
    Subject("star-128", "star-128"),
    Subject("st-gcn", "st-gcn"),
    Subject("st-tr", "st-tr"),
    Subject("ctr-gcn", "ctr-gcn"),
    Subject("hyperformer", "hyperformer"),
)


class ModelSpeed(msgspec.Struct, frozen=True):
    """One model.

    Attributes:
        frames: that it brings every clip to, for each of two persons; None: it takes clips as they are.
        macs: workload -> multiply-accumulates of all its clips.
        results: of each engine and workload.
    """

    name: str
    parameters: int
    frames: int | None
    macs: dict[str, int]
    results: tuple[BenchResult, ...]

    def milliseconds(self, engine: str, workload: str) -> float | None:
        """Median of a workload in an engine's faster mode."""
        found = [row.median_ms for row in self.results if (row.engine, row.workload) == (engine, workload)]
        return min((median for median in found if median is not None), default=None)


class Speeds(msgspec.Struct, frozen=True):
    """All models, timed in one run."""

    host: Host
    threads: int
    rounds: int
    models: tuple[ModelSpeed, ...]
    schema: str = "star-edge/papers-speed/1"


def measure(work: Path, subjects: Sequence[Subject], workloads: Sequence[str], threads: int, plan: Plan) -> Speeds:
    """Time the subjects; their bundles stay in ``work``."""
    bundles = {subject.name: _bundle(subject, work) for subject in subjects}
    results: dict[str, list[BenchResult]] = {name: [] for name in bundles}
    for workload in workloads:
        for name, rows in _take_turns(bundles, workload, threads, plan).items():
            results[name] += rows
    parsed = [parse_workload(workload) for workload in workloads]
    models = []
    for subject in subjects:
        bundle = bundles[subject.name]
        models.append(
            ModelSpeed(
                name=subject.name,
                parameters=_parameters(subject),
                frames=bundle.manifest.model.config.get("frames"),
                macs={entry.name: entry.macs for entry in workload_entries(bundle, parsed)},
                results=tuple(results[subject.name]),
            )
        )
    return Speeds(read_host(), threads, plan.rounds, tuple(models))


def config_of(subject: Subject) -> Any:
    """The config that a subject is built with."""
    fields = {} if subject.attention is None else {"attention": subject.attention}
    return model_config(subject.model, NTU25, 4 if registered(subject.model).padded else 9, CLASSES, **fields)


def _parameters(subject: Subject) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(subject.model, config_of(subject)).parameters())


def _bundle(subject: Subject, work: Path) -> Bundle:
    """The subject exported, unless an earlier run did it."""
    out = work / f"{subject.name}.star"
    if not out.exists():
        torch.manual_seed(0)
        config = config_of(subject)
        checkpoint = Checkpoint(
            model=ModelEntry(subject.model, config),
            state_dict=build_model(subject.model, config).state_dict(),
            skeleton=NTU25,
            features=FeatureRecipe(channels=config.channels),
            class_names=tuple(f"class {number}" for number in range(CLASSES)),
            data=DataEntry("", "none", ""),
            metrics={},
            recipe={},
        )
        work.mkdir(parents=True, exist_ok=True)
        save_checkpoint(checkpoint, work / f"{subject.name}.pt")
        export_checkpoint(work / f"{subject.name}.pt", out)
    return Bundle.open(out)


def _take_turns(bundles: dict[str, Bundle], workload: str, threads: int, plan: Plan) -> dict[str, list[BenchResult]]:
    """Rows of each model on one workload."""
    with _opened(bundles, parse_workload(workload).clips > 1, threads) as contenders:
        trials = {name: [Trial(contender, workload, plan) for contender in own] for name, own in contenders.items()}
        references = {name: _warm_up(own) for name, own in trials.items()}
        for _ in range(plan.rounds):
            for name, own in trials.items():
                for trial in own:
                    trial.take_turn(references[name])
        return {name: [trial.result() for trial in own] for name, own in trials.items()}


@contextlib.contextmanager
def _opened(bundles: dict[str, Bundle], batch: bool, threads: int) -> Iterator[dict[str, list[Contender]]]:
    """Contenders of each model, the reference first, each in a process of its own."""
    modes = ("per-clip", "packed") if batch else ("per-clip",)
    keys = [(engine, mode) for engine in ("torch", "onnxruntime") for mode in modes]
    with contextlib.ExitStack() as stack:
        opened: dict[str, list[Contender]] = {}
        for name, bundle in bundles.items():
            own = [*keys, ("native", "packed")] if bundle.manifest.model.name.startswith("star") else keys
            opened[name] = [
                Contender(stack.enter_context(EngineProcess(engine, "fp32", mode, threads, "cpu"))) for engine, mode in own
            ]
            for contender in opened[name]:
                contender.opened = contender.process.open(str(bundle.path.resolve()))
        yield opened


def _warm_up(trials: Sequence[Trial]) -> np.ndarray:
    reference = trials[0].warm_up()
    if reference is None:
        raise RuntimeError(trials[0].contender.failure)
    for trial in trials[1:]:
        logits = trial.warm_up()
        if logits is not None:
            trial.judge(logits, reference)
    return reference
