"""The typed report of a calibration."""

from __future__ import annotations

import msgspec


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


class CalibrateReport(msgspec.Struct, frozen=True):
    """What calibrating a bundle gave; ``star-edge calibrate --json`` prints it.

    Attributes:
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
