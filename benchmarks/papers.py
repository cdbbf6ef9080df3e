"""The tables of the STAR, LORTSAR and sparse ST-GCN papers, as measured here: train every model, test it once, print.

    python benchmarks/papers.py train --data DATA/nw_ucla.npz --jobs 12 --minutes 9
    python benchmarks/papers.py int8 --data DATA/nw_ucla.npz
    python benchmarks/papers.py speed
    python benchmarks/papers.py table --runs runs/papers

``train`` runs what is not there yet, each run a chain of ``star-edge`` commands in a folder of its own under ``runs/papers``; it may be
stopped and started again at any point, on machines with and without a GPU. A run that is complete has ``result.json`` there, which
``table`` collects into ``benchmarks/results/papers-NAME.json`` and prints beside the papers' figures. ``int8`` calibrates what is
trained and holds it against its gate. ``speed`` times the models beside each other, with random weights.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import msgspec
import papers_modules
import papers_speed
import torch
from papers_runs import LIGHT_RUNS, RUNS, Run
from papers_speed import SUBJECTS, WORKLOADS
from papers_table import README, render, replace

from runtime.files import write_atomic
from star_edge.bench.host import read_host, usable_cores
from star_edge.bench.measure import Plan
from star_edge.bench.report import Host

RESULTS = Path(__file__).parent / "results"
GATE_MISSED = 3  # exit code


class Int8(msgspec.Struct, frozen=True):
    """INT8 of a run's model, held against its gate.

    Attributes:
        calibrated, verified: what the commands of these names printed with --json.
    """

    commands: tuple[str, ...]
    host: Host
    calibrated: msgspec.Raw
    verified: msgspec.Raw


class Result(msgspec.Struct, frozen=True):
    """A run that is complete.

    Attributes:
        commands: as they were run. seconds: of the last start, what an interrupted one had trained before is not in it.
        device: where it was trained. reports: what each command printed with --json, evaluate's of the test part last.
    """

    run: str
    commands: tuple[str, ...]
    seconds: float
    device: str
    host: Host
    reports: tuple[msgspec.Raw, ...]
    int8: Int8 | None = None


class Results(msgspec.Struct, frozen=True):
    """All complete runs on one dataset."""

    data: str
    results: tuple[Result, ...]
    schema: str = "star-edge/papers/1"


@click.group()
def main() -> None:
    """The papers' tables as measured here."""


@main.command()
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), required=True, help="Dataset, of any form star-edge reads."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/papers"), show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time.")
@click.option("--minutes", type=float, help="Stop then; the same command goes on later.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--only", multiple=True, help="Runs whose name begins so; may be repeated.")
@click.option("--light", is_flag=True, help="Padded models alone, with fewer frames and epochs: what a CPU can train.")
@click.option("--epochs", type=click.IntRange(min=1), help="In place of each run's, to try the chain.")
@click.option("--amp", type=click.Choice(["none", "bf16"]), help="In place of the recipe's, where a model is trained anew.")
def train(
    data: Path,
    out: Path,
    jobs: int,
    minutes: float | None,
    device: str,
    only: tuple[str, ...],
    light: bool,
    epochs: int | None,
    amp: str | None,
) -> None:
    """Complete the runs that are not complete, in the order of papers_runs.py."""
    until = time.monotonic() + minutes * 60 if minutes else None
    runs = [run for run in (LIGHT_RUNS if light else RUNS) if not only or run.name.startswith(only)]
    worker = Worker(data.resolve(), out.resolve(), device, until, epochs, amp)
    with ThreadPoolExecutor(jobs) as pool:
        states = list(pool.map(worker, runs))
    done = sum(states)
    click.echo(f"{done} of {len(runs)} runs complete in {out}; next: {'the same again' if done < len(runs) else 'table'}")
    sys.exit(0 if done == len(runs) else 1)


@main.command()
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), required=True, help="Dataset, of any form star-edge reads."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/papers"), show_default=True)
@click.option("--only", multiple=True, help="Runs whose name begins so; may be repeated.")
def int8(data: Path, out: Path, only: tuple[str, ...]) -> None:
    """Calibrate what is trained, with ranges chosen on val, and hold INT8 against its gate on test."""
    worker = Worker(data.resolve(), out.resolve(), "cpu")
    runs = [run for run in (*RUNS, *LIGHT_RUNS) if not only or run.name.startswith(only)]
    trained = [run for run in runs if (out / run.name / "result.json").exists() and (out / run.name / "ckpt.pt").exists()]
    done = sum(worker.quantise(run) for run in trained)
    click.echo(f"INT8 of {done} of {len(trained)} trained models in {out}; next: table")
    sys.exit(0 if done == len(trained) else 1)


@main.command()
@click.option("--runs", type=click.Path(path_type=Path), help="Collect the runs in this folder first.")
@click.option("--name", default="nw_ucla", show_default=True, help="Of the dataset, in the file's name.")
def table(runs: Path | None, name: str) -> None:
    """Print the tables of what benchmarks/results holds, and write them into benchmarks/README.md."""
    if runs:
        collect(runs, RESULTS / f"papers-{name}.json", name)
    tables = render(name)
    write_atomic(README, replace(README.read_text(encoding="utf-8"), tables).encode())
    click.echo(tables)


