"""``calibration.json``: the ranges that INT8 scales are made from, shared by calibrator, exporter and runtime."""

from __future__ import annotations

import math

import msgspec

from runtime.errors import InputError, MismatchError
from runtime.manifest import check_schema
from runtime.readers.decoding import JSON_ERRORS

SCHEMA = "star-edge/calibration/1"


class CalibrationTable(msgspec.Struct, frozen=True, kw_only=True):
    """Ranges of activations, keyed by module path and port: ``layers.0.temporal.qkv.in``.

    Attributes:
        method: how a range is taken from what was seen, e.g. ``max`` or ``entropy``.
        percentile: of the method ``percentile``, in per cent.
        samples: clips used.
        requested_samples: clips asked for; more than ``samples`` when the source had fewer.
        clips: names of the clips, in the order they were run.
        weights_sha256: hash of the ``weights.safetensors`` the ranges belong to.
        ranges: amax > 0 of each tensor; its symmetric scale is amax / 127.
    """

    method: str
    samples: int
    requested_samples: int
    clips: tuple[str, ...]
    weights_sha256: str
    ranges: dict[str, float]
    percentile: float | None = None
    schema: str = SCHEMA

    def check(self, where: object = None) -> CalibrationTable:
        """Return self if every range can become a scale, else raise InputError."""
        if not self.ranges:
            raise InputError("calibration table without ranges", where=where, hint="star-edge calibrate")
        for tensor, amax in self.ranges.items():
            if not (math.isfinite(amax) and amax > 0):
                raise InputError(
                    f"range of '{tensor}' cannot become a scale",
                    where=where,
                    found=f"amax = {amax}",
                    expected="a finite number above 0",
                    hint="star-edge calibrate",
                )
        if len(self.clips) != self.samples:
            raise InputError(
                "calibration table contradicts itself",
                where=where,
                found=f"{len(self.clips)} clip names",
                expected=f"{self.samples} clips",
                hint="star-edge calibrate",
            )
        return self

    def check_weights(self, sha256: str, where: object = None) -> None:
        """Raise MismatchError unless the ranges were recorded with the weights of this hash."""
        if sha256 != self.weights_sha256:
            raise MismatchError(
                "calibration belongs to other weights",
                where=where,
                found=f"weights {sha256[:12]}",
                expected=f"weights {self.weights_sha256[:12]}",
                hint="star-edge calibrate",
            )

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted ranges, no time, so the same input gives the same bytes."""
        document = msgspec.structs.replace(self, ranges=dict(sorted(self.ranges.items())))
        return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, where: object = None) -> CalibrationTable:
        """Read and validate. Raises InputError (not JSON, wrong types, bad range) or MismatchError (newer schema)."""
        check_schema(data, SCHEMA, where)
        try:
            table = msgspec.json.decode(data, type=cls)
        except JSON_ERRORS as error:
            raise InputError(f"cannot read the calibration table: {error}", where=where, hint="star-edge calibrate") from None
        return table.check(where)
