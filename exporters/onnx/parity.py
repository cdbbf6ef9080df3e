"""The check at the end of every export: the written model gives the fp32 model's answers on odd inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from exporters.onnx.golden import Case, Forward
from runtime.engines.onnxruntime import session_options
from runtime.errors import GateError, MismatchError
from runtime.tolerances import TOLERANCES


class ParityResult(msgspec.Struct, frozen=True):
    """One batch through one engine.

    Attributes:
        engine: ``onnxruntime``, or ``rounding reference``.
        error: largest |difference| to the fp32 model, relative to its largest |logit| over all cases.
    """

    case: str
    clips: int
    frames: int
    engine: str
    precision: str
    error: float
    tolerance: float
    passed: bool


def onnx_forward(model: bytes, threads: int = 0) -> Forward:
    """ONNX Runtime's CPU provider over a serialized model, one call a batch; MismatchError when it cannot open it."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(model, session_options(threads), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise MismatchError(
            f"ONNX Runtime {onnxruntime.__version__} cannot open the exported model",
            found=str(error).splitlines()[0],
            hint="pip install --upgrade onnxruntime",
        ) from None

    def forward(features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        logits: np.ndarray = session.run(["logits"], {"features": features, "cu_seqlens": cu_seqlens})[0]
        return logits

    return forward


def compare(
    cases: Sequence[Case], references: Sequence[np.ndarray], engine: str, precision: str, forward: Forward
) -> list[ParityResult]:
    """Run each case and compare with the fp32 model's logits; one result a case."""
    scale = max(float(np.abs(reference).max()) for reference in references)
    tolerance = TOLERANCES[precision]
    results = []
    for case, reference in zip(cases, references, strict=True):
        logits = forward(case.features, case.cu_seqlens).astype(np.float64)
        error = float(np.abs(logits - reference).max()) / scale if np.isfinite(logits).all() else float("inf")
        results.append(
            ParityResult(
                case=case.name,
                clips=len(case.cu_seqlens) - 1,
                frames=len(case.features),
                engine=engine,
                precision=precision,
                error=error,
                tolerance=tolerance,
                passed=error <= tolerance,
            )
        )
    return results


def require_parity(
    results: Sequence[ParityResult], explain: Callable[[ParityResult], str | None] = lambda result: None
) -> None:
    """Raise GateError naming the worst case unless all passed; ``explain`` may name the module at fault."""
    failed = [result for result in results if not result.passed]
    if not failed:
        return
    worst = max(failed, key=lambda result: result.error)
    raise GateError(
        f"the {worst.precision} model gives other answers than the fp32 model",
        where=explain(worst) or f"{worst.engine}, {worst.case}",
        found=f"relative error {worst.error:.2e} on '{worst.case}', {len(failed)} of {len(results)} cases outside",
        expected=f"at most {worst.tolerance:.0e}",
        hint=None
        if worst.precision == "fp32"
        else "keep fp32 (no --fp16), or train longer: untrained models are the sensitive ones",
    )
