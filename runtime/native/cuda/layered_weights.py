"""Places a STAR state dict as ``star_cuda_layered`` wants it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ctypes import c_uint64
from typing import Any

import numpy as np

from runtime.native.cuda.library import TYPES, Encoder, Layered, LinearLayer, Norm

TILE_OUTPUTS, TILE_BYTES = 64, 128  # STAR_CUDA_TILE_OUTPUTS, STAR_CUDA_TILE_BYTES
LEVELS = 127
_STORED = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}


class LayeredWeights:
    """A model in the memory of a device.

    Args:
        state: state dict as numpy arrays, torch names and layout.
        config: with ``joints, channels, classes, edges, dim, heads, layers, hidden``.
        precision: ``fp32``, ``fp16`` or ``int8``; activations of an int8 model are fp16.
        place: copies an array to the device and returns its address; the caller keeps the memory.
        ranges: int8: amax of the input of ``<module path>.in``; the modules that have one are quantised, but the embedding.
    """

    def __init__(
        self,
        state: Mapping[str, np.ndarray],
        config: Any,
        precision: str,
        place: Callable[[np.ndarray], int],
        ranges: Mapping[str, float] | None = None,
    ) -> None:
        self._state, self._precision, self._place, self._ranges = state, precision, place, ranges or {}
        words = [sum(1 << j for i, j in set(config.edges) if i == joint) for joint in range(config.joints)]
        self._neighbours = (c_uint64 * config.joints)(*words)
        self._encoders = (Encoder * (2 * config.layers))(
            *(
                self._encoder(f"layers.{layer}.{branch}")
                for layer in range(config.layers)
                for branch in ("spatial", "temporal")
            )
        )
        gain, bias, mean, variance = (
            np.asarray(state[f"input_norm.{name}"], np.float64) for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / np.sqrt(variance + 1e-5)
        self.layered = Layered(
            activations=TYPES.index("fp32" if precision == "fp32" else "fp16"),
            joints=config.joints,
            inputs=config.channels,
            dim=config.dim,
            heads=config.heads,
            layers=config.layers,
            hidden=config.hidden,
            classes=config.classes,
            neighbours=self._neighbours,
            input_scale=self._floats(scale),
            input_shift=self._floats(bias - mean * scale),
            embedding=self._floats(np.transpose(state["embedding.weight"])),
            embedding_bias=self._floats(state["embedding.bias"]),
            encoders=self._encoders,
            context=self._floats(state["context.weight"]),
            head_hidden=self._linear("head.hidden", silu=True),
            head_output=self._linear("head.output"),
        )

    def _floats(self, array: np.ndarray) -> int:
        return self._place(np.ascontiguousarray(array, np.float32))

    def _norm(self, path: str) -> Norm:
        return Norm(self._floats(self._state[f"{path}.weight"]), self._floats(self._state[f"{path}.bias"]))

    def _encoder(self, path: str) -> Encoder:
        return Encoder(
            self._linear(f"{path}.qkv"),
            self._linear(f"{path}.linear1", silu=True),
            self._linear(f"{path}.linear2"),
            self._norm(f"{path}.norm1"),
            self._norm(f"{path}.norm2"),
        )

    def _linear(self, path: str, silu: bool = False) -> LinearLayer:
        weight = np.asarray(self._state[f"{path}.weight"], np.float64)
        outputs, inputs = weight.shape
        kind, scales, input_scale = self._precision, None, 0.0
        if kind == "int8" and f"{path}.in" not in self._ranges:
            kind = "fp16"
        if kind == "int8":
            amax = np.abs(weight).max(1)
            steps = np.where(amax > 0, amax / LEVELS, 1)
            weight, input_scale = np.rint(weight / steps[:, None]), self._ranges[f"{path}.in"] / LEVELS
            scales = self._floats(_padded(steps * input_scale, TILE_OUTPUTS))
        stored = _padded(weight.astype(_STORED[kind]), TILE_OUTPUTS, TILE_BYTES // np.dtype(_STORED[kind]).itemsize)
        bias = self._floats(_padded(self._state.get(f"{path}.bias", np.zeros(outputs)), TILE_OUTPUTS))
        return LinearLayer(TYPES.index(kind), inputs, outputs, self._place(stored), bias, scales, input_scale, int(silu))


def _padded(array: np.ndarray, *tiles: int) -> np.ndarray:
    """With zeros up to whole tiles of each axis."""
    sizes: Sequence[int] = array.shape
    return np.pad(array, [(0, -size % tile) for size, tile in zip(sizes, tiles, strict=True)])
