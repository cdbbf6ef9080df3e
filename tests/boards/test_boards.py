"""The tables of boards and JetPack releases: complete, consistent, and found under the names that people write."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import pytest

import boards
from boards.facts import CONFIDENCE, FOLDER, read_toml
from boards.jetpack import refusal
from runtime.errors import InputError, MismatchError

NAMES = (
    "orin-nano-4gb", "orin-nano-8gb", "orin-nx-8gb", "orin-nx-16gb", "agx-orin-32gb", "agx-orin-64gb", "thor-t4000", "thor-t5000",
)  # fmt: skip


def facts(board: boards.Board) -> Iterator[tuple[str, boards.Fact]]:
    for where, held in (("", board.facts), *board.modes.items()):
        for field in held.__struct_fields__:
            fact = getattr(held, field)
            if fact is not None:
                yield f"{board.name} {where} {field}", fact


def test_the_boards() -> None:
    assert boards.names() == NAMES
    assert {f"{name}.toml" for name in NAMES} | {"jetpack.toml"} == {path.name for path in FOLDER.glob("*.toml")}


@pytest.mark.parametrize("name", NAMES)
def test_a_board(name: str) -> None:
    board = boards.load(name)
    assert board.name == name
    assert board.sm == {"orin": 87, "thor": 110}[board.family]
    for where, fact in facts(board):
        assert fact.confidence in CONFIDENCE, where
        assert len(fact.source) > 5, where
    default = board.facts.default_mode
    assert default is None or default.value in board.modes
    ids = [mode.id.value for mode in board.modes.values() if mode.id]
    assert len(set(ids)) == len(ids)
    for mode in board.modes.values():
        if mode.gpu_mhz:
            assert mode.gpu_mhz.value <= board.facts.gpu_mhz.value
        if mode.memory_gb_per_s:
            assert mode.memory_gb_per_s.value <= board.facts.memory_gb_per_s.value


def test_rates_reproduce_published_figures() -> None:
    """SMs, clock and operations a clock give the TOPS that the makers publish, within their rounding."""

    def tops(name: str) -> float:
        known = boards.load(name).facts
        return known.sms.value * known.gpu_mhz.value * known.int8_op_per_sm_clock.value / 1e6

    agx = boards.load("agx-orin-64gb").modes["MAXN"].gpu_int8_sparse_tops
    assert agx
    assert 2 * tops("agx-orin-64gb") == pytest.approx(agx.value, rel=0.01)
    for name in ("orin-nano-4gb", "orin-nano-8gb"):  # without DLA, the headline is the GPU's
        headline = boards.load(name).facts.headline_tops
        assert headline
        assert 2 * tops(name) == pytest.approx(headline.value, rel=0.02)
    assert tops("thor-t5000") == pytest.approx(517, rel=0.01)
    assert tops("thor-t4000") == pytest.approx(300, rel=0.01)


def test_module_ids_name_one_board() -> None:
    held = [boards.load(name).facts.module_ids for name in NAMES]
    modules = [module for fact in held if fact for module in fact.value]
    assert len(set(modules)) == len(modules)
    assert all(re.fullmatch(r"p\d{4}-\d{4}", module) for module in modules)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("orin-nano-8gb", "orin-nano-8gb"),
        ("Jetson Orin_Nano 8GB", "orin-nano-8gb"),
        ("nvidia-jetson-agx-orin-64gb", "agx-orin-64gb"),
        ("orin-nano-super", "orin-nano-8gb"),
        ("T5000", "thor-t5000"),
        ("agx_thor", "thor-t5000"),
    ],
)
def test_names_as_people_write_them(written: str, name: str) -> None:
    assert boards.load(written).name == name


def test_an_unknown_board_names_the_close_ones() -> None:
    with pytest.raises(InputError, match="no board 'orin-nano'") as failure:
        boards.load("orin-nano")
    assert {"orin-nano-4gb", "orin-nano-8gb"} <= set(re.findall(r"[\w-]+", failure.value.hint or ""))
    assert failure.value.expected == f"one of {', '.join(NAMES)}"
    with pytest.raises(InputError, match="agx-orin-32gb or agx-orin-64gb"):
        boards.load("agx-orin-12gb")
    with pytest.raises(InputError, match="next:     star-edge boards"):
        boards.load("raspberry")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("xavier", "JetPack 5 is the last line for Xavier"),
        ("AGX Xavier 32GB", "sm_72"),
        ("jetpack5", "TensorRT 8.5 has no IPluginV3"),
        ("JetPack 5.1.2", "TensorRT 8.5 has no IPluginV3"),
        ("jp6.0", "TensorRT 8.6 has no IPluginV3"),
    ],
)
def test_what_is_refused_says_why(name: str, reason: str) -> None:
    with pytest.raises(MismatchError) as failure:
        boards.load(name)
    assert reason in (failure.value.found or "")
    assert failure.value.hint


@pytest.mark.parametrize(
    ("version", "name", "tensorrt"),
    [
        ("6.2", "6.2", "10.3.0"),
        ("36.4.3", "6.2", "10.3.0"),
        ("R36.4.7", "6.2.1", "10.3.0"),
        ("36.3.0", "6.0", "8.6.2"),
        ("36.5.0", "6.2.2", "10.3.0"),
        ("35.4.1", "5", "8.5.2"),
        ("5.1.6", "5", "8.5.2"),
        ("jetpack 7.1", "7.1", "10.13.3"),
        ("38.2.1", "7.0", "10.13.3"),
        ("39.2.0", "7.2", "10.16.2"),
    ],
)
def test_jetpack(version: str, name: str, tensorrt: str) -> None:
    release = boards.jetpack(version)
    assert (release.name, release.tensorrt) == (name, tensorrt)
    assert bool(release.refused) == (int(tensorrt.split(".")[0]) < 10)


@pytest.mark.parametrize("version", ["6", "36.4", "36.40.3", "39.2.1", "", "new"])
def test_a_release_that_is_not_in_the_table(version: str) -> None:
    with pytest.raises(InputError, match="in the table"):
        boards.jetpack(version)


def test_releases_are_in_order_and_each_says_where_from() -> None:
    found = boards.releases()
    numbers = [[int(part) for part in release.l4t[0].split(".")] for release in found]
    assert numbers == sorted(numbers)
    assert all(len(release.source) > 20 for release in found)
    for release in found:
        assert set(release.families) <= {"orin", "thor", "xavier"}
        assert ("thor" in release.families) == (release.name in ("7.0", "7.1", "7.2"))


def test_why_a_system_is_refused() -> None:
    assert "JetPack 5: " in refusal("35.6.0")
    assert refusal("34.1.1") == "Jetson Linux 34.1.1 is older than JetPack 6.1, the first that star-edge runs on"
    assert refusal("36.4.0") == refusal("39.2.1") == refusal("36.4.9") == ""


def test_a_fact_without_a_source_or_with_a_wrong_tag_is_refused(tmp_path) -> None:
    text = (FOLDER / "orin-nano-8gb.toml").read_text()
    for damage in (
        text.replace('confidence = "S"', 'confidence = "sure"', 1),
        text.replace(', source = "half the INT8 rate"', ""),
        text.replace("sms = { value = 8", 'sms = { value = "eight"'),
        text.replace("[modes.15W]", "[modes.15W]\nwatts = 15"),
        text[:200],
    ):
        assert damage != text
        (tmp_path / "board.toml").write_text(damage)
        with pytest.raises(MismatchError, match="damaged"):
            read_toml(tmp_path / "board.toml", boards.Board)
    with pytest.raises(msgspec.ValidationError):
        msgspec.toml.decode(text.replace("star-edge/board/1", "star-edge/board/2"), type=boards.Board)
