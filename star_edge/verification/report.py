"""The reports of a verification: ``verify.json``, ``predictions.json`` and ``layers.json``."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["passed", "failed", "insufficient"]


class BucketResult(msgspec.Struct, frozen=True, kw_only=True):
    """Clips of similar length.

    Attributes:
        frames: rows a clip, e.g. ``32-63``.
        samples: clips.
        agreement: share of them on which engine and reference name the same class.
        max_abs_err: largest |logit - reference|; None when a logit is not finite.
        verdict: ``insufficient`` under 100 clips; else whether the precision's gate holds on these clips alone.
    """

    frames: str
    samples: int
    agreement: float
    max_abs_err: float | None
    verdict: Verdict


class VerifyResult(msgspec.Struct, frozen=True, kw_only=True):
    """One engine and precision beside the fp32 reference on the same clips.

    Attributes:
        engine, precision: what was opened.
        storage, compute, provider: what it reports to be really used.
        mode, threads: how clips were run.
        split: scheme and part, e.g. ``cross_subject/test``.
        samples: clips compared.
        top1, reference_top1: accuracy of the engine and of the reference.
        relative_accuracy: top1 / reference_top1; None when the reference has nothing right.
        agreement: share of clips with the same class, and its 95 % Wilson interval.
        lost, gained: clips that only the reference, only the engine has right.
        allowed_losses: the gate's bound on lost - gained.
        allowed_disagreements: the gate's bound on clips with another class.
        not_finite: clips with a NaN or infinite logit; they count as wrong.
        max_abs_err: largest |logit - reference|; None when a logit is not finite.
        relative_err: the same relative to the reference's largest |logit|.
        buckets: by clip length.
        decides: whether this row decides the precision's gate. A row that computes in a higher precision than it is
            named for cannot (ONNX Runtime runs fp16 in fp32 on a CPU), but it must hold the gate as well.
        passed: the gate holds on these clips.
    """

    engine: str
    precision: str
    storage: str
    compute: str
    provider: str
    mode: str
    threads: int
    split: str
    samples: int
    top1: float
    reference_top1: float
    relative_accuracy: float | None
    agreement: float
    agreement_interval: tuple[float, float]
    lost: int
    gained: int
    allowed_losses: int
    allowed_disagreements: int
    not_finite: int
    max_abs_err: float | None
    relative_err: float | None
    buckets: tuple[BucketResult, ...]
    decides: bool
    passed: bool


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine and precision answered, clip by clip.

    Attributes:
        engine, precision: as in VerifyResult; the reference is ``torch`` ``fp32``.
        classes: index of the class named; -1 where a logit is not finite.
        confidences: its softmax probability, rounded to four decimals; 0 where there is no class.
    """

    engine: str
    precision: str
    classes: tuple[int, ...]
    confidences: tuple[float, ...]


class PredictionsReport(msgspec.Struct, frozen=True, kw_only=True):
    """``reports/predictions.json``: the answers behind ``verify.json``, written by the same run.

    Attributes:
        bundle to samples, seed: as in VerifyReport.
        clips: name of each of the N clips; labels: index of its class; rows: its length; persons: how many are in it.
        answers: the reference first, then one entry per row of ``verify.json``.
    """

    star_edge_version: str
    bundle: str
    bundle_id: str
    data: str
    data_sha256: str
    split: str
    part: str
    samples: int
    seed: int
    clips: tuple[str, ...]
    labels: tuple[int, ...]
    rows: tuple[int, ...]
    persons: tuple[int, ...]
    answers: tuple[Answers, ...]
    schema: str = "star-edge/predictions/1"


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``star-edge verify`` measured.

    Attributes:
        bundle, bundle_id: name and identity of the bundle it was made from.
        data, data_sha256: name of the dataset and the hash of its clips.
        split, part: scheme, and ``test``, ``val`` or ``train``.
        samples: clips used of ``available``; ``seed`` chose them when they are fewer.
        reference: engine, precision and library of the reference.
        results: one row per engine and precision.
        passed: every row holds its gate.
    """

    star_edge_version: str
    bundle: str
    bundle_id: str
    data: str
    data_sha256: str
    split: str
    part: str
    samples: int
    available: int
    seed: int
    reference: str
    results: tuple[VerifyResult, ...]
    passed: bool
    schema: str = "star-edge/verify/1"


class LayerDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One module's output beside the reference's.

    Attributes:
        max_abs_err: largest difference; relative_err: the same relative to the reference's largest magnitude.
        cosine: of the angle between both as vectors; None where one is zero.
        sqnr_db: signal to noise, decibel; None without noise.
        bad: its noise, in root mean square, is above the precision's tolerance of the reference, or it is not finite (then the
            figures are None). One value far off, as rounding makes it, is none: see ``relative_err``.
    """

    module: str
    shape: tuple[int, ...]
    max_abs_err: float | None
    relative_err: float | None
    cosine: float | None
    sqnr_db: float | None
    bad: bool


class LayersReport(msgspec.Struct, frozen=True, kw_only=True):
    """``reports/layers.json``; ``star-edge verify --layers --json`` prints it.

    Attributes:
        reference, contender: engine and precision of the two sides.
        clip: name of the clip; rows: its length.
        tolerance: most noise of a module that is not bad, as a share of the reference.
        layers: in the order they are computed; with ``bisected`` only those that were looked at.
        first_bad: the first bad module; None: none is.
        case: the file that ``--case`` reads to compare the same again.
    """

    bundle: str
    bundle_id: str
    reference: str
    contender: str
    clip: str
    rows: int
    tolerance: float
    bisected: bool
    layers: tuple[LayerDifference, ...]
    first_bad: str | None
    case: str
    schema: str = "star-edge/layers/1"
