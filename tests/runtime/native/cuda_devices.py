"""What the tests of CUDA kernels run on, a GPU or the emulator, and memory that shows what a kernel may not do."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.native.cuda import library as cuda

KINDS = ("emulated", "gpu")
BUILT = "STAR_EDGE_CUDA_LIBRARY"  # environment: a library already built for the present GPU
GUARD = 1024  # bytes round every buffer


class Guarded:
    """Memory of a device, ``cuda`` or ``cpu``, between two bands that nothing may write; all bits set, which is NaN in floats."""

    def __init__(self, count: int, dtype: torch.dtype, device: str) -> None:
        size = count * torch.empty(0, dtype=dtype).element_size()
        self._whole = torch.full((GUARD + -(-size // 256) * 256 + GUARD,), 0xFF, dtype=torch.uint8, device=device)
        self.values = self._whole[GUARD : GUARD + size].view(dtype)
        self._bands = (self._whole[:GUARD], self._whole[GUARD + size :])

    @classmethod
    def of(cls, array: np.ndarray, device: str, room: int | None = None) -> Guarded:
        """A copy of an array, with room for so many elements."""
        values = torch.from_numpy(np.ascontiguousarray(array).reshape(-1))
        memory = cls(array.size if room is None else room, values.dtype, device)
        memory.values[: array.size].copy_(values)
        return memory

    @property
    def address(self) -> int:
        return self.values.data_ptr()

    def check(self) -> None:
        assert all(bool((band == 0xFF).all()) for band in self._bands), "wrote beyond its buffer"


class Device:
    """A library of kernels, and the memory they compute in, ``cpu`` or ``cuda``."""

    def __init__(self, library: ctypes.CDLL, memory: str) -> None:
        self.library, self.memory = library, memory

    def call(self, name: str, *arguments: object) -> None:
        error = getattr(self.library, f"star_cuda_{name}")(*arguments)
        assert error == 0, f"{name}: CUDA error {error}"

    def synchronize(self) -> None:
        if self.memory == "cuda":
            torch.cuda.synchronize()


def open_device(kind: str, sources: Sequence[Path], folder: Path) -> Device:
    """Build the sources for the emulator or the present GPU; skips the test where that cannot be."""
    if kind == "emulated":
        if cuda.find_host_compiler() is None:
            pytest.skip("no C++ compiler to build the emulated kernels with")
        return Device(cuda.load(cuda.build_emulated(folder, sources)), "cpu")
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU, or torch without CUDA")
    if built := os.environ.get(BUILT):
        return Device(cuda.load(Path(built)), "cuda")
    if cuda.find_nvcc() is None:
        pytest.skip("no nvcc to build the kernels with")
    major, minor = torch.cuda.get_device_capability()
    return Device(cuda.load(cuda.build((10 * major + minor,), folder)[0]), "cuda")
