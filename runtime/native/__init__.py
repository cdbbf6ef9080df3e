"""The native runtime: C++ behind the C interface of ``include/star_edge/star.h``."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import MismatchError


def library_path() -> Path:
    """The shared library that installing star-edge built.

    In an editable install it lies in the environment and not beside this file; both folders are parts of the package.

    Raises:
        MismatchError: this installation has no library.
    """
    places = [Path(folder, "lib", "libstar_edge.so") for folder in __path__]
    for place in places:
        if place.is_file():
            return place
    raise MismatchError(
        "the native runtime is not built",
        where=__file__,
        found="no library",
        expected=" or ".join(map(str, places)),
        hint="make native, or: pip install .",
    )
