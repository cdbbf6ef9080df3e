"""What is left when a verb is killed: kill -9 at random moments, look, run the same command again, compare.

    python benchmarks/kill.py --verbs train,export --kills 40

A verb runs undisturbed, for its result and its times. Then it is started again and again, each time in a fresh folder,
every second time over an older result, and its process group is killed at a moment drawn evenly from its start to a little
beyond its end; ``--aimed`` more kills are drawn from the time between its first and its last change on the disk. What stands
then is opened with every hash checked. The command is run again: its result must be that of the undisturbed run, and nothing
temporary may be left. ``results/kill.json`` keeps the figures of each verb as it was killed last.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
from kill_verbs import MODULES, VERBS, State, Verb, make_inputs

from runtime.errors import StarEdgeError
from runtime.files import write_atomic
from star_edge import cli
from star_edge.bench.host import read_host
from star_edge.bench.report import Host

REPOSITORY = Path(__file__).resolve().parents[1]
RESULT = REPOSITORY / "benchmarks" / "results" / "kill.json"
_BEYOND = 1.05  # of the undisturbed time
_POLL_S = 0.002
_PROCESSES = multiprocessing.get_context("forkserver")


class VerbResult(msgspec.Struct, frozen=True, kw_only=True):
    """What killing one verb showed.

    Attributes:
        seconds: of the undisturbed run; ``writing`` those between its first and its last change on the disk.
        kills: drawn over all of it; ``aimed`` while it was writing.
        died: trials by moment: ``before`` the first change, ``while`` writing, ``after`` the result stood, or it had ``ended``.
        standing: trials by what stood then: ``none``, the ``old`` result, the ``new`` one, or an ``unfinished`` one that is
            whole (a checkpoint of an earlier epoch, an analysis of fewer layers, an INT8 model without its report).
        halves: trials in which something could not be opened or did not fit its hash.
        temporaries: trials that left hidden files; ``leftovers`` those that still had them after the second run.
        scratch: trials that left a folder in $TMPDIR, a library's cache or one of ours: the system's to clear.
        equal: second runs with the result of the undisturbed one.
        kept: units of work (epochs, layers, recordings) that stood after the kills; ``redone`` of these, what was done again.
        failures: what went wrong, one line a trial.
    """

    verb: str
    command: str
    host: Host
    seed: int
    seconds: float
    writing: float
    kills: int
    aimed: int
    died: dict[str, int]
    standing: dict[str, int]
    halves: int
    temporaries: int
    leftovers: int
    scratch: int
    equal: int
    kept: int
    redone: int
    failures: tuple[str, ...]


class KillReport(msgspec.Struct, frozen=True):
    """Every verb that was killed."""

    results: tuple[VerbResult, ...] = ()
    schema: str = "star-edge/kill/1"


class Reference(NamedTuple):
    """The undisturbed run: what it leaves, its seconds, and those until its first change on the disk and its last."""

    state: State
    seconds: float
    first: float
    last: float


@dataclass
class Trial:
    """One kill; the fields are those of :class:`VerbResult`."""

    died: str
    standing: str = "half"
    half: bool = False
    temporaries: bool = False
    leftovers: bool = False
    scratch: bool = False
    equal: bool = False
    kept: int = 0
    redone: int = 0
    failure: str = ""


class Run:
    """A verb at work in a folder, in a process group of its own."""

    def __init__(self, command: str, folder: Path) -> None:
        self.folder, self._scratch = folder, folder.with_name(f"{folder.name}.tmp")
        self._scratch.mkdir(exist_ok=True)
        self.process = _PROCESSES.Process(target=work, args=(command, folder, self._scratch))
        self.started = time.monotonic()
        self.process.start()

    def wait_for_change(self) -> None:
        """Until something in the folder is not as it was, or the verb has ended."""
        before = listing(self.folder)
        while self.process.is_alive() and listing(self.folder) == before:
            time.sleep(_POLL_S)

    def kill_after(self, seconds: float) -> bool:
        """Kill the group ``seconds`` from now; whether the verb was still running."""
        self.process.join(max(0.0, seconds))
        if not self.process.is_alive():
            return False
        with contextlib.suppress(ProcessLookupError):  # it has no group of its own yet
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        return True

    def output(self) -> str:
        """What it wrote, once it has ended; RuntimeError unless the exit code is 0."""
        self.process.join()
        output = (self._scratch / "output").read_text(encoding="utf-8")
        if self.process.exitcode:
            raise RuntimeError(f"exit code {self.process.exitcode}: {output[-2000:]}")
        return output

    def scratch(self) -> bool:
        """Whether it left a folder in $TMPDIR."""
        return any(path.is_dir() for path in self._scratch.iterdir())


def work(command: str, folder: Path, scratch: Path) -> None:
    """Become the verb: in a process whose modules are imported already, so that kills fall on its work."""
    os.setsid()
    output = os.open(scratch / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(folder)
    tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)
    sys.argv = ["star-edge", *shlex.split(command)]
    cli.main()


def main() -> None:
    arguments = _arguments()
    _PROCESSES.set_forkserver_preload(list(MODULES))
    report = KillReport()
    if arguments.out.exists():
        report = msgspec.json.decode(arguments.out.read_bytes(), type=KillReport)
    failed = False
    with tempfile.TemporaryDirectory(prefix="star-edge-kill-") as name:
        work = Path(name)
        make_inputs(work / "inputs")
        Run("data convert clips.npz data", work / "inputs").output()
        for verb in arguments.verbs.split(","):
            result = kill(verb, work, arguments.kills, arguments.aimed, arguments.seed)
            others = tuple(entry for entry in report.results if entry.verb != verb)
            report = KillReport((*others, result))
            write_atomic(arguments.out, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
            click.echo(f"{verb}: {result.halves} halves, {result.equal} of {result.kills + result.aimed} equal, "
                       f"{result.leftovers} leftovers, died {result.died}, standing {result.standing}")  # fmt: skip
            failed = failed or bool(result.failures)
    sys.exit(failed)


def kill(name: str, work: Path, kills: int, aimed: int, seed: int) -> VerbResult:
    """Run a verb undisturbed, then kill it ``kills`` times at any moment and ``aimed`` times while it writes."""
    verb, rng, host = VERBS[name], random.Random(f"{name} {seed}"), read_host()
    fresh, older = work / f"{name}-fresh", work / f"{name}-older"
    fresh.mkdir()
    for command in verb.start:
        Run(command, fresh).output()
    shutil.copytree(fresh, older)
    for command in verb.older:
        Run(command, older).output()
    reference = undisturbed(verb, fresh)
    trials = []
    for index in range(kills + aimed):
        folder = work / f"{name}-{index}"
        shutil.copytree(older if index % 2 else fresh, folder)
        command = f"{verb.command} {verb.over if index % 2 else ''}"
        trial = attempt(verb, folder, command, reference, rng.random(), aimed=index >= kills)
        trials.append(trial)
        if trial.failure:
            click.echo(f"{name}, trial {index}: {trial.failure}")
        shutil.rmtree(folder)
        shutil.rmtree(f"{folder}.tmp")
    return VerbResult(
        verb=name,
        command=f"star-edge {verb.command}",
        host=host,
        seed=seed,
        seconds=round(reference.seconds, 3),
        writing=round(reference.last - reference.first, 3),
        kills=kills,
        aimed=aimed,
        died=dict(Counter(trial.died for trial in trials)),
        standing=dict(Counter(trial.standing for trial in trials)),
        halves=sum(trial.half for trial in trials),
        temporaries=sum(trial.temporaries for trial in trials),
        leftovers=sum(trial.leftovers for trial in trials),
        scratch=sum(trial.scratch for trial in trials),
        equal=sum(trial.equal for trial in trials),
        kept=sum(trial.kept for trial in trials),
        redone=sum(trial.redone for trial in trials),
        failures=tuple(f"trial {index}: {trial.failure}" for index, trial in enumerate(trials) if trial.failure),
    )


def undisturbed(verb: Verb, fresh: Path) -> Reference:
    """Run the verb to its end, twice: the first run reads everything into memory, the second is timed."""
    for name in ("first", "timed"):
        folder = fresh.with_name(f"{fresh.name}-{name}")
        shutil.copytree(fresh, folder)
        run = Run(verb.command, folder)
        changes = []
        while run.process.is_alive():
            run.wait_for_change()
            changes.append(time.monotonic() - run.started)
        run.output()
    *writes, end = changes
    return Reference(verb.state(folder), end, writes[0], writes[-1])


def attempt(verb: Verb, folder: Path, command: str, reference: Reference, share: float, *, aimed: bool) -> Trial:
    """Kill the verb once, look at what stands, and run it again."""
    before, old = listing(folder), verb.state(folder)
    run = Run(command, folder)
    if aimed:
        run.wait_for_change()
        killed = run.kill_after(share * (reference.last - reference.first))
    else:
        killed = run.kill_after(share * _BEYOND * reference.seconds)
    trial = Trial("while" if killed else "ended")
    if killed and listing(folder) == before:
        trial.died = "before"
    trial.temporaries, trial.scratch = bool(hidden(folder)), run.scratch()
    try:
        found = verb.state(folder)
        trial.standing = _standing(found, old, reference.state)
        if trial.standing == "new" and trial.died == "while":
            trial.died = "after"
        trial.kept = found.work
        output = Run(f"{verb.command} {verb.again(folder)}", folder).output()
        trial.redone = found.work - verb.found(output)
        trial.equal = verb.state(folder).digest == reference.state.digest
    except (StarEdgeError, msgspec.MsgspecError) as error:
        trial.half, trial.failure = True, str(error)
    except RuntimeError as error:
        trial.failure = f"the second run: {error}"
    trial.leftovers = bool(hidden(folder))
    if not trial.failure:
        wrong = {"another result": not trial.equal, f"{hidden(folder)} left": trial.leftovers,
                 f"{trial.redone} of {trial.kept} done again": trial.redone != 0}  # fmt: skip
        trial.failure = ", ".join(text for text, holds in wrong.items() if holds)
    return trial


def _standing(found: State, old: State, new: State) -> str:
    names = {new.digest: "new", old.digest: "old", None: "none"}
    return names.get(found.digest, "unfinished")


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Relative path -> size and time of last change, of all that is in a folder that may be changing."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            with contextlib.suppress(FileNotFoundError):
                stat = path.lstat()
                found[str(path.relative_to(folder))] = (stat.st_size, stat.st_mtime_ns)
    return found


def hidden(folder: Path) -> list[str]:
    """What is named like a temporary."""
    return sorted(path for path in listing(folder) if Path(path).name.startswith("."))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbs", default=",".join(VERBS), help="names with commas between")
    parser.add_argument("--kills", type=int, default=40, help="of each verb, at any moment")
    parser.add_argument("--aimed", type=int, default=10, help="more of them, while it writes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT, help="the record")
    return parser.parse_args()


if __name__ == "__main__":
    main()
