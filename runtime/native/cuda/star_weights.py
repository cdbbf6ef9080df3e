"""A STAR-64's state dict packed for ``star_cuda_run``, by the library itself."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import numpy as np

from runtime.native.cuda.library import Sizes, Tensor


def pack_weights(
    library: ctypes.CDLL, sizes: Sizes, state: Mapping[str, np.ndarray], edges: Sequence[tuple[int, int]]
) -> np.ndarray:
    """uint8, to be copied to the device as it is; ``star_cuda_place_weights`` tells where its parts are there.

    Raises KeyError for a tensor that ``state`` lacks.
    """
    tensors = {name: np.ascontiguousarray(array, np.float32) for name, array in state.items()}
    missing: list[str] = []

    @Tensor
    def tensor(_: object, name: bytes) -> int | None:
        if name.decode() not in tensors:
            missing.append(name.decode())
            return None
        return tensors[name.decode()].ctypes.data

    pairs = (ctypes.c_int32 * (2 * len(edges)))(*(joint for edge in edges for joint in edge))
    packed = np.zeros(library.star_cuda_weights_size(sizes), np.uint8)
    error = library.star_cuda_pack_weights(sizes, pairs, tensor, None, packed.ctypes.data)
    if missing:
        raise KeyError(missing[0])
    if error:
        raise ValueError("an edge leads to a joint that there is not")
    return packed
