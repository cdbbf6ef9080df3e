"""``star-edge run``: recognise clips, or a stream of joints."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click
import msgspec

from runtime.bundle import is_bundle
from runtime.engine import EngineReport
from runtime.errors import InputError
from runtime.manifest import PRECISIONS
from star_edge.cli.common import Output, common_options, find_bundle
from star_edge.engines import DEFAULT_ENGINE, ENGINES, OTHER_DEFAULT_ENGINE, load

if TYPE_CHECKING:
    from runtime.clip import Clip
    from runtime.recognizer import Prediction, Recognizer, SelfTest

SCHEMA = "star-edge/run/1"
_TOP = 5
_log = logging.getLogger("star_edge.run")


class Candidate(msgspec.Struct, frozen=True):
    """A class and its softmax probability."""

    name: str
    confidence: float


class ClipResult(msgspec.Struct, frozen=True):
    """What one clip shows.

    Attributes:
        file, clip: where it was read from and its name there.
        rows, persons: rows of the clip and of each person. dropped: rows left out because the person was lost.
        label, name, confidence: the prediction. expected: the label the clip came with, of ``--clips``. top: the most probable classes, best first. logits: K of them.
    """

    file: str
    clip: str
    rows: int
    persons: tuple[int, ...]
    dropped: int
    label: int
    name: str
    confidence: float
    top: tuple[Candidate, ...]
    logits: tuple[float, ...]
    expected: int | None = None


class SelfTestResult(msgspec.Struct, frozen=True):
    """Golden clips run, largest error relative to the largest logit, and the one allowed."""

    clips: int
    error: float
    tolerance: float


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``star-edge run --json``; ``correct`` counts the right answers on the clips in the bundle."""

    bundle: str
    bundle_id: str
    engine: EngineReport
    clips: tuple[ClipResult, ...] = ()
    self_test: SelfTestResult | None = None
    correct: int | None = None
    schema: str = SCHEMA


@click.command()
@click.argument("paths", nargs=-1, metavar="[BUNDLE] CLIP...", type=click.Path(path_type=Path))
@click.option(
    "--engine",
    type=click.Choice(list(ENGINES)),
    show_default=f"{DEFAULT_ENGINE}, {OTHER_DEFAULT_ENGINE} for padded models and ensembles",
)
@click.option("--precision", type=click.Choice(PRECISIONS), help="Default: the bundle's default precision.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of one call; default: all usable cores.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Of the engine native; cuda: an NVIDIA GPU.")
@click.option("--stream", metavar="FILE", help="Read JSON lines of tracked persons from FILE, or from standard input: -")
@click.option("--window", type=click.IntRange(min=1), help="Frames a stream is recognised by; default: 64.")
@click.option("--hop", type=click.IntRange(min=1), help="Frames between two results of a stream; default: 16.")
@click.option("--self-test", is_flag=True, help="Compare the golden clips' logits with the ones stored in the bundle.")
@click.option("--clips", "own_clips", is_flag=True, help="Recognise the clips that star-edge pack --clips put into BUNDLE.")
@common_options
def command(
    paths: tuple[Path, ...],
    engine: str | None,
    precision: str | None,
    threads: int | None,
    device: str | None,
    stream: str | None,
    window: int | None,
    hop: int | None,
    self_test: bool,
    own_clips: bool,
    output: Output,
) -> None:
    """Recognise each CLIP (.skeleton, .npz, .npy, .json) with BUNDLE, the only *.star here if left out.

    \b
    A stream has one frame a line:
      {"t": 12.3, "persons": [{"id": 1, "joints": [[x, y, z], ...]}]}
    and one JSON line comes out every --hop frames, for the last --window frames.
    """
    bundle, clips = _split(paths)
    _check_usage(clips, stream, window or hop, self_test, own_clips)
    recognizer = load(find_bundle(bundle), engine=engine, precision=precision, threads=threads, device=device)
    if stream is not None:
        _run_stream(recognizer, stream, window, hop)
    elif self_test:
        _run_self_test(recognizer, output)
    elif own_clips:
        _run_own_clips(recognizer, output)
    else:
        _run_clips(recognizer, clips, output)


def _split(paths: tuple[Path, ...]) -> tuple[Path | None, tuple[Path, ...]]:
    """The bundle, when the first path is one, and the clips."""
    if paths and is_bundle(paths[0]):
        return paths[0], paths[1:]
    return None, paths


def _check_usage(
    clips: tuple[Path, ...], stream: str | None, stream_option: int | None, self_test: bool, own_clips: bool
) -> None:
    choices = (("clips", clips), ("--stream", stream), ("--self-test", self_test), ("--clips", own_clips))
    chosen = [name for name, given in choices if given]
    if len(chosen) != 1:
        raise InputError(
            "say what to recognise" if not chosen else "choose one thing to do",
            found=" and ".join(chosen) or "no clip",
            expected="clips, --stream, --self-test or --clips",
            hint="star-edge run clip.skeleton",
        )
    if stream_option and stream is None:
        raise InputError("--window and --hop belong to a stream", hint="star-edge run --stream -")


