"""Odd batches and the comparison shared by the tests of the ops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from runtime.packing import cu_seqlens_of

BATCHES = {
    "one row": [1],
    "one clip": [7],
    "a hundred rows": [100],
    "empty first": [0, 5, 3],
    "empty in the middle": [4, 0, 0, 6],
    "empty last": [3, 2, 0],
    "all empty": [0, 0],
    "several": [1, 31, 2, 17],
}
DTYPES = {"float64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(params=BATCHES.values(), ids=BATCHES.keys())
def cu_seqlens(request: pytest.FixtureRequest) -> np.ndarray:
    """int32 [B+1] of each odd batch."""
    return cu_seqlens_of(request.param)


@pytest.fixture
def close() -> Callable[[object, np.ndarray, float], None]:
    """Assert that an output is finite, of the reference's shape and within ``tolerance`` of its largest element."""

    def check(out: torch.Tensor, reference: np.ndarray, tolerance: float) -> None:
        found = out.double().numpy()
        assert found.shape == reference.shape
        assert np.isfinite(found).all()
        largest = max(np.abs(reference).max(initial=0), 1e-3)
        assert np.abs(found - reference).max(initial=0) <= tolerance * largest

    return check


@pytest.fixture
def rounded() -> Callable[..., tuple[torch.Tensor, ...]]:
    """Arrays as tensors of a dtype; compare with the reference of the rounded values, so that only the op is judged."""

    def convert(name: str, *arrays: np.ndarray) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(array).to(DTYPES[name]) for array in arrays)

    return convert


@pytest.fixture
def tolerance_of() -> Callable[[dict[str, float], str], float]:
    """The op's tolerance for a dtype; float64 must agree to rounding."""
    return lambda tolerances, name: 1e-11 if name == "float64" else tolerances[name]


@pytest.fixture
def run_body() -> Callable[..., torch.Tensor]:
    """Run the ONNX function body of an op in ONNX Runtime: inputs by name, float ones in fp32 or fp16 as they come."""

    def run(
        op: str, joints: int, dim: int, heads: int = 1, edges: tuple[tuple[int, int], ...] = (), **inputs: object
    ) -> torch.Tensor:
        import onnx
        import onnxruntime

        from exporters.onnx.single_op import build_single_op
        from star_edge.models.star import StarConfig

        every = tuple((joint, joint) for joint in range(joints))
        config = StarConfig(joints=joints, channels=3, classes=2, edges=edges or every, dim=dim, heads=heads)
        arrays = {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
        precision = "fp16" if any(array.dtype == np.float16 for array in arrays.values()) else "fp32"
        model = build_single_op(op, config, precision)
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, arrays)[0])

    return run
