"""The table of what verbs need agrees with the command line, the extras, the pinned versions and the messages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.markers import Marker

from star_edge import cli
from star_edge.dependencies import (
    BASE,
    EXTRAS,
    PACKAGES,
    PYTHON,
    TESTED_PYTHON,
    VERBS,
    explain,
    fits,
    install_command,
)

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = (REPOSITORY / "pyproject.toml").read_text()


def requirements(block: str) -> dict[str, str]:
    """Names and versions asked for in a list of pyproject.toml, of what this Python is asked for."""
    quoted = (text.partition(";") for text in re.findall(r'"([^"]+)"', re.sub("#.*", "", block)))
    asked = (text for text, _, marker in quoted if not marker or Marker(marker).evaluate())
    found = (re.fullmatch(r"([A-Za-z0-9-]+)(?:\[[a-z]+\])?(.*)", text) for text in asked)
    return {match[1]: match[2] for match in found if match}


def extra(name: str) -> dict[str, str]:
    """What an extra asks for, with the extras it holds: ``star-edge[export]``."""
    match = re.search(rf"^{name} = \[(.*?)\]$", PROJECT, re.MULTILINE | re.DOTALL)
    assert match, name
    asked = requirements(match[1])
    asked.pop("star-edge", None)
    for held in re.findall(r'"star-edge\[([a-z]+)\]"', match[1]):
        asked |= extra(held)
    return asked


def test_every_verb_of_the_command_line_is_listed() -> None:
    assert set(cli.VERBS) <= set(VERBS)


def test_extras_are_those_of_the_project() -> None:
    listed = set(
        re.findall(r"^([a-z-]+) = \[", PROJECT.split("[project.optional-dependencies]")[1].split("\n[")[0], re.MULTILINE)
    )
    assert set(EXTRAS) == listed - {"dev", "fuzz"}
    for name, held in EXTRAS.items():
        asked = extra(name)
        assert asked == {package: PACKAGES[package].versions for package in held}, name
    base = re.search(r"^dependencies = \[(.*?)^\]", PROJECT, re.MULTILINE | re.DOTALL)
    assert base
    assert requirements(base[1]) == {name: PACKAGES[name].versions for name in BASE}
    assert f'requires-python = "{PYTHON}"' in PROJECT


def test_tested_versions_are_the_pinned_ones() -> None:
    pinned = {}
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        match = re.fullmatch(r"([\w.-]+)==([^;]+)(?:; python_version (.*))?", line)
        if match:
            name = re.sub(r"[-_.]+", "-", match[1]).lower()
            old = (match[3] or "").startswith("<")
            pinned[name] = pinned.get(name, match[2]) if old else match[2]  # tomli stands for old ones alone
    for package in PACKAGES.values():
        assert package.tested == pinned[package.name], package.name
        assert fits(package.tested, package.versions), package.name
    assert f"Python {TESTED_PYTHON} versions are the tested ones" in (REPOSITORY / "constraints.txt").read_text()


def test_a_verbs_extra_brings_what_it_needs() -> None:
    for verb, needs in VERBS.items():
        for packages, extras in (
            (needs.packages, needs.extra),
            *((option.packages, option.extra) for option in needs.options),
        ):
            brought = {package for name in extras.split(",") if name for package in EXTRAS[name]}
            assert set(packages) <= brought, verb


def test_messages_elsewhere_name_an_extra_that_brings_the_package() -> None:
    pattern = re.compile(r"MissingDependencyError\(\s*\"([a-z-]+)\", \"([a-z-]+)\"")
    found = [
        match
        for folder in ("runtime", "boards", "star_edge", "exporters", "calibration")
        for path in (REPOSITORY / folder).rglob("*.py")
        for match in pattern.findall(path.read_text())
    ]
    assert len(found) >= 4
    for package, name in found:
        assert package in EXTRAS[name]


@pytest.mark.parametrize(
    ("version", "wanted", "expected"),
    [
        ("1.21.0", ">=1.17,<1.22", True),
        ("1.22", ">=1.17,<1.22", False),
        ("1.22.0rc1", ">=1.17,<1.22", False),
        ("1.9", ">=1.17", False),
        ("2.13.0+cpu", ">=2.4", True),
        ("2.4.0a0+nv24.07", ">=2.4", True),
        ("1.7.1.116", "==1.7.1.116", True),
        ("1.7.1.117", "==1.7.1.116", False),
        ("13", ">=13.0.0", True),
        ("", ">=1", False),
        ("1", "", True),
    ],
)
def test_versions(version: str, wanted: str, expected: bool) -> None:
    assert fits(version, wanted) is expected


@pytest.mark.parametrize(
    ("extras", "command"),
    [
        ([], ""),
        ([""], ""),
        (["onnx"], "pip install 'star-edge[onnx]'"),
        (["train", "export", "calibrate", "onnx"], "pip install 'star-edge[train,calibrate]'"),
        (["train,calibrate", "train"], "pip install 'star-edge[train,calibrate]'"),
        (["train", "calibrate", "qat"], "pip install 'star-edge[train,qat]'"),
        (["pyg"], "make pyg"),
        (["export", "pyg"], "pip install 'star-edge[export]' && make pyg"),
    ],
)
def test_install_commands(extras: list[str], command: str) -> None:
    assert install_command(extras) == command


def test_a_module_that_is_missing_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = explain(ModuleNotFoundError("no", name="onnx.helper"), "calibrate")
    assert error is not None
    assert error.hint == "pip install 'star-edge[calibrate]'"
    other = explain(ModuleNotFoundError("no", name="torch"), "inspect")
    assert other is not None
    assert other.hint == "pip install 'star-edge[train]'"
    assert explain(ModuleNotFoundError("no", name="star_edge.nothing"), "run") is None
    assert explain(ModuleNotFoundError("no"), "run") is None


def test_a_part_that_an_installed_package_lacks_is_not_explained() -> None:
    assert explain(ModuleNotFoundError("no", name="numpy.nothing"), "run") is None
