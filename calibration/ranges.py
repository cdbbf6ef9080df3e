"""Activations of the fp32 graph over clips: largest magnitudes first, then histograms of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, TensorProto, helper

from calibration.histograms import Histograms
from runtime.engines.onnxruntime import session_options
from runtime.errors import InputError, MismatchError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from calibration.reader import ClipReader


def largest_magnitudes(model: ModelProto, tensors: Collection[str], reader: ClipReader) -> dict[str, float]:
    """Largest magnitude of each tensor over all clips.

    Raises InputError naming clip and tensor when a value is not finite, MismatchError when the graph lacks a tensor.
    """
    found = dict.fromkeys(sorted(tensors), 0.0)
    session = open_session(model, found)
    for inputs in reader.start("largest activations"):
        for name, values in zip(found, session.run(list(found), inputs), strict=True):
            largest = float(np.abs(values).max(initial=0.0))
            if not np.isfinite(largest):
                raise InputError(
                    "an activation overflows float32",
                    where=f"clip {reader.clip_name}, tensor {name}",
                    found="NaN or infinity",
                    expected="finite values",
                    hint="look at the joints of this clip: star-edge data info",
                )
            found[name] = max(found[name], largest)
    return found


def collect_histograms(model: ModelProto, amax: Mapping[str, float], reader: ClipReader) -> Histograms:
    """Histograms of every tensor in ``amax``, whose largest magnitudes over the same clips it maps."""
    histograms = Histograms(amax)
    session = open_session(model, amax)
    for inputs in reader.start("histograms"):
        for name, values in zip(amax, session.run(list(amax), inputs), strict=True):
            histograms.add(name, values)
    return histograms


def open_session(
    model: ModelProto, tensors: Iterable[str] = (), *, optimise: bool = False, threads: int = 1
) -> InferenceSession:
    """An ONNX Runtime session that also returns ``tensors``.

    Its nodes stay as they are, and memory is that of one clip; unless ``optimise`` is set: then it is as it would be run,
    fused and with a memory arena. With one thread the values do not depend on the machine's cores.
    """
    import onnxruntime

    exposed = ModelProto()
    exposed.CopyFrom(model)
    made = {name for node in model.graph.node for name in node.output}
    outputs = {output.name for output in model.graph.output}
    for name in tensors:
        if name not in made:
            raise MismatchError(
                "the graph lacks a tensor whose range is recorded",
                where="model.fp32.onnx",
                expected=name,
                hint="export the bundle again with this version",
            )
        if name not in outputs:
            exposed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = session_options(threads)
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
