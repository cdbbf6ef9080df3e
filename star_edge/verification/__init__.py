"""The accuracy gate: an engine beside the fp32 reference on the same clips."""

from __future__ import annotations

from star_edge.verification.report import BucketResult, VerifyReport, VerifyResult
from star_edge.verification.verify import verify_bundle

__all__ = ["BucketResult", "VerifyReport", "VerifyResult", "verify_bundle"]
