"""``star-edge boards`` through the entry point."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import boards
from star_edge.cli import main


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["star-edge", "boards", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_the_list(verb) -> None:
    code, out, _ = verb()
    assert code == 0
    for name in boards.names():
        assert name in out
    assert "25W (default)" in out
    assert "refused: its TensorRT 8.6 has no IPluginV3" in out
    assert "nothing measured" in out.splitlines()[-1]
    code, out, _ = verb("--json")
    document = json.loads(out)
    assert (code, document["schema"], document["here"]) == (0, "star-edge/boards/1", None)
    assert [board["name"] for board in document["boards"]] == list(boards.names())
    assert document["boards"][1]["facts"]["sms"] == {
        "value": 8,
        "source": "published core count over 128 cores an SM",
        "confidence": "D",
        "note": "",
    }


def test_one_board_with_sources(verb) -> None:
    code, out, _ = verb("show", "Jetson Orin NX 16GB")
    assert code == 0
    for fact in boards.load("orin-nx-16gb").modes["25W"].__struct_fields__:
        assert f"25W: {fact}" in out
    assert "ARK-Electronics/ark_jetson_kernel" in out
    assert "unknown" in out
    assert " 7.0 " not in out  # a release for Thor alone
    document = json.loads(verb("show", "orin-nx-16gb", "--json")[1])
    assert [board["name"] for board in document["boards"]] == ["orin-nx-16gb"]
    assert {release["name"] for release in document["releases"]} == {"5", "6.0", "6.1", "6.2", "6.2.1", "6.2.2", "7.2"}


@pytest.mark.parametrize(("name", "code"), [("orin-nano", 2), ("xavier", 4), ("jetpack5", 4)])
def test_what_is_not_there(verb, name: str, code: int) -> None:
    found, out, err = verb("show", name)
    assert (found, out) == (code, "")
    assert "next:" in err


def test_prediction(verb, exported_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(exported_bundle, tmp_path / "own.star")
    monkeypatch.chdir(tmp_path)
    code, out, _ = verb("predict", "--board", "orin-nano-8gb", "--workload", "1x32, mix8")
    assert code == 0
    assert "1x32: predicted, not measured" in out
    assert "mix8: predicted, not measured" in out
    assert "not a measurement" in out.splitlines()[0]
    assert "no prediction for 7W" in out
    document = json.loads(verb("predict", "--json")[1])
    assert document["schema"] == "star-edge/prediction/1"
    assert "not a measurement" in document["statement"]
    assert {row["board"] for row in document["predictions"]} == set(boards.names())
    assert not (tmp_path / "own.star" / "reports").exists()
    assert verb("predict", "--board", "xavier")[0] == 4
    assert verb("predict", "--workload", "huge")[0] == 2
