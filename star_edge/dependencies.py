"""What each verb needs beside the base install: the one table, for ``star-edge doctor`` and for what a verb says itself."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from runtime.errors import MissingDependencyError

PYTHON = ">=3.10"
TESTED_PYTHON = "3.11"
_REPOSITORY = Path(__file__).resolve().parents[1]
_CLAUSE = re.compile(r"(>=|<=|==|!=|<|>)\s*(\d+(?:\.\d+)*)")


class Package(NamedTuple):
    """A distribution: the module it is imported as, the versions asked for, and the one the tests ran with on Python 3.11."""

    name: str
    module: str
    versions: str
    tested: str


class Option(NamedTuple):
    """What a verb can do more: the packages that takes, the extra that brings them, and what for."""

    packages: tuple[str, ...]
    extra: str
    purpose: str


class Needs(NamedTuple):
    """What a verb cannot do without, the extra that brings it, and its options."""

    packages: tuple[str, ...] = ()
    extra: str = ""
    options: tuple[Option, ...] = ()


# later Python reads TOML itself
_OLD_PYTHON = (Package("tomli", "tomli", ">=2.0", "2.5.0"),) if sys.version_info < (3, 11) else ()
# the versions are those of pyproject.toml and constraints.txt, which a test compares
PACKAGES = {
    package.name: package
    for package in (
        Package("click", "click", ">=8.1", "8.5.1"),
        Package("msgspec", "msgspec", ">=0.18.6", "0.22.0"),
        Package("numpy", "numpy", ">=1.24", "2.4.6"),
        Package("rich", "rich", ">=13", "15.0.0"),
        *_OLD_PYTHON,
        Package("onnxruntime", "onnxruntime", ">=1.23", "1.31.1"),
        Package("torch", "torch", ">=2.4", "2.13.0"),
        Package("tensorboard", "tensorboard", ">=2.14", "2.21.0"),
        Package("onnx", "onnx", ">=1.17,<1.22", "1.21.0"),
        Package("safetensors", "safetensors", ">=0.4", "0.8.0"),
        Package("nvidia-modelopt", "modelopt", ">=0.47,<0.48", "0.47.0"),
        Package("lief", "lief", ">=0.16", "1.0.0"),
        Package("onnx-graphsurgeon", "onnx_graphsurgeon", ">=0.6.1", "0.6.1"),
        Package("onnxscript", "onnxscript", ">=0.5", "0.7.2"),
        Package("onnxslim", "onnxslim", ">=0.1.76", "0.1.98"),
        Package("requests", "requests", ">=2.31", "2.34.2"),
        Package("huggingface-hub", "huggingface_hub", ">=0.24", "2.4.0"),
        Package("torch-scatter", "torch_scatter", ">=2.1.2", "2.1.2"),
        Package("torch-sparse", "torch_sparse", ">=0.6.18", "0.6.18"),
        Package("scipy", "scipy", ">=1.11", "1.17.1"),
        Package("plotly", "plotly", ">=6", "7.1.0"),
        Package("jinja2", "jinja2", ">=3.1", "3.1.6"),
        Package("openvino", "openvino", ">=2025.0", "2026.4.1"),
        Package("playwright", "playwright", ">=1.45", "1.65.2"),
        Package("tensorrt-rtx-cu13", "tensorrt_rtx", "==1.7.1.116", "1.7.1.116"),
    )
}
BASE = ("click", "msgspec", "numpy", "rich", *(package.name for package in _OLD_PYTHON))
_EXPORT = ("torch", "onnx", "onnxruntime", "onnxscript", "safetensors")
_CALIBRATE = (*_EXPORT, "nvidia-modelopt", "lief", "onnx-graphsurgeon", "onnxslim")
_QAT = (*_CALIBRATE, "requests", "huggingface-hub")
_PYG = ("torch-scatter", "torch-sparse", "scipy")
_PEERS = (*_EXPORT, "openvino")
_REPORT = ("plotly", "jinja2")
EXTRAS = {
    "onnx": ("onnxruntime",),
    "train": ("torch", "tensorboard"),
    "export": _EXPORT,
    "calibrate": _CALIBRATE,
    "qat": _QAT,
    "pyg": _PYG,
    "peers": _PEERS,
    "report": _REPORT,
    "browser": ("playwright",),
    "tensorrt": ("onnx",),
    "tensorrt-rtx": ("onnx", "tensorrt-rtx-cu13"),
}
# extras in an extra
_HELD = {
    "export": ("onnx",),
    "calibrate": ("export", "onnx"),
    "qat": ("calibrate", "export", "onnx"),
    "peers": ("export", "onnx"),
}
_TORCH, _ONNX = ("torch", "safetensors"), ("onnxruntime",)
_PYG_ENGINE = Option(_PYG, "pyg", "the paper's own kernels beside the others")
VERBS = {
    "demo": Needs(("tensorboard", *_CALIBRATE, *_REPORT), "train,calibrate,report", (_PYG_ENGINE,)),
    "data": Needs(),
    "train": Needs(("torch", "tensorboard"), "train", (Option(_QAT, "qat", "--qat"),)),
    "import": Needs(("torch",), "train"),
    "evaluate": Needs(("torch",), "train"),
    "compress": Needs(("torch", "tensorboard"), "train", (Option(_EXPORT, "export", "--latency engines"),)),
    "export": Needs(_EXPORT, "export"),
    "calibrate": Needs(_CALIBRATE, "calibrate"),
    "analyze": Needs(_CALIBRATE, "calibrate"),
    "build": Needs(("onnx",), "tensorrt", (Option(("tensorrt-rtx-cu13",), "tensorrt-rtx", "--target tensorrt-rtx"),)),
    "verify": Needs(_TORCH, "export", (Option(_ONNX, "onnx", "--engine onnxruntime, --layers"),)),
    "bench": Needs(
        _TORCH,
        "export",
        (
            Option(_ONNX, "onnx", "ONNX Runtime beside the others"),
            _PYG_ENGINE,
            Option(("onnx", "onnxruntime", "onnxscript", "openvino"), "peers", "--engine openvino and the other peers"),
        ),
    ),
    "run": Needs(
        options=(Option(_ONNX, "onnx", "--engine onnxruntime"), Option(_TORCH, "export", "--engine torch")),
    ),
    "report": Needs(_REPORT, "report", (Option(_ONNX, "onnx", "bundles verified with --engine onnxruntime"),)),
    "inspect": Needs(
        options=(Option(("torch",), "train", "checkpoints"), Option(("onnx",), "export", "ONNX files")),
    ),
    "pack": Needs(),
    "doctor": Needs(),
    "boards": Needs(),
}


def install_command(extras: Iterable[str]) -> str:
    """What to type to get extras. The kernels of ``pyg`` are compiled, in a clone by ``make pyg``."""
    wanted = dict.fromkeys(part for extra in extras for part in extra.split(",") if part)
    for extra in list(wanted):
        for held in _HELD.get(extra, ()):
            wanted.pop(held, None)
    compiled = "pyg" in wanted
    wanted.pop("pyg", None)
    commands = [f"pip install 'star-edge[{','.join(wanted)}]'"] if wanted else []
    if compiled:
        clone = (_REPOSITORY / "Makefile").is_file()
        commands.append("make pyg" if clone else "pip install --no-build-isolation 'star-edge[pyg]'")
    return " && ".join(commands)


def fits(version: str, wanted: str) -> bool:
    """Whether a version is one of those asked for, e.g. ``>=1.17,<1.22``; only the numbers of a release are compared."""
    found = _release(version)
    for operator, bound in _CLAUSE.findall(wanted):
        limit = _release(bound)
        size = max(len(found), len(limit))
        left, right = (release + (0,) * (size - len(release)) for release in (found, limit))
        holds = {">=": left >= right, "<=": left <= right, "==": left == right, "!=": left != right, "<": left < right,
                 ">": left > right}  # fmt: skip
        if not holds[operator]:
            return False
    return True


def explain(error: ModuleNotFoundError, verb: str) -> MissingDependencyError | None:
    """The error to show when a verb stumbled over an optional package; None when the module is none of theirs."""
    module = (error.name or "").split(".")[0]
    package = next((package for package in PACKAGES.values() if package.module == module), None)
    if package is None or package.name in BASE or importlib.util.find_spec(module) is not None:
        return None
    needs = VERBS.get(verb, Needs())
    extra = needs.extra if package.name in needs.packages else next(e for e, held in EXTRAS.items() if package.name in held)
    return MissingDependencyError(package.name, extra, f"star-edge {verb}")


def _release(version: str) -> tuple[int, ...]:
    """``2.4.0a0+cpu`` -> (2, 4, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
