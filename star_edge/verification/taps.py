"""Every module's output, by the module's path, out of PyTorch and out of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from runtime.bundle import Bundle
from runtime.engines.onnxruntime import session_options
from runtime.errors import InputError
from runtime.manifest import model_file
from star_edge.models.rounded import rounded
from star_edge.models.watching import Watch, watched
from star_edge.torch_engine import load_model


class Tap(Protocol):
    """One engine in one precision, opened up.

    Attributes:
        name: of engine and precision, for people.
    """

    name: str

    def modules(self) -> list[str]:
        """Paths of the modules whose outputs can be had, in the order they are computed."""

    def outputs(self, modules: Collection[str], features: np.ndarray, cu_seqlens: np.ndarray) -> dict[str, np.ndarray]:
        """Module path -> float32 output on features [F, V, C] with cu_seqlens [B+1]."""


def open_tap(bundle: Bundle, engine: str, precision: str, threads: int) -> Tap:
    """The tap of a named engine, ``torch`` or ``onnxruntime``; InputError for one that shows its logits alone."""
    if engine == "torch":
        return TorchTap(bundle, precision, threads)
    if engine == "onnxruntime":
        return OnnxTap(bundle, precision, threads)
    raise InputError(
        f"the {engine} engine does not show what its modules put out",
        found=engine,
        expected="torch or onnxruntime",
        hint="--engine onnxruntime",
    )


class TorchTap:
    """The reference in fp32, or rounded to fp16 or bf16."""

    def __init__(self, bundle: Bundle, precision: str, threads: int) -> None:
        self.name = f"torch {precision}"
        self._precision, self._threads, self._model = precision, threads, load_model(bundle)

    def modules(self) -> list[str]:
        found: list[str] = []
        channels = self._model.config.channels
        rows = torch.zeros(1, self._model.config.joints, channels)
        self._run(lambda path, _: found.append(path), rows, torch.tensor([0, 1], dtype=torch.int32))
        return list(dict.fromkeys(found))

    def outputs(self, modules: Collection[str], features: np.ndarray, cu_seqlens: np.ndarray) -> dict[str, np.ndarray]:
        kept: dict[str, np.ndarray] = {}

        def keep(path: str, output: Tensor) -> None:
            if path in modules:  # a rounded module shows its steps; the last one is its output
                kept[path] = output.numpy()

        torch.set_num_threads(self._threads)
        self._run(keep, torch.from_numpy(features), torch.from_numpy(cu_seqlens))
        return kept

    @torch.no_grad()
    def _run(self, watch: Watch, features: Tensor, cu_seqlens: Tensor) -> None:
        if self._precision != "fp32":
            rounded(self._model, self._precision)(features, cu_seqlens, watch)
            return
        with watched(self._model, watch):
            self._model(features, cu_seqlens)


class OnnxTap:
    """The bundle's ONNX model, its modules' outputs made outputs of the graph.

    A value that is asked for cannot be fused away: ask for few at a time, and the rest runs as it would without.
    """

    def __init__(self, bundle: Bundle, precision: str, threads: int) -> None:
        import onnx

        self.name = f"onnxruntime {precision}"
        self._threads = threads
        self._model = onnx.load_model_from_string(bundle.read(model_file(bundle.precision(precision))))
        makers = {name: node for node in self._model.graph.node for name in node.output}
        self._values = {name.removesuffix(".out"): name for name in makers if name.endswith(".out")}
        last = makers["logits"]
        if last.op_type == "Cast":  # of a graph that is not fp32
            last = makers[last.input[0]]
        self._values[last.name.removesuffix(f".{last.op_type.lower()}")] = "logits"

    def modules(self) -> list[str]:
        return list(self._values)

    def outputs(self, modules: Collection[str], features: np.ndarray, cu_seqlens: np.ndarray) -> dict[str, np.ndarray]:
        import onnxruntime
        from onnx import ModelProto, ValueInfoProto

        wanted = [self._values[module] for module in modules]
        exposed = ModelProto()
        exposed.CopyFrom(self._model)
        exposed.graph.output.extend(ValueInfoProto(name=name) for name in wanted if name != "logits")
        options = session_options(self._threads)
        session = onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = session.run(wanted, {"features": features, "cu_seqlens": cu_seqlens})
        return {module: np.asarray(value, dtype=np.float32) for module, value in zip(modules, values, strict=True)}
