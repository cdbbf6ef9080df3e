"""StarContextAttention(x, weight, cu_seqlens): gated mean of each clip's rows; tolerances relative to the largest |output|."""

TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 3e-2}
