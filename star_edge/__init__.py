"""star-edge: skeleton action recognition from a PyTorch checkpoint to the edge.

Importing this package needs neither torch nor onnx; names below are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> module that defines it
_LAZY = {
    "load": "star_edge.engines",
    "Recognizer": "runtime.recognizer",
    "Clip": "runtime.clip",
    "Prediction": "runtime.recognizer",
    "StarEdgeError": "runtime.errors",
}

__all__ = ["Clip", "Prediction", "Recognizer", "StarEdgeError", "__version__", "load"]

if TYPE_CHECKING:
    from runtime.clip import Clip
    from runtime.errors import StarEdgeError
    from runtime.recognizer import Prediction, Recognizer
    from star_edge.engines import load


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'star_edge' has no attribute '{name}'")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
