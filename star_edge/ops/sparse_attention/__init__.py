"""StarSparseAttention(qkv): softmax attention over the skeleton's edges; tolerances are relative to the largest |output|."""

TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 3e-2}
