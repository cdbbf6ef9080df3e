"""Whether an engine may run here: the one list of everything that is compared when it is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from runtime.errors import MismatchError
from runtime.tensorrt.sidecar import EngineSidecar, Gpu


class Here(NamedTuple):
    """The bundle, the machine and the files that an engine meets.

    Attributes:
        bundle: path, as a command names it.
        bundle_id, precision: of the bundle, and the one asked for.
        tensorrt: its version. gpu: the first one.
        plan: bytes of the engine.
        plugin_sha256: hash of the plugin library that the engine needs; empty where it is not here.
    """

    bundle: Path
    bundle_id: str
    precision: str
    tensorrt: str
    gpu: Gpu
    plan: bytes
    plugin_sha256: str


class Check(NamedTuple):
    """A refusal: its reason, what the engine was made with or for, what is here, and what there is to do about it."""

    reason: str
    made: Callable[[EngineSidecar], object]
    here: Callable[[Here], object]
    advice: str = ""


# in the order they are made; every one is mended by building again, which the advice may explain
CHECKS = (
    Check("the engine is of another precision", lambda made: made.precision, lambda here: here.precision),
    Check("the bundle was changed after the engine was built", lambda made: made.bundle_id, lambda here: here.bundle_id),
    Check(
        "the engine's file is not the one that was built",
        lambda made: made.engine_sha256,
        lambda here: hashlib.sha256(here.plan).hexdigest(),
    ),
    Check(
        "the engine was built by another TensorRT",
        lambda made: f"TensorRT {made.tensorrt}",
        lambda here: f"TensorRT {here.tensorrt}",
    ),
    Check("the engine was built for another GPU", lambda made: f"sm_{made.gpu.sm}", lambda here: f"sm_{here.gpu.sm}"),
    Check(
        "the engine was built on another GPU, or in a power mode with other multiprocessors",
        lambda made: made.gpu,
        lambda here: here.gpu,
        "in the power mode that it will run in",
    ),
    Check(
        "the engine's plugins are not here as it was built with them",
        lambda made: made.plugin.sha256,
        lambda here: here.plugin_sha256 or "no plugin library",
        "which compiles them",
    ),
)


def require_compatible(sidecar: EngineSidecar, here: Here, where: Path) -> None:
    """Raise MismatchError with the first check that fails and the command that mends it."""
    for check in CHECKS:
        made, found = check.made(sidecar), check.here(here)
        if made != found:
            command = f"star-edge build {here.bundle} --{here.precision}"
            raise MismatchError(
                check.reason,
                where=where,
                found=f"{found} here",
                expected=made,
                hint=f"{command}, {check.advice}" if check.advice else command,
            )
