"""``star-edge demo``: the whole pipeline, each step the command a user would type."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from runtime.errors import GateError, InputError
from runtime.files import write_atomic
from star_edge.cli.common import Output, common_options
from star_edge.report.summary import SHOWN, Row, summary_rows

if TYPE_CHECKING:
    from star_edge.data import Dataset

_MARK = ".star-edge-demo"  # a folder with this file may be replaced
_CLIPS = 400
_TRAINING_ROWS = 160_000  # about two minutes on two cores
_WORKLOADS = ("1x32", "1x300")


class DemoReport(msgspec.Struct, frozen=True):
    """What ``star-edge demo --json`` prints."""

    bundle: str
    data: str
    seconds: float
    rows: tuple[Row, ...]
    passed: bool
    schema: str = "star-edge/demo/1"


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True),
              help="Dataset folder, .npz, or folder of .skeleton files; generated clips if left out.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("star-edge-demo"), show_default=True,
              help="Folder for all results.")  # fmt: skip
@click.option(
    "--clips", type=click.IntRange(min=60), default=_CLIPS, show_default=True, help="Generated recordings, without --data."
)
@click.option("--epochs", type=click.IntRange(min=1), help="Training epochs; as many as fit two minutes if left out.")
@click.option("--samples", type=click.IntRange(min=1), default=512, show_default=True, help="Clips to calibrate on.")
@common_options
def command(data: Path | None, out: Path, clips: int, epochs: int | None, samples: int, output: Output) -> None:
    """Data, train, export, calibrate, verify, bench, run on one clip, and a page of it all: five minutes on two cores."""
    started = time.monotonic()
    _prepare(out)
    steps = _Steps(output)
    bundle, checkpoint = out / "demo.star", out / "ckpt.pt"
    dataset = _make_data(steps, data, out, clips, output.seed)
    steps.run("train", "--data", out / "data", "--out", out / "run", "--force",
              "--epochs", epochs or _epochs_for(dataset), "--seed", output.seed)  # fmt: skip
    write_atomic(checkpoint, (out / "run" / "ckpt.pt").read_bytes())
    steps.run("export", "--fp16", checkpoint, "--out", bundle, "--force")
    steps.run("calibrate", bundle, "--samples", samples)
    steps.run("verify", bundle, gate=True)
    # eager PyTorch is always measured; torch.compile and the paper's kernels are left to `star-edge bench`
    engines = ("--engine", "native", "--engine", "onnxruntime")
    steps.run("bench", bundle, "--workload", ",".join(_WORKLOADS), *engines, gate=True)
    steps.run("run", bundle, _one_clip(dataset, data, out))
    steps.run("report", bundle)
    _finish(bundle, dataset.meta.name, time.monotonic() - started, steps.failed, output)


class _Steps:
    """Runs verbs one after another in this process, under a heading that shows the command."""

    def __init__(self, output: Output) -> None:
        self.output, self.count = output, 0
        self.failed: list[str] = []

    def run(self, *arguments: object, gate: bool = False) -> None:
        """Run one verb; a missed gate is remembered where ``gate`` allows it, every other error ends the demo."""
        from star_edge.cli import cli

        words = [str(argument) for argument in arguments]
        self.count += 1
        self.output.console.rule(f"{self.count}  star-edge {' '.join(words)}", align="left")
        # with --json the steps' own tables would mix with the one document on stdout
        quiet = ["--quiet"] if self.output.json or self.output.console.quiet else []
        try:
            cli.main([*words, *quiet], standalone_mode=False, prog_name="star-edge")
        except GateError as error:
            if not gate:
                raise
            self.failed.append(f"{words[0]}: {error.what}")


def _prepare(out: Path) -> None:
    """Make an empty folder; only an earlier demo is ever replaced."""
    if out.exists() and any(out.iterdir()) and not (out / _MARK).exists():
        raise InputError("something that no demo made is in the way", where=out, hint="choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()
    for entry in list(out.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _MARK:  # which stays, so that a demo killed here can be begun again
            entry.unlink()


def _make_data(steps: _Steps, data: Path | None, out: Path, clips: int, seed: int) -> Dataset:
    """The packed dataset in ``out/data``, from generated recordings or the user's."""
    from star_edge.data import Dataset
    from star_edge.data.dataset import is_dataset
    from star_edge.data.generator import generate

    if data is None:
        steps.output.console.print(f"writing {clips} generated recordings to {out / 'clips'}")
        generate(out / "clips", clips, seed)
        data = out / "clips"
    if is_dataset(data):
        (out / "data").symlink_to(data.resolve(), target_is_directory=True)
    else:
        steps.run("data", "convert", data, out / "data")
    return Dataset.open(out / "data")


