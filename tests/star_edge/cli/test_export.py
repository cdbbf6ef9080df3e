"""``star-edge export`` through the real entry point: bundle, document, last line, exit codes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from runtime.bundle import Bundle
from star_edge.cli import main


@pytest.fixture
def folder(random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory that holds only a checkpoint."""
    shutil.copy(random_checkpoint, tmp_path / "ckpt.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["star-edge", "export", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_fp16_export_writes_the_bundle_beside_and_says_what_comes_next(folder, monkeypatch, capsys):
    assert export(monkeypatch, "--fp16", "ckpt.pt") == 0
    bundle = Bundle.open(folder / "ckpt.star")
    assert bundle.manifest.precisions == ("fp32", "fp16")
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("ckpt.star: ")
    assert "passed" in last
    assert last.endswith("next: star-edge calibrate --samples 512")


def test_json_is_one_document_and_out_is_obeyed(folder, monkeypatch, capsys):
    assert export(monkeypatch, "ckpt.pt", "--out", "other.star", "--json") == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["schema"] == "star-edge/export/1"
    assert document["bundle_id"] == Bundle.open(folder / "other.star").manifest.bundle_id
    assert "parity" in captured.err
    assert sorted(path.name for path in folder.iterdir()) == ["ckpt.pt", "other.star"]


def test_exit_codes_and_messages(folder, monkeypatch, capsys):
    (folder / "torn.pt").write_bytes((folder / "ckpt.pt").read_bytes()[:1000])
    (folder / "taken.star").mkdir()
    (folder / "taken.star" / "thesis.txt").write_text("mine")
    for arguments, code, word in [
        (["absent.pt"], 2, "no such checkpoint"),
        (["torn.pt"], 2, "cannot be read"),
        (["ckpt.pt", "--out", "taken.star"], 2, "in the way"),
        ([], 2, "CHECKPOINT"),
    ]:
        assert export(monkeypatch, *arguments) == code
        message = capsys.readouterr().err
        assert word in message
        assert "Traceback" not in message
    assert sorted(path.name for path in folder.iterdir()) == ["ckpt.pt", "taken.star", "torn.pt"]
