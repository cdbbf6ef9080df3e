"""``jetpack.toml``: what each JetPack release brings, and which are refused."""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

import msgspec

from boards.facts import FOLDER, Confidence, Fact, read_toml
from runtime.errors import InputError, MismatchError

TABLE = FOLDER / "jetpack.toml"


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JetPack release.

    Attributes:
        name: its version. l4t: releases of Jetson Linux in it; one of two numbers stands for all that begin so.
        families: of boards it runs on.
        source, confidence, note: of the whole row, see :class:`boards.facts.Fact`.
        refused: why star-edge does not run on it; empty where it does.
    """

    name: str
    l4t: tuple[str, ...]
    families: tuple[str, ...]
    cuda: str
    cudnn: str
    tensorrt: str
    ubuntu: str
    python: str
    source: str
    confidence: Confidence
    note: str = ""
    refused: str = ""


class RefusedFamily(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Boards that star-edge does not run on: compute capability, chip as the device tree names it, and the reason."""

    arch: Fact[str]
    chip: Fact[str]
    reason: str


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal["star-edge/jetpack/1"]
    releases: tuple[Release, ...]
    refused: dict[str, RefusedFamily]


def releases() -> tuple[Release, ...]:
    """All releases, oldest first, the refused ones too."""
    return _table().releases


def jetpack(version: str) -> Release:
    """The release of a JetPack version (``6.2``, ``5.1.3``) or of one of Jetson Linux (``36.4.3``, ``R36.4.3``).

    A refused release is returned, too: ``refused`` says why. InputError for one that is not in the table.
    """
    numbers = re.sub(r"^(l4t|r|jetpack|jp)\s*", "", version.strip().lower())
    for release in releases():
        if numbers == release.name or any(_begins(numbers, l4t) for l4t in release.l4t):
            return release
    for release in releases():  # a refused line stands for its updates: 5 for 5.1.6
        if release.refused and _begins(numbers, release.name):
            return release
    known = ", ".join(f"{release.name} ({'/'.join(release.l4t)})" for release in releases())
    raise InputError(f"no JetPack or Jetson Linux '{version}' in the table", where=TABLE, found=version, expected=known)


def refusal(l4t: str) -> str:
    """Why star-edge does not run on a release of Jetson Linux; empty where it does, or is newer than the table."""
    try:
        return _reason(jetpack(l4t))
    except InputError:
        oldest = next(release for release in releases() if not release.refused)
        if _numbers(l4t) < _numbers(oldest.l4t[0]):
            return f"Jetson Linux {l4t} is older than JetPack {oldest.name}, the first that star-edge runs on"
        return ""


def check_supported(version: str) -> None:
    """Raise MismatchError for a refused release, InputError for one that is not in the table."""
    release = jetpack(version)
    if release.refused:
        supported = [other for other in releases() if not other.refused]
        raise MismatchError(
            f"star-edge does not run on JetPack {version}",
            where=TABLE,
            found=_reason(release),
            expected=", ".join(f"JetPack {other.name}" for other in supported),
            hint=f"flash the board with JetPack {supported[-1].name}",
        )


def refused_families() -> dict[str, RefusedFamily]:
    """Families of boards by name, e.g. ``xavier``, that star-edge does not run on."""
    return _table().refused


def _reason(release: Release) -> str:
    return f"JetPack {release.name}: {release.refused}" if release.refused else ""


@cache
def _table() -> _Table:
    return read_toml(TABLE, _Table)


def _begins(version: str, prefix: str) -> bool:
    return _numbers(version)[: len(_numbers(prefix))] == _numbers(prefix)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