def _epochs_for(dataset: Dataset) -> int:
    """Epochs that fit the demo's time, between 4 and 40; by count of rows, so that a machine's speed changes no result."""
    rows = int(dataset.lengths[dataset.indices(None, "train")].sum())
    return min(40, max(4, _TRAINING_ROWS // max(rows, 1)))


def _one_clip(dataset: Dataset, data: Path | None, out: Path) -> Path:
    """A test clip as a file: the recording itself where the source is a folder of them, else an .npz."""
    from runtime.packed_clips import clips_to_bytes

    test = dataset.indices(None, "test")
    folder = out / "clips" if data is None else data
    recording = next(folder.rglob(f"{dataset.names[test[0]]}.skeleton"), None) if folder.is_dir() else None
    if recording is not None:
        return recording
    path = out / "clip.npz"
    write_atomic(path, clips_to_bytes([dataset.clip(int(test[0]))], dataset.labels[test[:1]], dataset.meta.class_names))
    return path


def _finish(bundle: Path, data: str, seconds: float, failed: list[str], output: Output) -> None:
    """The closing table, made from the reports that verify and bench left in the bundle."""
    from rich.box import SIMPLE
    from rich.table import Table

    from runtime.bundle import Bundle
    from star_edge.bench.report import BenchReport
    from star_edge.verification.report import VerifyReport

    opened = Bundle.open(bundle)
    verify = msgspec.json.decode((bundle / "reports" / "verify.json").read_bytes(), type=VerifyReport)
    bench = msgspec.json.decode((bundle / "reports" / "bench.json").read_bytes(), type=BenchReport)
    rows = summary_rows(opened, verify, bench, SHOWN)
    passed = not failed
    output.document(DemoReport(str(bundle), data, round(seconds, 1), rows, passed))
    table = Table(title=f"{data}: {verify.samples} {verify.part} clips; median ms for one clip of 300 rows", title_justify="left",
                  box=SIMPLE, pad_edge=False)  # fmt: skip
    table.add_column("engine", no_wrap=True)
    for name in ("MB", "top-1", "as fp32", "ms", "x PyTorch", "gate"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{row.engine} {row.precision}",
            _text(row.size_mb, "{:.2f}"),
            _text(row.top1, "{:.1%}"),
            _text(row.agreement, "{:.1%}"),
            _text(row.median_ms, "{:.1f}"),
            _text(row.times_faster, "{:.1f}"),
            "-" if row.passed is None else "passed" if row.passed else "failed",
        )
    output.console.print(table)
    for gate in (gate for gate in bench.latency if gate.workload == SHOWN):
        output.console.print(f"{gate.engine} {gate.mode}: {gate.statement}")
    output.console.print(f"all of it on one page: {bundle / 'reports' / 'report.html'}")
    output.console.print(
        f"{bundle}  {sum(entry.bytes for entry in opened.manifest.files.values()) / 1e6:.1f} MB, made in {seconds:.0f} s, "
        f"{'all gates passed' if passed else 'GATES MISSED'}; next: star-edge run {bundle} CLIP"
    )
    if failed:
        raise GateError("the demo's gates were missed", found="; ".join(failed), hint=f"star-edge verify {bundle}")


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
