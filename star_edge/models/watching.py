"""Every module's output, shown by the module's path."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

from torch import Tensor, nn

# called with the module path and each of its outputs
Watch: TypeAlias = Callable[[str, Tensor], None]


@contextlib.contextmanager
def watched(model: nn.Module, watch: Watch | None) -> Iterator[None]:
    """In this context a model's calls show every module's output to ``watch``."""

    def shown(path: str, watch: Watch) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: watch(path, output)

    hooks = [
        module.register_forward_hook(shown(path, watch))
        for path, module in model.named_modules()
        if path and watch is not None
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def below(path: str, watch: Watch | None) -> Watch | None:
    """A watch of a part of a model, whose paths begin with ``path``."""
    return None if watch is None else lambda inner, output: watch(f"{path}{inner}", output)
