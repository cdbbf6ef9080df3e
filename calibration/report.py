"""The typed report of a calibration."""

from __future__ import annotations

from typing import Literal

import msgspec

from calibration.histograms import Method

AnyMethod = Method | Literal["trained"]  # how a range is taken: from a histogram, or by quantisation-aware training


class Agreement(msgspec.Struct, frozen=True):
    """INT8 beside fp32 on calibration clips: information, not a gate, because these clips chose the ranges.

    Attributes:
        clips: compared.
        agreement: share of them with the same class.
        max_abs_err: largest difference of a logit.
        relative_err: the same relative to the largest logit.
    """

    clips: int
    agreement: float
    max_abs_err: float
    relative_err: float


class Int8Score(msgspec.Struct, frozen=True, kw_only=True):
    """An INT8 model beside fp32 on val clips.

    Attributes:
        agreement: share of clips with the same class.
        lost, gained: clips only fp32, and only INT8, has right.
        sqnr_db: signal to noise of the logits, decibel; None without noise.
        passed: the gate would hold on these clips.
    """

    samples: int
    top1: float
    reference_top1: float
    agreement: float
    lost: int
    gained: int
    sqnr_db: float | None
    passed: bool


class MethodScore(Int8Score, frozen=True, kw_only=True):
    """The score of the model whose ranges a method took."""

    method: AnyMethod


class TensorRange(msgspec.Struct, frozen=True):
    """What calibration saw of one tensor.

    Attributes:
        amax: largest magnitude.
        chosen: the range its scale is made from.
        ranges: method -> the range it gives.
        counts: values in equal bins of magnitude from 0 to amax.
    """

    amax: float
    chosen: float
    ranges: dict[str, float]
    counts: tuple[int, ...]


class RangesReport(msgspec.Struct, frozen=True):
    """``reports/ranges.json``: where each method would cut the activations. The scales come from ``calibration.json`` alone.

    Attributes:
        method: the one taken.
        percentile: per cent of the values that ``percentile`` keeps.
        tensors: key in ``calibration.json`` -> what was seen.
    """

    bundle_id: str
    method: str
    percentile: float
    tensors: dict[str, TensorRange]
    schema: str = "star-edge/ranges/1"


class CalibrateReport(msgspec.Struct, frozen=True):
    """What calibrating a bundle gave; ``star-edge calibrate --json`` prints it.

    Attributes:
        method: the one taken; ``percentile`` per cent of the values it keeps, if it is that one.
        scores: every method on val clips, the best first, when the best one was asked for.
        val_fitted: the weights have seen the val clips.
        samples, requested_samples: clips used and asked for.
        classes: class name -> clips of it used.
        shortest, longest: rows of the clips used.
        held_out_checked: clips were compared by name with those the model is judged by.
        ranges: number of tensors with a recorded range.
        base: float type around the Q/DQ pairs.
        quantised: modules in INT8; ``left_float`` module -> type it keeps and why.
        qdq: number of QuantizeLinear and DequantizeLinear nodes.
        agreement: INT8 beside fp32 on calibration clips; the gate is ``star-edge verify``.
        files: logical name -> bytes of what was written.
    """

    bundle: str
    bundle_id: str
    data: str
    split: str
    method: str
    percentile: float | None
    scores: tuple[MethodScore, ...]
    val_fitted: bool
    samples: int
    requested_samples: int
    classes: dict[str, int]
    shortest: int
    longest: int
    held_out_checked: bool
    weights_sha256: str
    ranges: int
    base: str
    quantised: tuple[str, ...]
    left_float: dict[str, str]
    qdq: dict[str, int]
    agreement: Agreement
    files: dict[str, int]
    seconds: float
    schema: str = "star-edge/calibrate/1"


class LayerSensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """One layer's part in what INT8 costs.

    Attributes:
        module: path in the model.
        nodes: names in the INT8 graph: the product and its Q/DQ.
        alone: this layer in INT8, all others float.
        without: every other layer in INT8, this one float.
    """

    module: str
    nodes: tuple[str, ...]
    alone: Int8Score
    without: Int8Score


class LayerLatency(msgspec.Struct, frozen=True, kw_only=True):
    """What INT8 saves in ONNX Runtime, measured in turn on the same clip.

    Attributes:
        float_ms, int8_ms: median of the graph with no layer, and with every layer, in INT8.
        saved_us: kind of layer -> microseconds that INT8 saves for one layer of it; negative where it is slower. Layers of one
            kind (``spatial.qkv``) have one shape: all of them turn float together, so that the difference can be seen.
        rounds: calls of each graph.
    """

    workload: str
    threads: int
    rounds: int
    float_ms: float
    int8_ms: float
    saved_us: dict[str, float]


class Returned(msgspec.Struct, frozen=True):
    """A layer that goes back to its float type, and why."""

    module: str
    reason: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Which layers stay in INT8.

    Attributes:
        keep: ``int8`` (all of them), ``mixed``, or the float type, when INT8 is not worth its losses here.
        quantised: the layers in INT8.
        returned: the others, in the order they went back.
        score: of this choice on val.
        float_ms, chosen_ms: medians of the float graph and of this choice, measured in turn.
        statement: the decision in words.
    """

    keep: str
    quantised: tuple[str, ...]
    returned: tuple[Returned, ...]
    score: Int8Score
    float_ms: float
    chosen_ms: float
    statement: str


class SensitivityReport(msgspec.Struct, frozen=True, kw_only=True):
    """``reports/sensitivity.json``; ``star-edge analyze --json`` prints it. Unfinished while ``decision`` is None.

    Attributes:
        weights_sha256, calibration_sha256, clips_sha256: what was measured: a run goes on from a report with the same ones.
        base: float type around the INT8 layers.
        clips: val clips compared.
        val_fitted: the weights have seen these clips.
        float_score, int8_score: no layer, and every layer, in INT8.
        applied: the decision is in the bundle.
    """

    bundle: str
    bundle_id: str
    data: str
    split: str
    weights_sha256: str
    calibration_sha256: str
    clips_sha256: str
    base: str
    clips: int
    float_score: Int8Score
    int8_score: Int8Score
    layers: tuple[LayerSensitivity, ...] = ()
    latency: LayerLatency | None = None
    decision: Decision | None = None
    applied: bool = False
    val_fitted: bool = False
    schema: str = "star-edge/sensitivity/1"
