"""Ranges of activations, collected clip by clip in memory that does not grow with their number.

``max`` takes the largest magnitude. ``entropy`` cuts it where the distribution in 8 bits diverges least from the real one
(Migacz, "8-bit inference with TensorRT", GTC 2017), from a histogram of magnitudes whose range is the largest one, known
from a first pass. Both are sums or maxima over clips and so do not depend on their order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from onnx import ModelProto, TensorProto, helper

from runtime.errors import InputError, MismatchError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from calibration.reader import ClipReader

Method = Literal["entropy", "max"]
METHODS: tuple[str, ...] = get_args(Method)

# Smallest range recorded. A tensor that is zero on every clip (a joint never seen, a weight of zero) needs a scale too, and
# the scale of this one, amax / 127, is the smallest positive float16.
AMAX_FLOOR = 127 * 2.0**-24

BINS = 2048  # of a histogram, over magnitudes from 0 to amax
_LEVELS = 128  # magnitudes that int8 can tell apart
_STRIDE = 8  # bins between two cuts that are tried: 0.4 % of amax, half a level


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


def entropy_ranges(model: ModelProto, amax: Mapping[str, float], reader: ClipReader) -> dict[str, float]:
    """Range of least divergence of each tensor in ``amax``, whose largest magnitudes it maps."""
    histograms = Histograms(amax)
    session = open_session(model, amax)
    for inputs in reader.start("histograms"):
        for name, values in zip(amax, session.run(list(amax), inputs), strict=True):
            histograms.add(name, values)
    return {name: histograms.entropy_range(name) for name in amax}


class Histograms:
    """Histograms of magnitudes with ranges fixed beforehand: counts of clips add up in any order.

    Args:
        amax: tensor -> largest magnitude, the upper end of its histogram.
    """

    def __init__(self, amax: Mapping[str, float]) -> None:
        self.amax = dict(amax)
        self.counts = {name: np.zeros(BINS, dtype=np.int64) for name in amax}

    def add(self, name: str, values: np.ndarray) -> None:
        """Count the magnitudes of some values of a tensor."""
        amax = self.amax[name]
        if amax <= AMAX_FLOOR:
            return
        bins = (np.abs(values).ravel() * np.float32(BINS / amax)).astype(np.int32)
        self.counts[name] += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)

    def entropy_range(self, name: str) -> float:
        """The range that ``entropy`` gives this tensor."""
        return self.amax[name] * least_divergent_cut(self.counts[name]) / BINS


def least_divergent_cut(counts: np.ndarray) -> int:
    """Bins to keep of a histogram [BINS] of magnitudes so that 128 levels over them represent it best.

    For each cut, P is the histogram with everything beyond in its last bin, Q the kept part with the occupied bins of each
    level made equal; the cut with the least KL(P || Q) wins, the last one of equals. As in NVIDIA's calibrators the first
    bin counts like the second, because zeros are exact in any scale.
    """
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    if not bins.any():
        return BINS
    cuts = range(_LEVELS, BINS + 1, _STRIDE)
    divergences = np.array([_divergence(bins, cut) for cut in cuts])
    return cuts[len(cuts) - 1 - int(np.argmin(divergences[::-1]))]


def _divergence(bins: np.ndarray, cut: int) -> float:
    """KL(P || Q) of a histogram cut behind its first ``cut`` bins; infinite where Q is zero and P is not."""
    kept = bins[:cut]
    occupied = kept > 0
    levels = np.arange(cut) * _LEVELS // cut
    sums = np.bincount(levels, weights=kept, minlength=_LEVELS)
    sizes = np.bincount(levels, weights=occupied, minlength=_LEVELS)
    q = (sums / np.maximum(sizes, 1))[levels] * occupied
    p = kept.copy()
    p[-1] += bins[cut:].sum()
    seen = p > 0
    p, q = p[seen] / p.sum(), q[seen]
    if not q.all():
        return float("inf")
    return float((p * np.log(p / (q / q.sum()))).sum())


def open_session(model: ModelProto, tensors: Iterable[str] = (), *, optimise: bool = False) -> InferenceSession:
    """An ONNX Runtime session that also returns ``tensors``; its nodes stay as they are unless ``optimise`` is set.

    One thread and no memory arena: the values do not depend on the machine's cores, and memory is that of one clip.
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
