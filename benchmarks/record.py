"""Run a verb and keep what it measured: command, host, versions, date and its JSON report in ``benchmarks/results/``.

    python benchmarks/record.py nw_ucla verify nw_ucla.star --data DATA/nw_ucla.npz
    python benchmarks/record.py nw_ucla bench nw_ucla.star --threads 2 --duration 5

The second writes ``results/bench-nw_ucla.json``. The script ends with the verb's exit code; where the verb measured nothing
(codes other than 0 and 3, a gate missed), an earlier result stays as it was.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click
import msgspec

from runtime.files import write_atomic
from star_edge.bench.host import read_host
from star_edge.bench.report import Host

RESULTS = Path(__file__).parent / "results"
_GATE_MISSED = 3


class Record(msgspec.Struct):
    """One measurement as it is kept; ``report`` is the verb's own document."""

    command: str
    exit_code: int
    host: Host
    report: msgspec.Raw
    schema: str = "star-edge/record/1"


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder to write into.")
@click.argument("name")
@click.argument("verb", type=click.Choice(["bench", "verify", "evaluate"]))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(results: Path, name: str, verb: str, arguments: tuple[str, ...]) -> None:
    """Run `star-edge VERB ARGUMENTS --json` and write results/VERB-NAME.json."""
    host = read_host()
    done = subprocess.run([sys.executable, "-m", "star_edge", verb, *arguments, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode not in (0, _GATE_MISSED) or not done.stdout:
        sys.exit(done.returncode)
    record = Record(f"star-edge {verb} {shlex.join(arguments)}", done.returncode, host, msgspec.Raw(done.stdout))
    path = results / f"{verb}-{name}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    click.echo(f"{path}: kept, exit code {done.returncode}")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
