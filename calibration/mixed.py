"""Mixed precision: which layers go back to float, so that the rest may stay in INT8."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from calibration.report import Int8Score, LayerSensitivity, Returned
from calibration.score import noise_share


def choose_layers(
    layers: Sequence[LayerSensitivity], saved_us: Mapping[str, float], score_of: Callable[[tuple[str, ...]], Int8Score]
) -> tuple[tuple[str, ...], tuple[Returned, ...], Int8Score]:
    """Return layers to float until the gate holds on val.

    First go those whose INT8 saves no time, then, one by one, the one with the most harm per microsecond saved; harm is
    the noise its INT8 alone puts into the logits.

    Args:
        layers: measured one by one.
        saved_us: kind of layer (``kind_of``) -> microseconds that INT8 saves for one layer.
        score_of: the score of the model in which just these layers are in INT8.

    Returns:
        The layers that stay in INT8 in the model's order (none if the gate never held), those returned in order, and the score.
    """
    saved = {layer.module: saved_us[kind_of(layer.module)] for layer in layers}
    returned = [Returned(module, f"INT8 saves no time here ({gain:+.1f} us)") for module, gain in saved.items() if gain <= 0]
    gone = {entry.module for entry in returned}
    harm = {
        layer.module: noise_share(layer.alone.sqnr_db) / saved[layer.module] for layer in layers if layer.module not in gone
    }
    waiting = sorted(harm, key=lambda module: (-harm[module], module))
    while True:
        stays = tuple(layer.module for layer in layers if layer.module in waiting)
        score = score_of(stays)
        if score.passed or not waiting:
            return stays, tuple(returned), score
        worst = waiting.pop(0)
        returned.append(
            Returned(worst, f"the gate is missed on val; {harm[worst]:.1e} of the signal is its noise, a microsecond")
        )


def kind_of(module: str) -> str:
    """The part of a module's path that layers of one shape share: ``layers.3.spatial.qkv`` is a ``spatial.qkv``."""
    return module.split(".", 2)[2] if module.startswith("layers.") else module
