"""The ranges that quantisation-aware training settled on, which its bundle carries."""

from __future__ import annotations

from exporters.onnx.lowering import lowering_of
from runtime.bundle import Bundle
from runtime.errors import InputError, MismatchError
from runtime.manifest import WEIGHTS


def trained_ranges(bundle: Bundle) -> dict[str, float]:
    """Calibration key -> amax, of the input of every quantised module.

    Raises InputError when the bundle has none, MismatchError when they belong to other weights or to another model.
    """
    trained = bundle.manifest.source.trained
    if trained is None:
        raise InputError(
            "the bundle has no trained ranges",
            where=bundle.path,
            expected="the bundle of a checkpoint from quantisation-aware training",
            hint="another --method, or star-edge train --qat ckpt.pt",
        )
    weights = bundle.manifest.files[WEIGHTS].sha256
    modules = {f"{module}.in" for module in lowering_of(bundle).quantised_modules}
    if trained.weights_sha256 != weights or trained.ranges.keys() != modules:
        raise MismatchError(
            "the trained ranges do not belong to the bundle's weights",
            where=bundle.path,
            found=f"{len(trained.ranges)} ranges for weights {trained.weights_sha256[:12]}",
            expected=f"{len(modules)} ranges for weights {weights[:12]}",
            hint="export the checkpoint again",
        )
    return trained.ranges
