"""What the tests of verbs share: a verb run in an empty folder, and a small checkpoint that names its clips."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from star_edge import cli
from star_edge.skeletons import NITE15

Command = Callable[..., tuple[int, str, str]]
Interrupt = Callable[[int], contextlib.AbstractContextManager[None]]


@pytest.fixture
def star_edge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs a verb in an empty folder: (arguments) -> exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["star-edge", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def start(random_checkpoint: Path, tmp_path: Path) -> Path:
    """Checkpoint of a small model that names 30 clips of noise by six subjects as its data."""
    from star_edge.training.checkpoint import DataEntry, load_checkpoint, save_checkpoint

    rng, lengths = np.random.default_rng(0), np.full(30, 8)
    np.savez(tmp_path / "noise.npz", xyz=rng.normal(0, 0.3, (240, 15, 3)).astype(np.float32), lengths=lengths,
             labels=np.arange(30) % 5, subjects=np.arange(30) // 5 + 1, edges=np.array(NITE15.bones),
             class_names=np.array(list("abcde")))  # fmt: skip
    saved = load_checkpoint(random_checkpoint)
    data = DataEntry(str(tmp_path / "noise.npz"), "noise", "xsub")
    save_checkpoint(msgspec.structs.replace(saved, data=data, recipe={**saved.recipe, "seed": 0}), tmp_path / "start.pt")
    return tmp_path / "start.pt"


@pytest.fixture
def interrupted_after(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """A context in which any training gets Ctrl-C after so many epochs."""

    @contextlib.contextmanager
    def interrupt(epochs: int) -> Iterator[None]:
        from star_edge.training.loop import Trainer

        finish = Trainer._finish_epoch

        def finish_and_stop(trainer: Trainer, loss: float, accuracy: float) -> object:
            found = finish(trainer, loss, accuracy)
            if trainer.epoch == epochs:
                raise KeyboardInterrupt
            return found

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_finish_epoch", finish_and_stop)
            yield

    return interrupt
