"""nvidia-modelopt: imported late, because it takes seconds, and kept quiet."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator
from typing import Any, Literal

from runtime.errors import MissingDependencyError
from star_edge.dependencies import PACKAGES


def import_modelopt(part: Literal["onnx", "torch"]) -> Any:
    """The module ``modelopt.<part>.quantization``; MissingDependencyError when it, or a package it needs, is not installed."""
    try:
        with quiet():
            return importlib.import_module(f"modelopt.{part}.quantization")
    except ImportError as error:
        module = (error.name or "modelopt").split(".")[0]
        package = next((package.name for package in PACKAGES.values() if package.module == module), module)
        if part == "onnx":
            raise MissingDependencyError(package, "calibrate", "Calibration") from None
        raise MissingDependencyError(package, "qat", "Quantisation-aware training") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep ModelOpt's prints and its log, which goes to stdout, out of ours."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
