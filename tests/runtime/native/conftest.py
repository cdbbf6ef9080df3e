"""Bundles of STAR models of any shape with random weights, for the native engine: no graph is made, which it would not read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.numpy import save

from exporters.onnx.graph import node_precisions, quantised_modules
from runtime.bundle import Bundle, BundleWriter
from runtime.calibration_table import CalibrationTable
from runtime.features import FeatureRecipe
from runtime.golden import Golden
from runtime.manifest import CALIBRATION, GOLDEN, WEIGHTS, Manifest, ModelEntry, model_file
from runtime.packing import cu_seqlens_of
from runtime.tolerances import TOLERANCES
from star_edge.models import naive
from star_edge.models.config import manifest_fields
from star_edge.models.registry import star_config
from star_edge.models.star import Star, StarConfig
from star_edge.skeletons import get_skeleton


@dataclass(frozen=True, eq=False)
class Made:
    """A bundle with models of every precision, and what its logits must be."""

    bundle: Bundle
    config: StarConfig
    weights: dict[str, np.ndarray]

    def batch(self, *lengths: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Features float32 [F, V, C] and cu_seqlens int32 [B+1] of clips with so many rows."""
        rng = np.random.default_rng(seed)
        shape = (sum(lengths), self.config.joints, self.config.channels)
        return rng.normal(0, 0.5, shape).astype(np.float32), cu_seqlens_of(list(lengths))

    def reference(self, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """Logits float64 [B, K]; the naive reference wants a row, so a clip of one is added and left out again."""
        rows = np.concatenate([features, np.zeros_like(features, shape=(1, *features.shape[1:]))])
        return naive.star(self.config, self.weights, rows, np.append(cu_seqlens, len(rows)))[:-1]

    @torch.no_grad()
    def int8_reference(self, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """Logits float64 [B, K] with the inputs and weights of quantised products rounded as ``calibration.json`` says."""
        model = loaded(self.config, self.weights).double()
        ranges = self.bundle.calibration().ranges
        for path in quantised_modules(self.config):
            module = model.get_submodule(path)
            scales = module.weight.abs().amax(1, keepdim=True) / 127
            module.weight.copy_(rounded(module.weight, scales))
            module.register_forward_pre_hook(
                lambda _module, inputs, scale=ranges[f"{path}.in"] / 127: rounded(inputs[0], torch.tensor(scale))
            )
        logits: np.ndarray = model(torch.from_numpy(features).double(), torch.from_numpy(cu_seqlens)).numpy()
        return logits


Make = Callable[..., Made]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """(skeleton, channels, centre, classes, seed, **configuration) -> a bundle of default precision fp32; do not change it."""

    def made(
        skeleton: str = "nite15", channels: int = 9, centre: Any = "root", classes: int = 5, seed: int = 0, **changes: Any
    ) -> Made:
        layout = get_skeleton(skeleton)
        shape = {"dim": 16, "heads": 4, "layers": 2, "hidden": 24}
        config = msgspec.structs.replace(star_config("star-64", layout, channels, classes, **shape), **changes)
        weights = random_weights(config, seed)
        path = tmp_path_factory.mktemp("native") / "random.star"
        writer = BundleWriter(path)
        for precision in ("fp32", "fp16", "int8"):
            writer.add(model_file(precision), f"the native engine has no use for a {precision} graph".encode())
        writer.add(WEIGHTS, save(weights))
        manifest = Manifest(
            star_edge_version="0",
            model=ModelEntry("star-64", manifest_fields(config)),
            skeleton=layout,
            features=FeatureRecipe(channels=channels, centre=centre),
            class_names=tuple(f"class {index}" for index in range(classes)),
            default_precision="fp32",
            nodes={precision: node_precisions(config, precision) for precision in ("fp32", "fp16", "int8")},
        )
        probe = Made(Bundle(path, manifest), config, weights)
        features, cu_seqlens = probe.batch(1, 20, seed=99)
        joints = features[..., :3]
        logits = probe.reference(features, cu_seqlens).astype(np.float32)
        golden = Golden(joints, cu_seqlens, np.array([[1], [20]], np.int32), ("one", "twenty"), logits, TOLERANCES)
        writer.add(GOLDEN, golden.to_bytes())
        first = writer.commit(manifest)
        again = BundleWriter(path, base=first)
        table = CalibrationTable(
            method="max",
            samples=1,
            requested_samples=1,
            clips=("random",),
            weights_sha256=first.manifest.files[WEIGHTS].sha256,
            ranges=ranges_of(config, weights, features, cu_seqlens),
        )
        again.add(CALIBRATION, table.to_bytes())
        again.commit(first.manifest)
        return Made(Bundle.open(path), config, weights)

    return made


@pytest.fixture(scope="session")
def small(make: Make) -> Made:
    """Two layers of width 16 with 4 heads on 15 joints."""
    return make()


def random_weights(config: StarConfig, seed: int) -> dict[str, np.ndarray]:
    """A state dict in which every tensor matters: gains and statistics are no ones and zeros."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, tensor in Star(config).state_dict().items():
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point():
            weights[name] = tensor.numpy()
        elif name.endswith("running_var") or ("norm" in name and name.endswith("weight")):
            weights[name] = (0.8 + 0.2 * np.abs(rng.normal(size=shape))).astype(np.float32)
        else:
            weights[name] = (rng.normal(size=shape) * (shape[-1] if len(shape) > 1 else 4) ** -0.5).astype(np.float32)
    return weights


def loaded(config: StarConfig, weights: dict[str, np.ndarray]) -> Star:
    """The model in torch."""
    model = Star(config).eval()
    model.load_state_dict({name: torch.from_numpy(np.asarray(array)) for name, array in weights.items()})
    return model


def rounded(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """To whole multiples of a scale, ties to even, at most 127 of them."""
    return (values / scale).round().clamp(-127, 127) * scale


@torch.no_grad()
def ranges_of(
    config: StarConfig, weights: dict[str, np.ndarray], features: np.ndarray, cu_seqlens: np.ndarray
) -> dict[str, float]:
    """Largest input of every module that int8 quantises."""
    model = loaded(config, weights)
    ranges: dict[str, float] = {}
    for path in quantised_modules(config):
        model.get_submodule(path).register_forward_pre_hook(
            lambda _module, inputs, path=path: ranges.update({f"{path}.in": float(inputs[0].abs().max())})
        )
    model(torch.from_numpy(features), torch.from_numpy(cu_seqlens))
    return ranges
