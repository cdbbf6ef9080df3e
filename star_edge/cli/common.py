"""What the verbs share: common options, console, progress, JSON output, choice of the bundle."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from runtime.archive import SUFFIX
from runtime.bundle import is_packed
from runtime.errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])
Item = TypeVar("Item")


class Output:
    """Where a verb writes: tables and text to stdout, or with ``--json`` one document there and the rest to stderr.

    Attributes:
        json: the user asked for one JSON document on stdout.
        seed: the value of ``--seed``.
        console: a rich console for what people read.
    """

    def __init__(self, *, json: bool, seed: int, verbosity: int) -> None:
        self.json, self.seed = json, seed
        self.console = Console(stderr=json, quiet=verbosity < 0, highlight=False)
        self.errors = Console(stderr=True, highlight=False)
        level = {-1: logging.ERROR, 0: logging.INFO}.get(verbosity, logging.DEBUG)
        handler = RichHandler(console=self.errors, show_path=False, show_time=False, markup=False)
        logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s", force=True)
        logging.getLogger("star_edge").setLevel(level)
        self._quiet = verbosity < 0

    def document(self, report: msgspec.Struct) -> None:
        """Print the verb's typed report when ``--json`` was given."""
        if self.json:
            sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")

    def track(self, items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
        """Iterate with one progress bar on stderr; without a terminal, silently."""
        if self._quiet or not sys.stderr.isatty():
            yield from items
            return
        with self.progress() as progress:
            yield from progress.track(items, description=description, total=total)

    def progress(self) -> Progress:
        """A progress display on stderr, disabled without a terminal."""
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.errors,
            disable=self._quiet or not sys.stderr.isatty(),
        )


def common_options(function: Function) -> Function:
    """Add ``--json``, ``--seed``, ``-v`` and ``-q``; the verb receives them as ``output: Output``."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; everything else on stderr.")
    @click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
    @click.option("-v", "--verbose", count=True, help="More detail.")
    @click.option("-q", "--quiet", is_flag=True, help="Errors only.")
    @functools.wraps(function)
    def wrapper(*args: Any, as_json: bool, seed: int, verbose: int, quiet: bool, **kwargs: Any) -> Any:
        output = Output(json=as_json, seed=seed, verbosity=-1 if quiet else verbose)
        return function(*args, output=output, **kwargs)

    return wrapper  # type: ignore[return-value]


def find_bundle(path: str | Path | None, *, folder_for: str | None = None) -> Path:
    """The given bundle, or the only ``*.star`` in the working directory, or where there is none the only ``*.star.zip``.

    Raises InputError when there is none or several; with ``folder_for``, the verb that writes into the bundle, also when it
    is a packed one.
    """
    if path is None:
        path = _only_bundle()
    if folder_for is not None and Path(path).is_file():
        raise is_packed(Path(path), folder_for)
    return Path(path)


def _only_bundle() -> Path:
    found = sorted(Path().glob("*.star")) or sorted(Path().glob(f"*{SUFFIX}"))
    if len(found) == 1:
        return found[0]
    raise InputError(
        "no bundle here" if not found else "several bundles here; name one",
        where=Path.cwd(),
        found=", ".join(p.name for p in found) or "no *.star",
        expected="exactly one *.star, or its path as an argument",
        hint="star-edge export ckpt.pt" if not found else f"add {found[0].name} to the command",
    )
