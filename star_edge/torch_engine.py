"""The ``torch`` engine, the reference: a bundle's weights in the model they were trained in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch

from runtime.bundle import Bundle
from runtime.engine import EngineReport, Mode
from runtime.errors import InputError, MismatchError, MissingDependencyError
from runtime.manifest import WEIGHTS, Manifest
from runtime.packing import check_packed, cu_seqlens_of, unpack
from star_edge.models.registry import build_model, parse_config
from star_edge.models.rounded import DTYPES, rounded

if TYPE_CHECKING:
    from star_edge.models.registry import Model


def precisions(manifest: Manifest) -> tuple[str, ...]:
    """Precisions of a bundle's models that can be computed from its weights, rounded or not."""
    return tuple(precision for precision in manifest.precisions if precision == "fp32" or precision in DTYPES)


def open_engine(
    bundle: Bundle, *, precision: str | None = None, threads: int | None = None, mode: Mode | None = None
) -> TorchEngine:
    """Open a bundle's weights in torch.

    Args:
        bundle: an opened bundle.
        precision: ``fp32``, or ``fp16`` and ``bf16`` as the rounding reference computes them; default: the bundle's.
        threads: threads of one call; default: torch's.
        mode: ``packed`` (default) or ``per-clip``.

    Raises MismatchError (a precision torch does not compute; weights that do not fit the config), InputError.
    """
    precision = precision or bundle.manifest.default_precision
    if precision != "fp32" and precision not in DTYPES:
        raise MismatchError(
            f"the torch engine does not compute {precision}",
            found=precision,
            expected=f"one of fp32, {', '.join(DTYPES)}",
            hint="--engine onnxruntime",
        )
    return TorchEngine(bundle, precision, torch.get_num_threads() if threads is None else threads, mode or "packed")


def load_model(bundle: Bundle) -> Model:
    """The bundle's model with its weights, in eval mode; MismatchError when weights and config do not fit."""
    try:
        from safetensors.torch import load
    except ImportError:
        raise MissingDependencyError("safetensors", "export", "Reading a bundle's weights") from None
    where = bundle.path_of(WEIGHTS)
    try:
        name = bundle.manifest.model.name
        model = build_model(name, parse_config(name, bundle.manifest.model.config))
        model.load_state_dict(load(bundle.read(WEIGHTS)))
    except (msgspec.ValidationError, RuntimeError) as error:
        raise MismatchError(
            "weights and model configuration do not fit",
            where=where,
            found=" ".join(str(error).split()),
            hint="export the bundle again",
        ) from None
    return model.eval()


class TorchEngine:
    """A model on the CPU; see :func:`open_engine`. Safe to call from several threads."""

    name = "torch"

    def __init__(self, bundle: Bundle, precision: str, threads: int, mode: Mode) -> None:
        if threads < 1:
            raise InputError("no threads to run with", found=f"threads = {threads}", expected="at least 1")
        if mode not in ("packed", "per-clip"):
            raise InputError("unknown mode of the engine", found=mode, expected="packed or per-clip")
        self.precision, self.threads, self.mode = precision, threads, mode
        self.model = load_model(bundle)
        self._forward = self.model if precision == "fp32" else rounded(self.model, precision)

    def run(self, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """Logits float32 [B, K] of features float32 [F, V, C] with cu_seqlens int32 [B+1]; clips may be empty."""
        config = self.model.config
        check_packed(features, cu_seqlens, joints=config.joints, channels=config.channels, allow_empty=True)
        torch.set_num_threads(self.threads)  # counts for the calling thread alone
        if self.mode == "packed":
            return self._call(features, cu_seqlens)
        return np.concatenate([self._call(clip, cu_seqlens_of([len(clip)])) for clip in unpack(features, cu_seqlens)])

    def report(self) -> EngineReport:
        """The arithmetic is float32 whatever the precision; lower ones round each tensor."""
        weighted = sorted({name.rpartition(".")[0] for name in self.model.state_dict()})
        return EngineReport(
            engine=self.name,
            precision=self.precision,
            storage=self.precision,
            compute="fp32",
            provider=f"torch {torch.__version__} cpu",
            mode=self.mode,
            threads=self.threads,
            nodes=dict.fromkeys(weighted, "fp32"),
        )

    @torch.no_grad()
    def _call(self, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(np.ascontiguousarray(features))
        logits: np.ndarray = self._forward(rows, torch.from_numpy(np.ascontiguousarray(cu_seqlens))).numpy()
        return logits
