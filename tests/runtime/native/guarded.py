"""Memory that shows what a kernel may not do: bands of NaN round it, and NaN in it until something is written."""

from __future__ import annotations

import numpy as np
import torch

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
