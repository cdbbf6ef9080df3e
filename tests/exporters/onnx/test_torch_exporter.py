"""The torch form of the model exports through torch's own exporter, one clip with any number of frames."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from runtime.tolerances import relative_error
from star_edge.training.checkpoint import build_from_checkpoint, load_checkpoint

CLIP = torch.tensor([0, 8], dtype=torch.int32)


@pytest.fixture(scope="module")
def model(random_checkpoint):
    return build_from_checkpoint(load_checkpoint(random_checkpoint))


def clip(rows: int) -> torch.Tensor:
    return torch.randn(rows, 15, 9, generator=torch.Generator().manual_seed(rows))


def test_torch_export(model):
    frames = torch.export.Dim("frames", min=1, max=100_000)
    program = torch.export.export(model, (clip(8), CLIP), dynamic_shapes={"features": {0: frames}, "cu_seqlens": None})
    exported = program.module()
    for rows in (2, 8, 77):
        offsets = torch.tensor([0, rows], dtype=torch.int32)
        torch.testing.assert_close(exported(clip(rows), offsets), model(clip(rows), offsets))


def test_torch_onnx_export(model):
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript")
    frames = torch.export.Dim("frames", min=1, max=100_000)
    program = torch.onnx.export(
        model,
        (clip(8), CLIP),
        dynamo=True,
        verbose=False,
        input_names=["features", "cu_seqlens"],
        output_names=["logits"],
        dynamic_shapes={"features": {0: frames}, "cu_seqlens": None},
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}  # one clip does not look at cu_seqlens
    for rows in (2, 8, 77):
        offsets = np.array([0, rows], dtype=np.int32)
        inputs = {"features": clip(rows).numpy(), "cu_seqlens": offsets}
        logits = session.run(["logits"], {name: inputs[name] for name in names})[0]
        with torch.no_grad():
            expected = model(clip(rows), torch.from_numpy(offsets)).numpy()
        assert relative_error(logits, expected) <= 1e-5
