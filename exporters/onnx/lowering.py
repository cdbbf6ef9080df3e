"""What a bundle's model offers to quantise, and its int8 graph, whatever its family."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol, get_args

import msgspec
import numpy as np
import onnx
from onnx import ModelProto

from exporters.onnx import graph
from exporters.onnx.graph import Base
from exporters.onnx.traced import TracedLowering
from runtime.bundle import Bundle
from runtime.manifest import WEIGHTS, model_file
from star_edge.models.config import StarConfig
from star_edge.models.registry import config_of


class Lowering(Protocol):
    """A model as graphs see it.

    Attributes:
        quantised_modules: paths of the modules that an int8 graph can quantise.
        recorded_tensors: calibration key -> name of the value in the fp32 graph.
    """

    @property
    def quantised_modules(self) -> list[str]: ...

    @property
    def recorded_tensors(self) -> dict[str, str]: ...

    def node_precisions(self, precision: str, base: Base = "fp32", quantised: Collection[str] | None = None) -> dict[str, str]:
        """Module path -> precision its weights and arithmetic are stored in, for the bundle's manifest."""

    def float_reason(self, module: str) -> str:
        """Why a module outside ``quantised_modules`` keeps its float type."""

    def int8_model(self, ranges: Mapping[str, float], base: Base, quantised: Collection[str]) -> ModelProto:
        """The int8 graph with ``quantised`` modules, over a float type ``base``, from calibration key -> amax."""


class StarLowering:
    """A STAR model, whose graphs are written from config and weights; see exporters/onnx/graph.py."""

    def __init__(self, config: StarConfig, weights: Callable[[], Mapping[str, np.ndarray]]) -> None:
        self._config, self._weights = config, weights  # read for an int8 graph alone

    @property
    def quantised_modules(self) -> list[str]:
        return graph.quantised_modules(self._config)

    @property
    def recorded_tensors(self) -> dict[str, str]:
        return graph.recorded_tensors(self._config)

    def node_precisions(self, precision: str, base: Base = "fp32", quantised: Collection[str] | None = None) -> dict[str, str]:
        return graph.node_precisions(self._config, msgspec.convert(precision, graph.Precision), base, quantised)

    def float_reason(self, module: str) -> str:
        return graph.FLOAT_REASONS[module.rpartition(".")[2]]

    def int8_model(self, ranges: Mapping[str, float], base: Base, quantised: Collection[str]) -> ModelProto:
        return graph.build_model(self._config, self._weights(), "int8", ranges, base, quantised)


def lowering_of(bundle: Bundle) -> Lowering:
    """The lowering of a bundle's model; MismatchError when its configuration is not one of a registered model."""
    from safetensors.numpy import load

    config = config_of(bundle)
    if isinstance(config, StarConfig):
        return StarLowering(config, lambda: load(bundle.read(WEIGHTS)))
    floats = [base for base in get_args(Base) if base in bundle.manifest.precisions]
    return TracedLowering({name: onnx.load_model_from_string(bundle.read(model_file(name))) for name in floats})
