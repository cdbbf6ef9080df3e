"""Fuzz the readers with atheris: python tests/fuzz/fuzz.py [READER...] [--seconds N] [--jobs N]

Each reader gets an equal share of the time in a process of its own; inputs that reach new code are kept in ``.cache/fuzz``
and added to those of ``corpus/`` the next time. A finding ends with exit code 1 and names the input: put it into ``corpus/``,
which every test run replays.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.util
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path[:0] = [str(HERE), str(REPOSITORY)]
CACHE = REPOSITORY / ".cache" / "fuzz"
MEMORY = 1 << 30  # bytes that a reader may ask for beyond what its imports took
_START_S = 8  # imports and the corpus, before the share of time begins
_INPUT_S = 10  # that reading one input may take
_LARGEST = 16384  # bytes of an input


def main() -> None:
    from harnesses import READERS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    parser.add_argument("--seconds", type=int, default=120, help="for all of them together")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--record", type=Path, help="keep the figures in this JSON file")
    parser.add_argument("--one", action="store_true", help="fuzz one reader in this process")
    arguments = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print(
            "make fuzz: readers are not fuzzed, atheris is not installed (it has wheels for Python 3.11 to 3.13 on x86_64 Linux)"
        )
        return
    readers = arguments.readers or list(READERS)
    if arguments.one:
        fuzz(readers[0], arguments.seconds)
        return
    share = max(1, arguments.seconds * arguments.jobs // len(readers) - _START_S)
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda reader: run(reader, share), readers))
    if arguments.record:
        keep(results, arguments.record)
    sys.exit(any(result.finding for result in results))


class Result(NamedTuple):
    """Inputs that a reader was given, in how many seconds, and the first line of what it did wrong."""

    reader: str
    inputs: int
    seconds: int
    finding: str


def keep(results: list[Result], path: Path) -> None:
    """Write a record as those in ``benchmarks/results``."""
    from runtime.files import write_atomic
    from star_edge.bench.host import read_host

    command = shlex.join(["python", "tests/fuzz/fuzz.py", *sys.argv[1:]])
    readers = [result._asdict() for result in results]
    document = {"schema": "star-edge/fuzz/1", "command": command, "host": read_host(), "readers": readers}
    write_atomic(path, msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


def run(reader: str, seconds: int) -> Result:
    """Fuzz one reader in a process, and say how that went."""
    command = [sys.executable, __file__, reader, "--one", "--seconds", str(seconds)]
    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # inputs become files, thousands a second
    with tempfile.TemporaryDirectory(prefix="star-edge-fuzz-", dir=in_memory) as folder:
        done = subprocess.run(command, env={**os.environ, "TMPDIR": folder}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors="replace", check=False)  # fmt: skip
    if done.returncode:
        print(f"{reader}: FAILED\n{done.stdout[-6000:]}", flush=True)
        found = re.search(r"=== Uncaught Python exception: ===\n(.*)", done.stdout)
        return Result(reader, 0, seconds, found[1] if found else f"exit code {done.returncode}")
    inputs, took = map(int, re.findall(r"Done (\d+) runs in (\d+) second", done.stdout)[0])
    print(f"{reader}: {inputs} inputs in {took} s", flush=True)
    return Result(reader, inputs, took, "")


def fuzz(reader: str, seconds: int) -> None:
    """Run libFuzzer on a reader in this process, which it ends."""
    import atheris

    with atheris.instrument_imports(include=["runtime", "star_edge", "numpy.lib", "zipfile"]):
        from harnesses import corpora, harness

        kept = CACHE / reader
        kept.mkdir(parents=True, exist_ok=True)
        one = harness(reader, Path(tempfile.mkdtemp()))
    limit_memory()
    options = [f"-max_total_time={seconds}", f"-timeout={_INPUT_S}", f"-max_len={_LARGEST}", "-rss_limit_mb=0",
               f"-artifact_prefix={CACHE / reader}-"]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(kept), *map(str, corpora(reader))], one)
    atheris.Fuzz()


def limit_memory() -> tuple[int, int]:
    """Let this process ask for MEMORY more than it has; the limits of before."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + MEMORY, before[1]))
    return before


if __name__ == "__main__":
    main()
