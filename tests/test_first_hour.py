"""The guide to the first hour on a board: its commands exist, its messages are ours, its image is one that JetPack 6 runs."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import boards
from star_edge import engines
from star_edge.cli import VERBS, cli

REPOSITORY = Path(__file__).resolve().parents[1]
GUIDE = (REPOSITORY / "docs" / "first-hour.md").read_text(encoding="utf-8")
DOCKERFILE = (REPOSITORY / "docker" / "Dockerfile.jetson").read_text(encoding="utf-8")
PACKAGES = ("runtime", "boards", "star_edge", "exporters", "calibration")


def lines() -> list[str]:
    """Everything that is typed, on the board or the host."""
    blocks = re.findall(r"^```console\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    typed = [line for block in blocks for line in block.splitlines()]
    assert all(re.match(r"(board|host)\$ ", line) for line in typed)
    return [line.partition("$ ")[2] for line in typed]


def commands() -> list[str]:
    """Those of star-edge, and those in the text."""
    own = [line for line in lines() if line.startswith("star-edge ")]
    text = re.sub(r"^\| `[^`]+`", "", GUIDE, flags=re.MULTILINE)  # messages
    return list(dict.fromkeys([*own, *re.findall(r"`(star-edge [^`]+)`", text)]))


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Takes verb, options and their values as the command line does, and runs nothing; UsageError for what is wrong."""
    monkeypatch.setattr(click.Command, "invoke", lambda command, context: None)
    return lambda words: cli.main(words, standalone_mode=False, prog_name="star-edge")


@pytest.mark.parametrize("command", commands())
def test_a_command_exists_with_its_options(command: str, parse: Callable[[list[str]], None]) -> None:
    words = shlex.split(command)[1:]
    if words[0] == "build" and "build" not in VERBS:
        pytest.skip("this checkout has no verb build")
    if "tensorrt" in words and "tensorrt" not in engines.ENGINES:
        pytest.skip("this checkout has no engine tensorrt")
    parse(words)


@pytest.mark.parametrize(
    "command",
    ["brench x.star", "bench --idel 33", "bench --device gpu", "boards shwo t5000", "verify --engine fast", "boards show"],
)
def test_a_wrong_command_would_be_found(command: str, parse: Callable[[list[str]], None]) -> None:
    with pytest.raises(click.UsageError):
        parse(shlex.split(command))


def test_the_steps_are_in_order() -> None:
    verbs = [shlex.split(line)[1] for line in lines() if line.startswith("star-edge ")]
    order = ("doctor", "run", "build", "verify", "bench", "report")
    last = {verb: len(verbs) - 1 - verbs[::-1].index(verb) for verb in order}
    assert sorted(order, key=last.__getitem__) == list(order)
    for tool in ("nvpmodel", "jetson_clocks", "pip install"):
        assert any(tool in line for line in lines()), tool


def test_power_modes_are_chosen_by_name() -> None:
    (line,) = (line for line in lines() if "nvpmodel -m" in line)
    pattern = re.search(r"sed -n '(s/.*/p)'", line)
    assert pattern
    conf = "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
    done = subprocess.run(["sed", "-n", pattern[1]], input=conf, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


def test_boards_are_ours() -> None:
    for name in re.findall(r"--board (\S+)", GUIDE):
        assert name.rstrip("`") in boards.names()


def test_messages_exist() -> None:
    sources = [path.read_text() for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")]
    section = GUIDE.split("## When something is refused")[1]
    messages = re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)
    assert len(messages) > 5
    for message in messages:
        parts = [part.strip(" '") for part in message.split("...")]
        assert any(all(part in source for part in parts) for source in sources), message


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", GUIDE):
        assert "://" in link or (REPOSITORY / "docs" / link).exists(), link


def test_the_image_is_of_a_jetpack_that_is_supported() -> None:
    image = re.search(r"^FROM nvcr\.io/nvidia/l4t-jetpack:r([\d.]+)$", DOCKERFILE, re.MULTILINE)
    assert image
    release = boards.jetpack(image[1])
    assert (release.name, release.refused) == ("6.1", "")
    assert f"JetPack {release.name}'s CUDA {release.cuda} and TensorRT {release.tensorrt.removesuffix('.0')}" in DOCKERFILE
    assert "NOT TESTED" in DOCKERFILE
    for name in re.findall(r"^COPY (\S+)|(\.ci/\S+)|--constraint (\S+)", DOCKERFILE, re.MULTILINE):
        assert (REPOSITORY / next(filter(None, name))).exists(), name
