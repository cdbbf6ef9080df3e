"""Which board this machine is, and which JetPack is on it, from the files that Jetson Linux puts there."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from boards.catalog import load, names
from boards.jetpack import jetpack, refusal, refused_families
from runtime.errors import InputError

_MODULE = re.compile(r"p(?:3701|3767|3834)-\d{4}")


class Detected(msgspec.Struct, frozen=True, kw_only=True):
    """A Jetson.

    Attributes:
        model, compatible: as the device tree names it.
        board: name of the board, see :func:`boards.load`; empty where the table does not have it.
        l4t: release of Jetson Linux, e.g. 36.4.3. jetpack: the JetPack it belongs to; each is empty where not told.
        refused: why star-edge does not run here; empty where it does.
    """

    model: str
    compatible: tuple[str, ...]
    board: str = ""
    l4t: str = ""
    jetpack: str = ""
    refused: str = ""


def detect(root: Path = Path("/")) -> Detected | None:
    """The Jetson whose files stand under ``root``; None where they are those of another machine."""
    tree = root / "proc/device-tree"
    model, compatible = _strings(tree / "model"), _strings(tree / "compatible")
    l4t = _l4t(root)
    if not l4t and not any("tegra" in name for name in compatible):
        return None
    return Detected(
        model=model[0] if model else "",
        compatible=compatible,
        board=_board(compatible),
        l4t=l4t,
        jetpack=_jetpack(l4t),
        refused=_refused(compatible, l4t),
    )


def _board(compatible: tuple[str, ...]) -> str:
    """The board whose module the device tree names: the carrier beside it, and its maker, may be any."""
    found = {module for name in compatible for module in _MODULE.findall(name)}
    for name in names():
        modules = load(name).facts.module_ids
        if modules and found & {*modules.value}:
            return name
    return ""


def _l4t(root: Path) -> str:
    """``36.4.3`` from the release file, or from the package that brings it."""
    release = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)", _text(root / "etc/nv_tegra_release"))
    if release:
        return f"{release[1]}.{release[2]}"
    for package in _text(root / "var/lib/dpkg/status").split("\n\n"):
        if re.search(r"^Package: nvidia-l4t-core$", package, re.MULTILINE):
            version = re.search(r"^Version: (\d+(?:\.\d+)*)", package, re.MULTILINE)
            return version[1] if version else ""
    return ""


def _jetpack(l4t: str) -> str:
    try:
        return jetpack(l4t).name if l4t else ""
    except InputError:
        return ""


def _refused(compatible: tuple[str, ...], l4t: str) -> str:
    for refused in refused_families().values():
        if any(refused.chip.value in name for name in compatible):
            return refused.reason
    return refusal(l4t) if l4t else ""


def _strings(path: Path) -> tuple[str, ...]:
    """Strings of a device tree's property, each ended by a zero."""
    return tuple(part.strip() for part in _text(path).split("\0") if part.strip())


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
