"""What the native runtime promises, measured: speed beside every peer, time a frame, memory, loading, streams, the wheel's size.

    python benchmarks/native.py --work DIR
    python benchmarks/native.py --work DIR --quick      # a trial in minutes, whose times mean nothing

STAR-64 and STAR-128 are trained in DIR for one epoch on generated recordings, exported and calibrated, all through the command
line. Speed does not depend on what the weights have learned, only on their shapes; answers are compared with PyTorch's all the
same, and a wrong row has no speed. What stands in DIR is used again, so that a run that was interrupted goes on with its models.
Every promise is printed with what was found, the missed ones too, and where the time goes. Writes ``results/native-MAKER.json``,
by the maker of the processor, with ``--quick`` ``DIR/native.json``.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from ctypes import byref, c_void_p
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import numpy as np
from native_report import LARGE, SMALL, WORKLOADS, FrameTime, Load, Memory, NativeReport, Profile, StreamRun, summarise

import star_edge
from exporters.onnx.golden import moving_body
from runtime.bundle import Bundle
from runtime.clip import Clip
from runtime.engines.native import open_engine
from runtime.files import write_atomic
from runtime.manifest import CALIBRATION, WEIGHTS
from runtime.native import library as native
from runtime.packed_clips import clips_to_bytes
from runtime.streaming import HOP, WINDOW
from star_edge.bench import ENGINES, BenchReport, bench_bundle
from star_edge.bench.host import read_host, usable_cores
from star_edge.bench.measure import Plan
from star_edge.bench.workloads import parse_workload
from star_edge.data.generator import generate

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
STAR_RUN = Path(sys.executable).with_name("star-run")
MODELS = (SMALL, LARGE)
CLIPS, SAMPLES = 120, 64
PRECISIONS = ("fp32", "int8")
LOADS = 20
TENTHS = 10
_GATE_MISSED = 3
_POSES, _TRACK = 4999, 700  # frames until poses repeat, and until the person leaves and another comes
_COMPARED = 64  # at least so many results of a stream
# a process as small as this one starts the program, because a child's high-water mark begins at its parent's size
_LAUNCHER = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Size(NamedTuple):
    """How much is measured: turns and seconds of each engine, frames of single clips, frames of the stream."""

    plan: Plan
    engines: tuple[str, ...]
    lengths: tuple[int, ...]
    memory_lengths: tuple[int, ...]
    seconds: float
    stream_frames: int


FULL = Size(
    Plan(seconds=3.0, first_call_limit_s=1800.0), tuple(ENGINES), (32, 300, 3000, 30_000), (300, 3000, 30_000), 5.0, 1_000_000
)
QUICK = Size(
    Plan(rounds=1, repeats=1), tuple(e for e in ENGINES if "compile" not in e), (32, 300, 3000), (300, 3000), 0.1, 20_000
)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for recordings and models; kept.")
@click.option("--quick", is_flag=True, help="A trial: few calls, short clips, nothing that compiles.")
@click.option("--wheel", is_flag=True, help="Also build the wheel, for its size; it compiles what has changed.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: all usable cores.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the result goes.")
def main(work: Path, quick: bool, wheel: bool, threads: int | None, out: Path | None) -> None:
    """Measure, print, and keep the result."""
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    size, threads = QUICK if quick else FULL, threads or usable_cores()
    host = read_host()
    bundles = {model: prepare(work, model) for model in MODELS}
    bench = {
        model: measure_speed(bundles[model], size, threads, WORKLOADS if model == SMALL else ("1x300",)) for model in MODELS
    }
    frame_times = tuple(measure_frames(bundles[SMALL], size, threads))
    profiles = tuple(entry for model in MODELS for entry in measure_profiles(model, bundles[model], threads, work))
    memory = tuple(measure_memory(bundles[SMALL], size, threads, work))
    load = tuple(entry for model in MODELS for entry in measure_load(model, bundles[model], threads))
    stream = measure_stream(bundles[SMALL], size.stream_frames, threads)
    wheel_bytes = build_wheel() if wheel else None
    report = NativeReport(
        command=shlex.join(["python", "benchmarks/native.py", *(Path(word).name for word in sys.argv[1:])]),
        host=host,
        quick=quick,
        threads=threads,
        bench=bench,
        frame_times=frame_times,
        memory=memory,
        load=load,
        stream=stream,
        wheel_bytes=wheel_bytes,
        profiles=profiles,
        asked=summarise(bench, frame_times, memory, load, wheel_bytes),
    )
    maker = re.findall("[a-z]+", host.cpu.lower())[0]
    path = out or (work / "native.json" if quick else RESULTS / f"native-{maker}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    show(report)
    click.echo(f"{path}: kept")


def prepare(work: Path, model: str) -> Bundle:
    """The bundle of a model in fp32, fp16 and int8, made in ``work`` by the verbs that are still to do."""
    skeletons, dataset, run, bundle = work / "skeletons", work / "dataset", work / model, work / f"{model}.star"
    if not dataset.exists():
        if skeletons.exists():
            for file in skeletons.iterdir():  # a run that was interrupted here left a part
                file.unlink()
        generate(skeletons, clips=CLIPS, seed=0)
        _star_edge("data", "convert", skeletons, dataset)
    if not (run / "ckpt.pt").exists():
        _star_edge("train", "--data", dataset, "--model", model, "--epochs", 1, "--out", run, "--force")
    if not bundle.exists():
        _star_edge("export", "--fp16", run / "ckpt.pt", "--out", bundle)
    if "int8" not in Bundle.open(bundle).manifest.precisions:
        _star_edge("calibrate", bundle, "--data", dataset, "--samples", SAMPLES)
    return Bundle.open(bundle)


def _star_edge(*words: object) -> None:
    """A verb; a gate may be missed by a model that has learned nothing."""
    click.echo(f"$ star-edge {shlex.join(map(str, words))}")
    command = [sys.executable, "-m", "star_edge", *map(str, words), "--quiet"]
    if (code := subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode) not in (0, _GATE_MISSED):
        raise SystemExit(code)


def measure_speed(bundle: Bundle, size: Size, threads: int, workloads: Sequence[str]) -> BenchReport:
    """Every engine and peer on the workloads."""
    click.echo(f"{bundle.path.name}: {len(size.engines)} engines on {', '.join(workloads)}")
    return bench_bundle(bundle, workloads=workloads, engines=size.engines, threads=threads, plan=size.plan)


def measure_frames(bundle: Bundle, size: Size, threads: int) -> Iterator[FrameTime]:
    """One clip of each length; the lengths take turns, so that a machine that gets slower gets slower for all."""
    manifest = bundle.manifest
    batches = {rows: parse_workload(f"1x{rows}").make(manifest.skeleton, manifest.features) for rows in size.lengths}
    for precision in PRECISIONS:
        engine = open_engine(bundle, precision=precision, threads=threads)
        seconds: dict[int, list[float]] = {rows: [] for rows in batches}
        for batch in batches.values():
            engine.run(*batch)
        for _ in range(size.plan.rounds):
            for rows, batch in batches.items():
                until = time.monotonic() + size.seconds / size.plan.rounds
                while not seconds[rows] or time.monotonic() < until:
                    seconds[rows].append(_seconds_of(engine.run, *batch))
        for rows, times in seconds.items():
            yield FrameTime(precision, rows, len(times), float(np.median(times)) / rows * 1e3)


def measure_profiles(model: str, bundle: Bundle, threads: int, work: Path) -> Iterator[Profile]:
    """``star-run --profile`` on one clip of 300 frames."""
    clip = write_clip(bundle, 300, work)
    for precision in PRECISIONS:
        options = ("--bench", "--profile", "--json", "--precision", precision, "--threads", str(threads))
        done = subprocess.run([STAR_RUN, bundle.path, clip, *options], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"star-run: {done.stderr}")
        found = msgspec.json.decode(done.stdout)
        yield Profile(model, precision, found["bench"]["median_ms"], found["profile"])


def write_clip(bundle: Bundle, frames: int, work: Path) -> Path:
    """An .npz file of one clip of so many frames."""
    clip = Clip.from_persons([moving_body(bundle.manifest.skeleton, frames, np.random.default_rng(0))], f"1x{frames}")
    path = work / f"1x{frames}.npz"
    path.write_bytes(clips_to_bytes([clip], np.zeros(1, dtype=np.int32), ("class",)))
    return path


def measure_memory(bundle: Bundle, size: Size, threads: int, work: Path) -> Iterator[Memory]:
    """``star-run`` on one clip of each length."""
    for frames in size.memory_lengths:
        path = write_clip(bundle, frames, work)
        for precision in PRECISIONS:
            program = [STAR_RUN, bundle.path.resolve(), path, "--precision", precision, "--threads", threads, "--json"]
            command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *map(str, program)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"star-run: {done.stderr}")
            yield Memory(precision, frames, int(done.stderr.split()[-1]) / 1024)


def measure_load(model: str, bundle: Bundle, threads: int) -> Iterator[Load]:
    """Opening a bundle's model, apart and as a whole."""
    library = native.load_library()
    files = (bundle.manifest.to_bytes(), bundle.read(WEIGHTS), bundle.read(CALIBRATION))

    def parse(precision: str) -> None:
        loaded = c_void_p()
        number = native.PRECISIONS.index(precision)
        native.check(library, library.star_model_load_bytes(*map(native.Bytes.of, files), number, 0, byref(loaded)))
        library.star_model_free(loaded)

    def engine(precision: str) -> None:
        open_engine(bundle, precision=precision, threads=threads)

    def whole(precision: str) -> None:
        Bundle.open(bundle.path)

    for precision in PRECISIONS:
        medians = [
            float(np.median([_seconds_of(step, precision) for _ in range(LOADS)])) * 1e3 for step in (parse, engine, whole)
        ]
        yield Load(model, precision, *medians)