@main.command()
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("runs/papers-speed"), show_default=True, help="For bundles."
)
@click.option("--only", multiple=True, help="Models of these names.")
@click.option("--workload", "workloads", multiple=True, default=WORKLOADS, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Default: all cores.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of each model and engine.")
@click.option("--seconds", type=float, default=5.0, show_default=True, help="Timed, of each model, engine and workload.")
def speed(
    work: Path, only: tuple[str, ...], workloads: tuple[str, ...], threads: int | None, rounds: int, seconds: float
) -> None:
    """Time the models beside each other, and their modules."""
    subjects = [subject for subject in SUBJECTS if not only or subject.name in only]
    cores = threads or usable_cores()
    torch.set_num_threads(cores)
    plan = Plan(rounds=rounds, seconds=seconds)
    speeds = papers_speed.measure(work, subjects, workloads, cores, plan)
    write_atomic(RESULTS / "papers-speed.json", _document(speeds))
    write_atomic(RESULTS / "papers-modules.json", _document(papers_modules.measure(subjects)))


def _document(report: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def collect(runs: Path, path: Path, name: str) -> None:
    """Put all complete runs of a folder beside those in the file; the newer of the same name stays."""
    kept = {result.run: result for result in _read(path)}
    for found in sorted(runs.glob("*/*/result.json")):
        result = msgspec.json.decode(found.read_bytes(), type=Result)
        quantised = found.with_name("int8.json")
        if quantised.exists():
            result = msgspec.structs.replace(result, int8=msgspec.json.decode(quantised.read_bytes(), type=Int8))
        kept[result.run] = result
    order = [run.name for run in (*RUNS, *LIGHT_RUNS)]
    known = tuple(kept[name] for name in order if name in kept)
    write_atomic(path, _document(Results(name, known)))


def _read(path: Path) -> tuple[Result, ...]:
    return msgspec.json.decode(path.read_bytes(), type=Results).results if path.exists() else ()


class Worker:
    """Runs one run; True when it is complete."""

    def __init__(
        self,
        data: Path,
        out: Path,
        device: str,
        until: float | None = None,
        epochs: int | None = None,
        amp: str | None = None,
    ) -> None:
        self.data, self.out, self.device, self.until, self.epochs, self.amp = data, out, device, until, epochs, amp

    def __call__(self, run: Run) -> bool:
        folder = self.out / run.name
        if (folder / "result.json").exists():
            return True
        if not self._wait(run):
            return False
        folder.mkdir(parents=True, exist_ok=True)
        begun, commands, reports = time.monotonic(), [], []
        for step in run.steps(self.data, self.out, self.device, self.epochs, self.amp):
            resumed = ["--resume"] if (folder / "last.pt").exists() and "--out" in step else []
            printed = self._call([*step, *resumed, "--json"], folder)
            if printed is None:
                return False
            commands.append(self._portable(shlex.join(["star-edge", *step])))
            reports.append(msgspec.Raw(self._portable(printed.decode()).encode()))
        result = Result(run.name, tuple(commands), time.monotonic() - begun, _device(self.device), read_host(), tuple(reports))
        write_atomic(folder / "result.json", msgspec.json.encode(result))
        click.echo(f"{run.name}: complete after {result.seconds:.0f} s")
        return True

    def quantise(self, run: Run) -> bool:
        """Export, calibrate and verify a trained model; True when that is done, whether its gate is held or missed."""
        folder = self.out / run.name
        if (folder / "int8.json").exists():
            return True
        bundle, data = str(folder / "model.star"), ["--data", str(self.data), "--json"]
        steps = (
            ["export", str(folder / "ckpt.pt"), "--out", bundle, "--force", "--json"],
            ["calibrate", bundle, "--method", "best", *data],
            ["verify", bundle, "--precision", "int8", *data],
        )
        printed = []
        for step in steps:
            printed.append(self._call(step, folder, accepted=(0, GATE_MISSED) if step[0] == "verify" else (0,)))
            if printed[-1] is None:
                return False
        commands = tuple(self._portable(shlex.join(["star-edge", *step[:-1]])) for step in steps)
        _, calibrated, verified = (msgspec.Raw(self._portable(text.decode()).encode()) for text in printed if text is not None)
        write_atomic(folder / "int8.json", msgspec.json.encode(Int8(commands, read_host(), calibrated, verified)))
        click.echo(f"{run.name}: INT8 is there")
        return True

    def _portable(self, text: str) -> str:
        """Without the paths of this machine."""
        return text.replace(str(self.data), "DATA").replace(str(self.out), "runs/papers")

    def _wait(self, run: Run) -> bool:
        """Until what a run begins with is complete; False where time runs out, or nothing works on it."""
        while not all((self.out / name / "result.json").exists() for name in run.needs):
            failed = [name for name in run.needs if (self.out / name / "failed").exists()]
            if failed or not self._left(3):
                return False
            time.sleep(1)
        return self._left(3)

    def _left(self, seconds: float) -> bool:
        return self.until is None or time.monotonic() + seconds < self.until

    def _call(self, arguments: list[str], folder: Path, accepted: tuple[int, ...] = (0,)) -> bytes | None:
        """What a command prints; None where it fails or time runs out. Its log goes on in the folder."""
        left = None if self.until is None else max(1.0, self.until - time.monotonic())
        environment = {**os.environ, "OMP_NUM_THREADS": "1"} if self.device == "cuda" else None
        with (folder / "log.txt").open("ab") as log:
            try:
                done = subprocess.run(
                    [sys.executable, "-m", "star_edge", *arguments],
                    stdout=subprocess.PIPE,
                    stderr=log,
                    timeout=left,
                    check=False,
                    env=environment,
                )
            except subprocess.TimeoutExpired:
                return None
        if done.returncode not in accepted:
            (folder / "failed").write_text(f"{shlex.join(arguments)}: exit code {done.returncode}\n")
            click.echo(f"{folder}: exit code {done.returncode}, see log.txt there")
            return None
        return done.stdout


def _device(name: str) -> str:
    return torch.cuda.get_device_name() if name != "cpu" and torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main()
