"""StarSegmentedLinearAttention(qkv, cu_seqlens): linear attention over each clip's rows; tolerances relative to the largest |output|."""

EPS = 1e-6
TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 3e-2}
