"""Every input that fuzzing begins with, and all that it found, through its reader: an error of ours or none, in bounded memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz import limit_memory
from harnesses import CORPUS, READERS, corpora, harness

# readers whose libraries are not part of the base install
_NEEDS = {"checkpoint": "torch", "case": "torch", "onnx": "onnx"}


@pytest.fixture
def bounded() -> Iterator[None]:
    before = limit_memory()
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("reader", READERS)
def test_inputs(reader: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if reader in _NEEDS:
        pytest.importorskip(_NEEDS[reader])
    run = harness(reader, tmp_path)
    inputs = [path for folder in corpora(reader) for path in sorted(folder.iterdir())]
    assert inputs
    request.getfixturevalue("bounded")
    for path in inputs:
        try:
            run(path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.relative_to(CORPUS)}: {type(error).__name__}: {error}") from error


def test_the_corpus_stays_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 300_000


def test_one_second_of_fuzzing() -> None:
    pytest.importorskip("atheris", reason="atheris is not installed: pip install 'star-edge[fuzz]'")
    fuzz = Path(__file__).with_name("fuzz.py")
    done = subprocess.run([sys.executable, fuzz, "calibration", "--seconds", "9"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("calibration: ")
    assert "inputs in" in done.stdout
