"""A board with TensorRT and a GPU, both stand-ins, installed for one test."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import onnx
import pytest
from tensorrt_fake import FakeCudaRuntime, FakeDriver, FakeTensorrt

import boards
from exporters.tensorrt import plugin_library
from exporters.tensorrt.graphs import ATTENTIONS, int8_plugins
from runtime.bundle import Bundle
from runtime.engines import tensorrt as engine_module
from runtime.manifest import model_file
from runtime.tensorrt.cuda import Cuda
from star_edge import build as build_module
from star_edge.bench.jetson import JetsonState

ORIN_NANO = boards.Detected(
    model="NVIDIA Jetson Orin Nano Developer Kit",
    compatible=("nvidia,p3768-0000+p3767-0005", "nvidia,tegra234"),
    board="orin-nano-8gb",
    l4t="36.4.3",
    jetpack="6.2",
)


class FakeBoard:
    """What the machine is; a test changes the attributes.

    Attributes:
        runtime, driver, trt: the stand-ins. detected: what boards.detect() says. compiled: how often plugins were compiled.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, folder: Path, *, version: str = "10.3.0", integrated: bool = True
    ) -> None:
        self.runtime, self.driver = FakeCudaRuntime(integrated=integrated), FakeDriver()
        self.trt = FakeTensorrt(self.runtime, version)
        self.detected: boards.Detected | None = ORIN_NANO
        self.compiled = 0
        monkeypatch.setitem(sys.modules, "tensorrt", self.trt)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for module in (engine_module, build_module):
            monkeypatch.setattr(module, "open_cuda", lambda: Cuda(self.runtime, self.driver))
        monkeypatch.setattr(boards, "detect", lambda: self.detected)
        state = JetsonState(board="orin-nano-8gb", power_mode="25W", jetson_clocks=True)
        monkeypatch.setattr(build_module, "read_jetson", lambda: None if self.detected is None else state)
        monkeypatch.setattr(plugin_library, "_compile", self._compile)

    def expect(self, bundle: Bundle, precision: str, int8_ops: tuple[str, ...] = ATTENTIONS) -> None:
        """Let the plugins compute as those of this model do."""
        model = onnx.load_model_from_string(bundle.read(model_file(precision)))
        if precision == "int8":
            model = int8_plugins(model, bundle.calibration().ranges, int8_ops)
        self.trt.functions = list(model.functions)

    def restart(self) -> None:
        """Another process on the same board: TensorRT's registry is empty again."""
        again = FakeTensorrt(self.runtime, self.trt.__version__)
        again.functions = self.trt.functions
        self.trt = sys.modules["tensorrt"] = again

    def _compile(self, sm: int, include: Path | None) -> bytes:
        self.compiled += 1
        return b"a library for sm_%d" % sm


def rewrite(path: Path, **changes: object) -> None:
    """Change members of a JSON document."""
    document = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(document | changes))
