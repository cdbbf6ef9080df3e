"""What the compiler says of the CUDA kernels: nothing spilled and no local memory, for every processor they are built for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runtime.native.cuda import library as cuda

ARCHITECTURES = (87, 90, 110)  # Orin, Hopper, Thor
# kernel -> how many there are of it, by type and head's width
KERNELS = {
    "layer_kernel": 2,
    "positions_kernel": 3,
    "sparse_attention_kernel": 15,
    "sum_kernel": 15,
    "combine_kernel": 1,
    "apply_kernel": 15,
    "context_attention_kernel": 6,
    "13linear_kernel": 4,  # 13 letters: float_linear_kernel is another
    "float_linear_kernel": 1,
    "residual_norm_kernel": 2,
    "embed_kernel": 4,  # of star_model.cu two
}


@pytest.mark.skipif(cuda.find_nvcc() is None, reason="no nvcc to build the kernels with")
def test_kernels_keep_everything_in_registers(tmp_path: Path) -> None:
    """Warnings are errors in the build itself."""
    _, report = cuda.build(ARCHITECTURES, tmp_path)
    kernels = re.findall(r"Compiling entry function '(\w+)' for '(sm_\d+)'", report)
    assert {architecture for _, architecture in kernels} == {f"sm_{number}" for number in ARCHITECTURES}
    for kernel, count in KERNELS.items():
        assert sum(kernel in name for name, _ in kernels) == count * len(ARCHITECTURES), kernel
    used = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert len(used) == len(kernels)
    assert set(used) == {("0", "0", "0")}
