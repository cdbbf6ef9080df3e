"""A set of the size of NTU RGB+D 120, converted and read: python benchmarks/full_scale.py [--files 114480] [--folder DIR]

Generated recordings of 32 to 300 frames (any length as likely) are hard-linked under NTU names until there are as many as
the real set has, and converted twice: once undisturbed, once killed half-way (SIGKILL to all its processes) and started again.
Both results must be the same, byte for byte. Then an epoch is loaded as training does, without a model: clips from the
memory-mapped set, augmented, with features, packed. Memory is RssAnon, which counts no mapped file, summed over a command's
processes and sampled ten times a second. Keeps ``results/full_scale.json``; ends with exit code 1 over LIMIT_MB or where the
results differ.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import click
import msgspec
import numpy as np

from runtime.files import write_atomic
from runtime.readers.ntu import NtuName
from star_edge.bench.host import read_host, usable_cores
from star_edge.bench.report import Host
from star_edge.data import Dataset
from star_edge.data.generator import CLASS_NAMES, PERFORMERS, generate_clip
from star_edge.training.batches import AugmentedBatches
from star_edge.training.recipe import get_recipe

RESULT = Path(__file__).parent / "results" / "full_scale.json"
LIMIT_MB = 1000
_ACTIONS, _CAMERAS, _REPETITIONS, _SETUPS, _PERFORMERS = 120, 3, 2, 32, 106
_FRAMES = (32, 300)


class Conversion(msgspec.Struct, frozen=True):
    """``data convert``, from the start of the command to its end; MB of text are those of all files, linked or not."""

    seconds: float
    files_per_s: float
    frames_per_s: float
    text_mb_per_s: float
    peak_rss_anon_mb: float


class Resumption(msgspec.Struct, frozen=True):
    """A conversion killed and started again.

    Attributes:
        killed_after: recordings that were done.
        went_on_after: recordings that the second command did not read again.
        seconds: of both commands, and of the comparison.
        same: the dataset is that of the undisturbed conversion, byte for byte.
    """

    killed_after: int
    went_on_after: int
    seconds: float
    peak_rss_anon_mb: float
    same: bool


class Epoch(msgspec.Struct, frozen=True):
    """One epoch of the loader over all training clips; frames are the rows that came out."""

    clips: int
    batches: int
    seconds: float
    clips_per_s: float
    frames_per_s: float
    peak_rss_anon_mb: float


class FullScale(msgspec.Struct, frozen=True):
    command: str
    host: Host
    files: int
    distinct: int
    frames: int
    workers: int
    limit_mb: int
    conversion: Conversion
    resumption: Resumption
    epoch: Epoch
    schema: str = "star-edge/full-scale/1"


def main() -> None:
    arguments = _arguments()
    host = read_host()
    source, one, two = (arguments.folder / name for name in ("recordings", "undisturbed", "killed"))
    make_recordings(source, arguments.files, arguments.distinct)
    text_mb = sum(file.stat().st_size for file in source.iterdir()) / 1e6
    click.echo(f"{arguments.files} files, {text_mb:.0f} MB of text")

    with Memory() as memory:
        seconds = _timed(_convert(source, one, arguments.workers))
    dataset = Dataset.open(one)
    frames = dataset.meta.frames
    files_per_s, frames_per_s, mb_per_s = (round(count / seconds, 1) for count in (arguments.files, frames, text_mb))
    conversion = Conversion(round(seconds, 1), files_per_s, frames_per_s, mb_per_s, memory.peak_mb)
    click.echo(f"converted: {conversion}")

    resumption = _killed_half_way(source, one, two, arguments)
    click.echo(f"killed and started again: {resumption}")
    shutil.rmtree(two)

    with Memory() as memory, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        clips, batches, rows, seconds = pool.submit(load_epoch, one).result()
    epoch = Epoch(clips, batches, round(seconds, 1), round(clips / seconds, 1), round(rows / seconds, 1), memory.peak_mb)
    click.echo(f"one epoch: {epoch}")

    command = f"python benchmarks/full_scale.py --files {arguments.files} --distinct {arguments.distinct} --workers {arguments.workers}"
    result = FullScale(
        command, host, arguments.files, arguments.distinct, frames, arguments.workers, LIMIT_MB, conversion, resumption, epoch
    )
    write_atomic(arguments.out, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    most = max(part.peak_rss_anon_mb for part in (conversion, resumption, epoch))
    click.echo(f"{arguments.out}: at most {most:.0f} MB of {LIMIT_MB}, the same after a kill: {resumption.same}")
    sys.exit(0 if most <= LIMIT_MB and resumption.same else 1)


def make_recordings(folder: Path, files: int, distinct: int) -> None:
    """``files`` hard links, under the names of NTU RGB+D 120, to ``distinct`` recordings; kept if they are there already."""
    names = list(ntu_names(files))
    if folder.is_dir() and len(list(folder.iterdir())) == files:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with ProcessPoolExecutor(usable_cores(), mp_context=get_context("spawn")) as pool:
        list(pool.map(_write, range(distinct), (folder / f"{name}.skeleton" for name in names[:distinct]), chunksize=64))
    for index, name in enumerate(names[distinct:]):
        os.link(folder / f"{names[index % distinct]}.skeleton", folder / f"{name}.skeleton")


def ntu_names(count: int) -> Iterator[NtuName]:
    """The first ``count`` of different names, actions in turn."""
    for index in range(count):
        rest, action = divmod(index, _ACTIONS)
        rest, camera = divmod(rest, _CAMERAS)
        recording, repetition = divmod(rest, _REPETITIONS)
        yield NtuName(1 + recording % _SETUPS, 1 + camera, 1 + recording % _PERFORMERS, 1 + repetition, 1 + action)


def _write(index: int, path: Path) -> None:
    rng = np.random.default_rng([0, index])
    frames, performer = int(rng.integers(_FRAMES[0], _FRAMES[1] + 1)), PERFORMERS[index % len(PERFORMERS)]
    clip = generate_clip(rng, index % len(CLASS_NAMES), frames=frames, performer=performer, camera=1 + index % 3)
    path.write_text(clip.text(), encoding="ascii", newline="\n")


def load_epoch(path: Path) -> tuple[int, int, int, float]:
    """Clips, batches, rows and seconds of one epoch of the default recipe's loader."""
    dataset, recipe = Dataset.open(path), get_recipe("default")
    started = time.monotonic()
    clips = dataset.clips(dataset.indices(None, "train"))
    batches = AugmentedBatches(clips, dataset.meta.skeleton, recipe, np.random.default_rng(0))
    rows = sum(len(batch.features) for batch in batches)
    return len(clips), len(batches), rows, time.monotonic() - started


