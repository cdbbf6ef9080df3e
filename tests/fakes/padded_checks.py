"""What the tests of padded models share: settled weights, packed clips, layers in float64, and the exported graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from runtime.skeleton import Skeleton
from star_edge.models.blocks import Block
from star_edge.models.config import PaddedConfig
from star_edge.models.padded import PaddedModel
from star_edge.models.shift_gcn import TemporalShift

Clips = Sequence[Sequence[int]]


def config(skeleton: Skeleton, frames: int = 13, dim: int = 8, classes: int = 10) -> PaddedConfig:
    return PaddedConfig(skeleton.num_joints, skeleton.dims + 1, classes, skeleton.bones, skeleton.root, frames=frames, dim=dim)


def packed(shape: PaddedConfig, clips: Clips, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features [F, V, C + 1] and cu_seqlens int32 [B + 1] of clips that are given as the rows of each of their persons."""
    person = torch.tensor([float(person) for rows in clips for person, count in enumerate(rows) for _ in range(count)])
    features = torch.randn(len(person), shape.joints, shape.channels, generator=torch.Generator().manual_seed(seed))
    features[..., -1] = person[:, None]
    return features, torch.tensor([0, *np.cumsum([sum(rows) for rows in clips])], dtype=torch.int32)


def settled(model: PaddedModel, seed: int = 0) -> PaddedModel:
    """The model in eval mode, every weight drawn anew, the BatchNorms' statistics from random clips, some odd.

    So few clips leave some channels of single joints all but constant: there a variance of its own would enlarge any rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.2 * noise + (0 if name.endswith("bias") else 1))
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.momentum = 1.0
        model.train()(*packed(model.config, [[20, 11], [70, 50], [14], [1], [], [2, 33]]))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d) and module.running_var is not None:
                module.running_var.clamp_(min=1)
    return model.eval()


def shifted(model: PaddedModel, reach: float = 4) -> PaddedModel:
    """The model with shifts of all signs, whole ones among them."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, TemporalShift):
                module.shift.copy_(reach * (2 * torch.rand(len(module.shift), generator=generator) - 1))
                module.shift[:3] = torch.tensor([-2.0, 0.0, 3.0])
    return model.eval()


def assert_close(found: np.ndarray | Tensor, expected: np.ndarray | Tensor, tolerance: float) -> None:
    """Equal within ``tolerance`` of the largest expected magnitude."""
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def array(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().double().numpy()


def naive_convolution(layer: nn.Conv2d, x: np.ndarray) -> np.ndarray:
    """x [C, T, V] -> [D, T', V], over frames only."""
    weight, bias = array(layer.weight)[..., 0], array(layer.bias)
    stride, dilation, before = layer.stride[0], layer.dilation[0], int(layer.padding[0])
    kernel, frames = weight.shape[2], x.shape[1]
    y = []
    for start in range(-before, frames + before - dilation * (kernel - 1), stride):
        taps = [(tap, start + tap * dilation) for tap in range(kernel)]
        y.append(bias[:, None] + sum(weight[:, :, tap] @ x[:, t] for tap, t in taps if 0 <= t < frames))
    return np.stack(y, 1)


def naive_norm(layer: nn.BatchNorm2d, x: np.ndarray) -> np.ndarray:
    """x [C, T, V], with the running statistics."""
    gain = array(layer.weight) / np.sqrt(array(layer.running_var) + layer.eps)
    return (x - array(layer.running_mean)[:, None, None]) * gain[:, None, None] + array(layer.bias)[:, None, None]


def naive_point(layer: nn.Sequential, x: np.ndarray) -> np.ndarray:
    """x [C, T, V] -> [D, T', V]: a convolution and BatchNorm, whatever comes then."""
    convolution, norm = layer[0], layer[1]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return naive_norm(norm, naive_convolution(convolution, x))


def naive_brought(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    """x by itself, or through a convolution and BatchNorm."""
    if isinstance(layer, nn.Identity):
        return x
    assert isinstance(layer, nn.Sequential)
    return naive_point(layer, x)


def naive_added(block: Block, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A block's output from its input x and what its layers made of it."""
    return np.maximum(y if block.residual is None else y + naive_brought(block.residual, x), 0)


def naive_sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def assert_exports(model: PaddedModel, precision: Literal["fp32", "fp16"], tolerance: float) -> None:
    """As our exporter writes it, the graph has no operator that targets lack, and the model's logits for any rows and clips."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from exporters.onnx.traced import trace

    graph = trace(model, precision)
    lacking = ("Einsum", "Scatter", "Loop", "Scan", "If", "OneHot", "NonZero")
    assert not [node.op_type for node in graph.graph.node if node.op_type.startswith(lacking)]
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for clips in ([[1]], [[7, 30], [], [40], [2, 2]]):
        features, cu_seqlens = packed(model.config, clips, seed=1)
        with torch.no_grad():
            expected = model(features, cu_seqlens)
        found = session.run(None, {"features": features.numpy(), "cu_seqlens": cu_seqlens.numpy()})[0]
        assert_close(found, expected, tolerance)


@torch.no_grad()
def assert_takes_odd_clips(model: PaddedModel) -> None:
    """One frame, absent persons and no frame at all give finite logits, which are the same as by itself.

    The latter in float64, where random weights do not enlarge rounding to the size of a difference.
    """
    clips: Clips = [[1], [4, 3], [], [0, 5], [31, 2]]
    features, cu_seqlens = packed(model.config, clips)
    assert model(features, cu_seqlens).isfinite().all()
    model, features = model.double(), features.double()
    together = model(features, cu_seqlens)
    for clip, (start, end) in enumerate(zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True)):
        alone = model(features[start:end], torch.tensor([0, end - start], dtype=torch.int32))
        assert_close(alone[0], together[clip], 1e-5)


@torch.no_grad()
def assert_works_in_half(model: PaddedModel) -> None:
    """With half weights behind the input normalisation the logits are near; the model stays half."""
    inputs = packed(model.config, [[20, 11], [9]], seed=2)
    expected = model(*inputs)
    model.half().input_norm.float()
    assert_close(model(*inputs), expected, 2e-2)
