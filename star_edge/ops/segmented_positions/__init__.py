"""StarSegmentedPositions(x, cu_seqlens) -> x + positions; tolerances are relative to the largest |output|."""

TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1e-2}
