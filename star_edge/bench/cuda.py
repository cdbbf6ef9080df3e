"""PyTorch on an NVIDIA GPU, each form as fast as PyTorch makes it: what ``bench --device cuda`` measures beside our engines.

A call is timed twice. End to end is what the worker sees: features on the host to logits on the host, both copies included.
Between two CUDA events is what lies on the GPU's stream from before the first kernel to after the last: kernels, and the GPU's
waiting for the next launch, without the copies. fp16 is the model in half precision; its ops keep their float32 islands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from runtime.bundle import Bundle
from runtime.errors import MismatchError
from star_edge.bench.peers import Peer, checked, clip_by_clip, compile_many_lengths, star_of

if TYPE_CHECKING:
    import torch

    from star_edge.models.registry import Model

_DEVICE = "cuda"


class Form(NamedTuple):
    """A form of the model: what makes it, what to call it, its precisions."""

    make: Callable[[Model], Callable[..., torch.Tensor]]
    name: str
    precisions: tuple[str, ...]


def _compiled(model: Model) -> Callable[..., torch.Tensor]:
    """Kernels chosen by measuring, replayed as CUDA graphs: PyTorch's fastest. Compiled anew for every length."""
    import torch

    compile_many_lengths()
    forward = torch.compile(model, mode="max-autotune", dynamic=False)

    def call(*inputs: torch.Tensor) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # the logits of the last call are on the host: its memory may be used again
        logits: torch.Tensor = forward(*inputs)
        return logits

    return call


def _scatter(model: Model) -> Callable[..., torch.Tensor]:
    from star_edge.models.pyg import pyg_star

    return pyg_star(star_of(model)).to(_DEVICE)  # its edges are made on the host


# by the names of star_edge.bench.CUDA_ENGINES
FORMS = {
    "torch": Form(lambda model: model, "eager", ("fp32", "fp16")),
    "torch-pyg": Form(_scatter, "torch-scatter, torch-sparse", ("fp32",)),
    "torch-compile": Form(_compiled, "compile, max-autotune with CUDA graphs", ("fp32", "fp16")),
}


class Call:
    """A model on the GPU, called with arrays on the host; ``device_s`` adds up what CUDA events measured."""

    def __init__(self, forward: Callable[..., torch.Tensor], dtype: torch.dtype) -> None:
        import torch

        self.forward, self.dtype, self.device_s = forward, dtype, 0.0
        self.begin, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self, features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            rows = torch.from_numpy(features).to(_DEVICE)
            offsets = torch.from_numpy(cu_seqlens).to(_DEVICE)
            self.begin.record()
            result = self.forward(rows.to(self.dtype), offsets)
            self.end.record()
            logits: np.ndarray = result.float().cpu().numpy()  # waits for the GPU, so for both events
        self.device_s += self.begin.elapsed_time(self.end) / 1e3
        return logits


def open_peer(bundle: Bundle, engine: str, precision: str, mode: str) -> Peer | None:
    """PyTorch in one of FORMS on the GPU; None for an engine of ours.

    Raises MismatchError where torch cannot compute on a GPU here.
    """
    if engine not in FORMS:
        return None
    import torch

    from star_edge.torch_engine import load_model

    gpu = require_gpu()
    form, dtype = FORMS[engine], {"fp32": torch.float32, "fp16": torch.float16}[precision]
    call = Call(form.make(load_model(bundle).to(_DEVICE, dtype)), dtype)
    run = (clip_by_clip if mode == "per-clip" else checked)(bundle, call)

    def counted(features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        call.device_s = 0.0
        return run(features, cu_seqlens)

    return Peer(counted, precision, f"torch {torch.__version__} {form.name}, {gpu}", lambda: call.device_s)


def require_gpu() -> str:
    """Name of the GPU that torch computes on; MismatchError, with all of the reason in its first line, where it cannot."""
    import torch

    found = f"torch {torch.__version__}"
    if torch.version.cuda is None:
        raise MismatchError(f"{found} is built without CUDA")
    if not torch.cuda.is_available():
        raise MismatchError(f"{found} is built for CUDA {torch.version.cuda} and sees no GPU")
    try:
        torch.zeros(1, device=_DEVICE).add_(1).item()
    except RuntimeError as error:  # e.g. a build with kernels for other GPUs alone
        raise MismatchError(f"{found} cannot compute on this GPU: {str(error).splitlines()[0]}") from None
    name: Any = torch.cuda.get_device_name()
    return str(name)
