"""The demo: its folder rules, and the whole pipeline on a few clips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from runtime.errors import InputError
from star_edge.cli.demo import _one_clip, _prepare, command


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("keep")
    result = CliRunner().invoke(command, ["--out", str(tmp_path)])
    assert isinstance(result.exception, InputError)
    assert mine.read_text() == "keep"


def test_an_earlier_demo_is_replaced_and_what_it_linked_to_stays(tmp_path: Path) -> None:
    theirs, demo = tmp_path / "theirs", tmp_path / "demo"
    (demo / "run").mkdir(parents=True)
    theirs.mkdir()
    (theirs / "meta.json").write_text("keep")
    (demo / ".star-edge-demo").touch()
    (demo / "ckpt.pt").touch()
    (demo / "data").symlink_to(theirs)
    _prepare(demo)
    assert [entry.name for entry in demo.iterdir()] == [".star-edge-demo"]
    assert (theirs / "meta.json").read_text() == "keep"


def test_one_test_clip_is_written_as_a_file(tiny_dataset: Path, tmp_path: Path) -> None:
    from runtime.readers import read_clips
    from star_edge.data import Dataset

    dataset = Dataset.open(tiny_dataset)
    expected = dataset.clip(int(dataset.indices(None, "test")[0]))
    (found,) = read_clips(_one_clip(dataset, tiny_dataset, tmp_path))
    assert (found.name, found.person_lengths) == (expected.name, expected.person_lengths)
    assert (found.joints == expected.joints).all()


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
        ("torch", "fp32"), ("native", "fp32"), ("native", "fp16"), ("native", "bf16"), ("native", "int8")
    }  # fmt: skip
    assert all(row["median_ms"] for row in report["rows"] if row["engine"] != "torch rounded to")
    assert (tmp_path / "demo" / "ckpt.pt").is_file()
    assert (tmp_path / "demo" / "demo.star" / "reports" / "bench.json").is_file()
    assert (tmp_path / "demo" / "demo.star" / "reports" / "report.html").is_file()