def _run_clips(recognizer: Recognizer, paths: tuple[Path, ...], output: Output) -> None:
    from runtime.readers import read_clips

    files: list[Path] = []
    clips: list[Clip] = []
    for path in paths:
        read = read_clips(path)
        files += [path] * len(read)
        clips += read
    predictions = recognizer(clips)
    results = [_result(*row) for row in zip(files, clips, predictions, strict=True)]
    report = _report(recognizer, clips=tuple(results))
    output.document(report)
    _show_clips(report, output)


def _run_own_clips(recognizer: Recognizer, output: Output) -> None:
    from runtime.archive import CLIPS
    from runtime.packed_clips import read_packed_clips

    packed, file = read_packed_clips(recognizer.bundle), recognizer.bundle.path / CLIPS
    predictions = recognizer(packed.clips)
    rows = zip(packed.clips, predictions, packed.labels, strict=True)
    results = tuple(_result(file, clip, prediction, int(label)) for clip, prediction, label in rows)
    report = _report(recognizer, clips=results, correct=sum(result.label == result.expected for result in results))
    output.document(report)
    _show_clips(report, output)


def _result(file: Path, clip: Clip, prediction: Prediction, expected: int | None = None) -> ClipResult:
    return ClipResult(
        file=str(file),
        clip=clip.name,
        rows=len(clip),
        persons=clip.person_lengths,
        dropped=clip.dropped,
        label=prediction.label,
        name=prediction.name,
        confidence=prediction.confidence,
        top=tuple(Candidate(*candidate) for candidate in prediction.top(_TOP)),
        logits=tuple(float(value) for value in prediction.logits),
        expected=expected,
    )


def _report(
    recognizer: Recognizer,
    clips: tuple[ClipResult, ...] = (),
    self_test: SelfTest | None = None,
    correct: int | None = None,
) -> RunReport:
    return RunReport(
        bundle=str(recognizer.bundle.path),
        bundle_id=recognizer.bundle.manifest.bundle_id,
        engine=recognizer.engine.report(),
        clips=clips,
        self_test=None if self_test is None else SelfTestResult(self_test.clips, self_test.error, self_test.tolerance),
        correct=correct,
    )


def _show_clips(report: RunReport, output: Output) -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    # names are broken, never cut, where the terminal is narrow
    clip_column, class_column = (Column(title, overflow="fold") for title in ("clip", "class"))
    table = Table(clip_column, "rows", class_column, "confidence", f"top {_TOP}")
    for clip in report.clips:
        rows = " + ".join(str(rows) for rows in clip.persons) + (f" ({clip.dropped} lost)" if clip.dropped else "")
        top = ", ".join(f"{escape(candidate.name)} {candidate.confidence:.1%}" for candidate in clip.top)
        table.add_row(escape(clip.clip), rows, escape(clip.name), f"{clip.confidence:.1%}", top)
    output.console.print(table)
    count = f"{len(report.clips)} clip" + ("s" if len(report.clips) > 1 else "")
    if report.correct is not None:
        count += f", {report.correct} of them right ({report.correct / len(report.clips):.1%}),"
    output.console.print(
        f"{count} recognised with {_describe(report.engine)}; next: {_next(Path(report.bundle))}", soft_wrap=True
    )


def _next(bundle: Path) -> str:
    """The command to type next; a packed bundle is only read."""
    return f"star-edge inspect {bundle}" if bundle.is_file() else f"star-edge verify {bundle}"


def _run_self_test(recognizer: Recognizer, output: Output) -> None:
    result = recognizer.self_test()
    report = _report(recognizer, self_test=result)
    output.document(report)
    output.console.print(
        f"self-test passed: {result.clips} golden clips, relative error {result.error:.1e} of at most {result.tolerance:.0e}, "
        f"with {_describe(report.engine)}; next: star-edge run {report.bundle} CLIP",
        soft_wrap=True,
    )


def _describe(engine: EngineReport) -> str:
    precision = engine.precision
    if (engine.storage, engine.compute) != (precision, precision):
        precision += f" (stored {engine.storage}, computed {engine.compute})"
    return f"{engine.engine} {precision}, {engine.provider}"


def _run_stream(recognizer: Recognizer, source: str, window: int | None, hop: int | None) -> None:
    """One JSON line a hop on stdout, flushed at once; everything else goes to stderr."""
    from runtime.stream_lines import recognise_lines
    from runtime.streaming import HOP, WINDOW, Stream

    stream = Stream(recognizer, window or WINDOW, hop or HOP)
    results = 0
    with _open(source) as lines:
        for line in recognise_lines(lines, stream, "standard input" if source == "-" else source):
            sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
            sys.stdout.flush()
            results += 1
    _log.info("%d results from %d frames; next: %s", results, stream.frames, _next(recognizer.bundle.path))


@contextlib.contextmanager
def _open(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        yield sys.stdin.buffer
        return
    if not Path(source).is_file():
        raise InputError("no such file", where=source, expected="a file of JSON lines, or -")
    with Path(source).open("rb") as file:
        yield file
