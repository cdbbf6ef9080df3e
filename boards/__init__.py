"""The boards star-edge is for, and what each JetPack release brings: facts only, each with its source and how sure it is.

``NAME.toml`` describes a board, ``jetpack.toml`` the releases. A fact is ``{ value, source, confidence }`` and sometimes a
note; confidence is

- ``S``: read in source code, a header, a changelog or the vendor's own documentation
- ``V``: tried by this project
- ``D``: derived by arithmetic from cited numbers
- ``3P``: stated by a third party only
- ``U``: not confirmed; a prediction that rests on it says so

What is not known is absent. ``detect`` says which board this machine is. No file here has run on one.
"""

from __future__ import annotations

from boards.catalog import Board, Mode, load, names
from boards.detect import Detected, detect
from boards.facts import Fact
from boards.jetpack import Release, jetpack, releases

__all__ = ["Board", "Detected", "Fact", "Mode", "Release", "detect", "jetpack", "load", "names", "releases"]