def measure_stream(bundle: Bundle, frames: int, threads: int, precision: str = "fp32") -> StreamRun:
    """Frames into ``star-run --stream -``: persons come and go, so that what is kept of them would be seen to grow."""
    click.echo(f"{frames} frames through star-run --stream")
    rng = np.random.default_rng(0)
    poses = np.round(moving_body(bundle.manifest.skeleton, _POSES, rng), 4).astype(np.float64)
    encoded = [msgspec.json.encode(pose.tolist()) for pose in poses]
    every = max(1, frames // HOP // _COMPARED)
    command = [STAR_RUN, bundle.path.resolve(), "--precision", precision, "--threads", threads, "--stream", "-"]
    began = time.monotonic()
    with subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        lines: list[bytes] = []
        counts: list[int] = []
        output = process.stdout

        def keep() -> None:
            count = 0
            for line in output:
                count += 1
                if count % every == 0:
                    lines.append(line)
            counts.append(count)

        reader = threading.Thread(target=keep)
        reader.start()
        rss_mb = []
        for frame in range(frames):
            person = b'{"persons":[{"id":%d,"joints":%b}]}\n' % (frame // _TRACK, encoded[frame % _POSES])
            process.stdin.write(person)
            if (frame + 1) % (frames // TENTHS) == 0:
                process.stdin.flush()
                rss_mb.append(_resident_mb(process.pid))
        process.stdin.close()
        reader.join()
    if process.returncode:
        raise SystemExit(f"star-run ended with {process.returncode}")
    seconds = time.monotonic() - began
    worst, others = _compare_stream(bundle, precision, threads, poses, lines)
    return StreamRun(
        precision=precision,
        frames=frames,
        tracks=-(-frames // _TRACK),
        seconds=seconds,
        results=counts[0],
        compared=len(lines),
        rss_mb=tuple(rss_mb),
        max_confidence_err=worst,
        other_labels=others,
    )


def _compare_stream(
    bundle: Bundle, precision: str, threads: int, poses: np.ndarray, lines: Sequence[bytes]
) -> tuple[float, int]:
    """Largest difference of a confidence from the window's clip run alone, and how many labels differ."""
    recognise = star_edge.load(bundle.path, engine="native", precision=precision, threads=threads)
    worst, others = 0.0, 0
    for line in lines:
        result = msgspec.json.decode(line)
        window = np.arange(max(0, result["frame"] - WINDOW), result["frame"])
        persons = [poses[window[window // _TRACK == track] % _POSES] for track in np.unique(window // _TRACK)]
        prediction = recognise(Clip.from_persons([person.astype(np.float32) for person in persons], "window"))[0]
        worst = max(worst, abs(prediction.confidence - result["confidence"]))
        others += prediction.label != result["label"]
    return worst, others


def build_wheel() -> int:
    """Bytes of the wheel; objects that CMake has kept in the clone are used again."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, "."]
        subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=True)
        (wheel,) = Path(folder).glob("star_edge-*.whl")
        return wheel.stat().st_size


def _seconds_of(step: Callable[..., object], *arguments: object) -> float:
    begun = time.perf_counter()
    step(*arguments)
    return time.perf_counter() - begun


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) / 1024


def show(report: NativeReport) -> None:
    """Everything that was measured, the promises last."""
    for model, bench in report.bench.items():
        for workload in bench.workloads:
            rows = [row for row in bench.results if row.workload == workload.name]
            floor = next(limit.floor_ms for limit in bench.limit if limit.workload == workload.name)
            click.echo(f"\n{model}, {workload.name}: median ms, at least {floor:.2f} in fp32")
            for row in sorted(rows, key=lambda row: row.median_ms or float("inf")):
                found = f"{row.median_ms:9.2f}" if row.median_ms else f"{'-':>9}  {row.reason}"
                click.echo(f"  {row.engine:21} {row.precision:5} {row.mode:9} {found}")
        if bench.disturbed:
            click.echo(f"  busy machine: cores taken away up to {bench.disturbed:.0f} times a second")
    click.echo("\nnative engine, ms a frame")
    for frame in report.frame_times:
        click.echo(f"  {frame.precision:5} {frame.frames:6} frames {frame.ms_per_frame:9.4f}  ({frame.calls} calls)")
    for profile in report.profiles:
        click.echo(f"\n{profile.model} {profile.precision}, 1x300: {profile.median_ms:.2f} ms, of the time of all threads")
        for stage, share in profile.shares.items():
            click.echo(f"  {share:6.1%}  {stage}")
    click.echo("\nstar-run, peak MB")
    for peak in report.memory:
        click.echo(f"  {peak.precision:5} {peak.frames:6} frames {peak.peak_rss_mb:9.1f}")
    click.echo("\nopening a model, ms: star_model_load_bytes, the engine with it, the bundle before")
    for load in report.load:
        click.echo(f"  {load.model:9} {load.precision:5} {load.parse_ms:7.2f} {load.engine_ms:7.2f} {load.bundle_ms:7.2f}")
    stream = report.stream
    click.echo(
        f"\nstream of {stream.frames} frames and {stream.tracks} persons, {stream.precision}, {stream.seconds:.0f} s: "
        f"{stream.rss_mb[0]:.1f} MB after the first tenth, {stream.rss_mb[-1]:.1f} MB at the end; {stream.compared} of "
        f"{stream.results} results compared, probabilities within {stream.max_confidence_err:.1e}, "
        f"{stream.other_labels} of another class"
    )
    click.echo(f"\n{'asked':66} {'bound':>7} {'found':>8}")
    for line in report.asked:
        found = "-" if line.found is None else f"{line.found:.2f}"
        verdict = {True: "met", False: "MISSED", None: "not measured"}[line.met]
        click.echo(f"  {line.what:64} {line.asked:>7} {found:>8}  {verdict:12}  {line.of}")


if __name__ == "__main__":
    main()
