"""What every engine is: features in, logits out, and a report of what was really used."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec
import numpy as np

Mode = Literal["packed", "per-clip"]


class EngineReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine really does, as opposed to what it was asked for.

    Attributes:
        engine: ``native``, ``onnxruntime``, ``torch``, ...
        precision: the one that was opened.
        storage: precision the weights are stored in.
        compute: precision of the arithmetic outside the float32 islands.
        provider: library, version and device backend that computes.
        mode: ``packed`` runs a batch in one call, ``per-clip`` each clip alone.
        threads: threads one call uses.
        nodes: module path -> precision it is computed in, or how the module was lowered.
    """

    engine: str
    precision: str
    storage: str
    compute: str
    provider: str
    mode: Mode
    threads: int
    nodes: dict[str, str] = {}


class Engine(Protocol):
    """An opened model. ``run`` may be called from several threads at once."""

    name: str
    precision: str

    def run(self, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """Logits of packed clips.

        Args:
            features: float32 [F, V, C].
            cu_seqlens: int32 [B+1]; a clip may be empty.

        Returns:
            float32 [B, K].
        """
        ...

    def report(self) -> EngineReport:
        """What was really used."""
        ...
