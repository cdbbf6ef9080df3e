"""Models with random weights in the memory of a GPU or the emulator, and the naive float64 model beside them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from cuda_devices import Device, Guarded

from runtime.native.cuda import library as cuda
from runtime.native.cuda.layered_weights import LayeredWeights
from runtime.native.cuda.star_weights import pack_weights
from star_edge.models.naive import star

TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3, "int8": 1e-1}  # relative to the largest logit: the design's
CHANNELS = 9


def config_of(
    dim: int, heads: int, joints: int = 25, layers: int = 2, hidden: int = 128, classes: int = 60
) -> SimpleNamespace:
    """As StarConfig, which needs packages that a bare machine lacks; a chain whose joints see two to each side."""
    edges = tuple((i, j) for i, j in itertools.product(range(joints), repeat=2) if abs(i - j) <= 2)
    return SimpleNamespace(
        joints=joints, channels=CHANNELS, classes=classes, edges=edges, dim=dim, heads=heads, layers=layers, hidden=hidden,
        ranks={}, widths={}, experts=1,
    )  # fmt: skip


def state_dict(config: SimpleNamespace, seed: int = 0) -> dict[str, np.ndarray]:
    rng, dim = np.random.default_rng(seed), config.dim

    def linear(path: str, outputs: int, inputs: int, bias: bool = True) -> dict[str, np.ndarray]:
        entries = {f"{path}.weight": rng.normal(0, inputs**-0.5, (outputs, inputs))}
        return {**entries, f"{path}.bias": rng.normal(0, 0.1, outputs)} if bias else entries

    def norm(path: str) -> dict[str, np.ndarray]:
        return {f"{path}.weight": rng.uniform(0.5, 1.5, dim), f"{path}.bias": rng.normal(0, 0.1, dim)}

    inputs = config.joints * CHANNELS
    state = {
        "input_norm.weight": rng.uniform(0.5, 1.5, inputs),
        "input_norm.bias": rng.normal(0, 0.1, inputs),
        "input_norm.running_mean": rng.normal(0, 0.1, inputs),
        "input_norm.running_var": rng.uniform(0.5, 1.5, inputs),
        **linear("embedding", dim, CHANNELS),
        "context.weight": rng.normal(0, 0.1, (dim, dim)),
        **linear("head.hidden", config.hidden, config.joints * dim),
        **linear("head.output", config.classes, config.hidden),
    }
    for layer, branch in itertools.product(range(config.layers), ("spatial", "temporal")):
        path = f"layers.{layer}.{branch}"
        state |= linear(f"{path}.qkv", 3 * dim, dim, bias=False) | norm(f"{path}.norm1") | norm(f"{path}.norm2")
        state |= linear(f"{path}.linear1", dim, dim) | linear(f"{path}.linear2", dim, dim)
    return state


def ranges_of(config: SimpleNamespace) -> dict[str, float]:
    """Wide enough for normalised activations, and for the sum of two that a layer ends with."""
    inner = {"qkv": 10.0, "linear1": 6.0, "linear2": 6.0}
    encoders = [f"layers.{layer}.{branch}" for layer in range(config.layers) for branch in ("spatial", "temporal")]
    ranges = {f"{encoder}.{name}.in": amax for encoder in encoders for name, amax in inner.items()}
    return ranges | {"head.hidden.in": 8.0, "head.output.in": 6.0}


class FusedModel:
    """STAR-64's own kernels: weights on a device, and runs in guarded memory."""

    def __init__(self, device: Device, config: SimpleNamespace, state: dict[str, np.ndarray] | None = None) -> None:
        self.device, self.config = device, config
        self.state = state or state_dict(config)
        self._packed = Guarded.of(pack_weights(device.library, self.sizes(1, 1), self.state, config.edges), device.memory)
        self.weights = cuda.Weights()
        device.library.star_cuda_place_weights(self.sizes(1, 1), self._packed.address, self.weights)

    def sizes(self, frames: int, clips: int, tile_rows: int = 0) -> cuda.Sizes:
        of = self.config
        return cuda.Sizes(of.joints, CHANNELS, of.classes, of.layers, of.hidden, len(of.edges), frames, clips, tile_rows)

    def prepare(self, features: np.ndarray, lengths: Sequence[int], tail: int = 0, tile_rows: int = 0) -> SimpleNamespace:
        """Buffers with room for ``tail`` more frames; all that is not given holds NaN."""
        sizes, memory = self.sizes(len(features) + tail, len(lengths), tile_rows), self.device.memory
        return SimpleNamespace(
            sizes=sizes,
            features=Guarded.of(features, memory, (len(features) + tail) * self.config.joints * CHANNELS),
            cu_seqlens=Guarded.of(np.cumsum([0, *lengths], dtype=np.int32), memory),
            workspace=Guarded(self.device.library.star_cuda_workspace(sizes), torch.uint8, memory),
            logits=Guarded(len(lengths) * self.config.classes, torch.float32, memory),
        )

    def launch(self, run: SimpleNamespace, stream: int | None = None) -> None:
        self.device.call(
            "run", run.sizes, self.weights, run.features.address, run.cu_seqlens.address, run.workspace.address,
            run.logits.address, stream,
        )  # fmt: skip

    def logits(self, features: np.ndarray, lengths: Sequence[int], tail: int = 0, tile_rows: int = 0) -> np.ndarray:
        run = self.prepare(features, lengths, tail, tile_rows)
        self.device.synchronize()
        self.launch(run)
        self.device.synchronize()
        for part in (run.features, run.cu_seqlens, run.workspace, run.logits, self._packed):
            part.check()
        return run.logits.values.view(len(lengths), self.config.classes).cpu().numpy()

    def naive(self, features: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        return star(self.config, self.state, features, np.cumsum([0, *lengths]))


class LayeredModel:
    """Weights on a device, and runs in guarded memory."""

    def __init__(
        self,
        device: Device,
        config: SimpleNamespace,
        precision: str,
        state: dict[str, np.ndarray] | None = None,
        ranges: dict[str, float] | None = None,
    ) -> None:
        self.device, self.config, self.precision = device, config, precision
        self.state = state or state_dict(config)
        self._kept: list[Guarded] = []
        if precision == "int8" and ranges is None:
            ranges = ranges_of(config)
        self.weights = LayeredWeights(self.state, config, precision, self._place, ranges)

    def _place(self, array: np.ndarray) -> int:
        self._kept.append(Guarded.of(array, self.device.memory))
        return self._kept[-1].address

    def prepare(self, features: np.ndarray, lengths: Sequence[int], tail: int = 0) -> SimpleNamespace:
        """Buffers with room for ``tail`` more frames; all that is not given holds NaN."""
        memory, frames = self.device.memory, len(features) + tail
        size = self.device.library.star_cuda_layered_workspace(self.weights.layered, frames, len(lengths))
        return SimpleNamespace(
            frames=frames,
            clips=len(lengths),
            features=Guarded.of(features, memory, frames * self.config.joints * CHANNELS),
            cu_seqlens=Guarded.of(np.cumsum([0, *lengths], dtype=np.int32), memory),
            workspace=Guarded(size, torch.uint8, memory),
            logits=Guarded(len(lengths) * self.config.classes, torch.float32, memory),
        )

    def launch(self, run: SimpleNamespace, stream: int | None = None) -> None:
        self.device.call(
            "layered_run", self.weights.layered, run.frames, run.clips, run.features.address, run.cu_seqlens.address,
            run.workspace.address, run.logits.address, stream,
        )  # fmt: skip

    def logits(self, features: np.ndarray, lengths: Sequence[int], tail: int = 0) -> np.ndarray:
        run = self.prepare(features, lengths, tail)
        self.device.synchronize()
        self.launch(run)
        self.device.synchronize()
        for part in (run.features, run.cu_seqlens, run.workspace, run.logits, *self._kept):
            part.check()
        return run.logits.values.view(len(lengths), self.config.classes).cpu().numpy()

    def naive(self, features: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        return star(self.config, self.state, features, np.cumsum([0, *lengths]))


def features_of(frames: int, joints: int, seed: int = 1) -> np.ndarray:
    """A body that moves round a pose, which it keeps: what averages to nothing over a clip would have logits of nothing but error."""
    rng = np.random.default_rng(seed)
    pose = rng.normal(0, 1, (joints, CHANNELS))
    return (pose + rng.normal(0, 0.3, (frames, joints, CHANNELS))).astype(np.float32)


def check_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
