"""The demo: its folder rules, and the whole pipeline on a few clips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from runtime.errors import InputError
from star_edge.cli.demo import command


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("keep")
    result = CliRunner().invoke(command, ["--out", str(tmp_path)])
    assert isinstance(result.exception, InputError)
    assert mine.read_text() == "keep"


@pytest.mark.slow
def test_the_whole_pipeline_on_few_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed")
    monkeypatch.chdir(tmp_path)
    arguments = ["--out", "demo", "--clips", "60", "--epochs", "1", "--samples", "16", "--json"]
    result = CliRunner().invoke(command, arguments)
    # one epoch trains a poor model: its gates may be missed, but every step must have run
    assert result.exit_code == 0 or type(result.exception).__name__ == "GateError", result.output
    report = json.loads(result.stdout)
    assert report["schema"] == "star-edge/demo/1"
    assert report["passed"] == (result.exit_code == 0)
    assert {(row["engine"], row["precision"]) for row in report["rows"]} >= {
        ("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "fp16"), ("onnxruntime", "int8")
    }  # fmt: skip
    assert all(row["median_ms"] for row in report["rows"] if row["engine"] != "torch rounded to")
    assert (tmp_path / "demo" / "ckpt.pt").is_file()
    assert (tmp_path / "demo" / "demo.star" / "reports" / "bench.json").is_file()