def _killed_half_way(source: Path, reference: Path, out: Path, arguments: argparse.Namespace) -> Resumption:
    shutil.rmtree(out, ignore_errors=True)
    journal = out.with_name(f".{out.name}.partial") / "journal.jsonl"
    started = time.monotonic()
    with Memory() as memory:
        killed = _convert(source, out, arguments.workers)
        while _lines(journal) < arguments.files // 2 and killed.poll() is None:
            time.sleep(0.1)
        if killed.poll() is None:
            os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate()
        done = max(_lines(journal) - 1, 0)
        again = _convert(source, out, arguments.workers)
        _, errors = again.communicate()
    found = re.search(r"going on after (\d+) of", " ".join(errors.split()))
    same = again.returncode == 0 and _bytes_equal(reference, out)
    return Resumption(done, int(found.group(1)) if found else 0, round(time.monotonic() - started, 1), memory.peak_mb, same)


def _convert(source: Path, out: Path, workers: int) -> subprocess.Popen[str]:
    """``data convert`` in a process group of its own; an earlier result is replaced."""
    command = [
        sys.executable,
        "-m",
        "star_edge",
        "data",
        "convert",
        str(source),
        str(out),
        "--workers",
        str(workers),
        "--force",
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _timed(process: subprocess.Popen[str]) -> float:
    started = time.monotonic()
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors)
    return time.monotonic() - started


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _bytes_equal(one: Path, two: Path) -> bool:
    """Whether two folders hold the same files."""
    return subprocess.run(["diff", "-r", str(one), str(two)], stdout=subprocess.DEVNULL, check=False).returncode == 0


class Memory:
    """Peak of the summed RssAnon of all processes that this one has started, while in the context."""

    def __enter__(self) -> Memory:
        self.peak_mb = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.peak_mb = max(self.peak_mb, round(sum(_rss_anon_mb(process) for process in _descendants(os.getpid())), 1))


def _descendants(process: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in _read(task).split():
            children += [int(child), *_descendants(int(child))]
    return children


def _rss_anon_mb(process: int) -> float:
    found = re.search(r"RssAnon:\s*(\d+) kB", _read(Path(f"/proc/{process}/status")))
    return int(found.group(1)) / 1000 if found else 0.0


def _read(path: Path) -> str:
    """The text of a file of /proc, empty when its process has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=114_480, help="as many as NTU RGB+D 120 has")
    parser.add_argument("--distinct", type=int, default=4096, help="generated recordings that they link to")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--folder", type=Path, default=Path("runs/full_scale"), help="for some 20 GB of files")
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
