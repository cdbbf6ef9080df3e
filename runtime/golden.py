"""``golden.npz``: generated clips with the fp32 logits every engine must reproduce."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from runtime.errors import InputError
from runtime.packing import check_packed
from runtime.readers.decoding import DECODE_ERRORS, reason_of
from runtime.tolerances import TOLERANCES


@dataclass(frozen=True, eq=False)
class Golden:
    """Clips, the logits of the fp32 reference, and how close an engine must come.

    Attributes:
        joints: float32 [F, V, 3].
        cu_seqlens: int32 [B+1].
        person_lengths: int32 [B, P], zeros for absent persons.
        names: what each clip is for, B of them.
        logits: float32 [B, K], fp32 reference.
        tolerances: precision -> error allowed relative to the largest |logit| (runtime.tolerances).
    """

    joints: np.ndarray
    cu_seqlens: np.ndarray
    person_lengths: np.ndarray
    names: tuple[str, ...]
    logits: np.ndarray
    tolerances: dict[str, float]

    def to_bytes(self) -> bytes:
        """An .npz without pickled objects; the same content gives the same bytes."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            joints=np.asarray(self.joints, dtype=np.float32),
            cu_seqlens=np.asarray(self.cu_seqlens, dtype=np.int32),
            person_lengths=np.asarray(self.person_lengths, dtype=np.int32),
            names=np.asarray(self.names, dtype=np.str_),
            logits=np.asarray(self.logits, dtype=np.float32),
            tolerance_precisions=np.asarray(list(self.tolerances), dtype=np.str_),
            tolerance_values=np.asarray(list(self.tolerances.values()), dtype=np.float64),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, where: object = None) -> Golden:
        """Read and validate; raises InputError."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                golden = cls(
                    joints=arrays["joints"],
                    cu_seqlens=arrays["cu_seqlens"],
                    person_lengths=arrays["person_lengths"],
                    names=tuple(str(name) for name in arrays["names"]),
                    logits=arrays["logits"],
                    tolerances={
                        str(precision): float(value)
                        for precision, value in zip(arrays["tolerance_precisions"], arrays["tolerance_values"], strict=True)
                    },
                )
        except DECODE_ERRORS as error:
            raise InputError(
                f"cannot read the golden clips: {reason_of(error)}", where=where, hint="export the bundle again"
            ) from None
        check_packed(golden.joints, golden.cu_seqlens, channels=3, allow_empty=True)
        clips = len(golden.cu_seqlens) - 1
        fits = (
            golden.person_lengths.ndim == 2
            and golden.logits.ndim == 2
            and len(golden.person_lengths) == len(golden.logits) == len(golden.names) == clips
            and (golden.person_lengths.sum(1) == np.diff(golden.cu_seqlens)).all()
            and golden.tolerances.keys() >= TOLERANCES.keys()
        )
        if not fits:
            raise InputError(
                "golden clips contradict themselves",
                where=where,
                found=f"{clips} clips, logits {golden.logits.shape}, person_lengths {golden.person_lengths.shape}, "
                f"{len(golden.names)} names, tolerances of {', '.join(golden.tolerances)}",
                expected=f"one row of each per clip, tolerances of {', '.join(TOLERANCES)}",
                hint="export the bundle again",
            )
        return golden
