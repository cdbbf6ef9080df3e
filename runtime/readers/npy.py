"""Read a plain array file as one clip of one person."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.clip import Clip
from runtime.errors import InputError
from runtime.readers.decoding import DECODE_ERRORS, reason_of


def read_npy(path: str | Path) -> Clip:
    """The clip of an .npy file [n, V, 3]; rows with all joints zero are dropped and counted.

    Raises InputError for a damaged file, Python objects, or an array of another shape or type.
    """
    path = Path(path)
    try:
        array = np.load(path, allow_pickle=False)
    except DECODE_ERRORS as error:
        raise InputError(
            "cannot read the .npy file", where=path, found=reason_of(error), expected="an array [n, V, 3]"
        ) from None
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.shape[2] != 3 or array.dtype.kind not in "fiu":
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise InputError("not one clip", where=path, found=found, expected="an array of numbers [n, V, 3]")
    return Clip.from_persons([array], path.stem)
