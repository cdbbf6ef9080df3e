"""STEP-CATFormer: the authors' parameter count, its attention written out in float64, odd clips, other skeletons, half, ONNX."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from padded_checks import (  # noqa: E402
    array,
    assert_close,
    config,
    naive_norm,
    packed,
    settled,
)

from runtime.errors import InputError  # noqa: E402
from star_edge.models.step_catformer import (  # noqa: E402
    Attention,
    DilatedValues,
    Exchange,
    FrameAttention,
    GatedFeedForward,
    JointTransformer,
    PartAttention,
    StepCatFormer,
    TimeTransformer,
)
from star_edge.skeletons import NTU25  # noqa: E402


@pytest.fixture(scope="module")
def model() -> StepCatFormer:
    return settled(StepCatFormer(config(NTU25)))


def test_parameter_count_equals_the_authors_model() -> None:
    with torch.device("meta"):  # 1.7 GB of weights
        model = StepCatFormer(config(NTU25, dim=64, classes=60))
    assert sum(parameter.numel() for parameter in model.parameters()) == 417_977_435
    dense = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear) and layer.in_features == 6400]
    assert [(layer.in_features, layer.out_features) for layer in dense] == 10 * [(6400, 6400)]


def test_the_training_heads_are_not_read(model: StepCatFormer) -> None:
    inputs = packed(model.config, [[9], [4, 6]])
    with torch.no_grad():
        expected = model(*inputs)
        heads = [parameter.clone() for parameter in model.training_heads.parameters()]
        for parameter in model.training_heads.parameters():
            parameter.fill_(float("nan"))
        found = model(*inputs)
        for parameter, value in zip(model.training_heads.parameters(), heads, strict=True):
            parameter.copy_(value)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("part", ["arms", "legs", "limbs", "halves"])
def test_part_attention_equals_the_equations(model: StepCatFormer, part: str) -> None:
    layer = getattr(model, part)
    first, second = random(2, 3, 25, 32), random(2, 3, 25, 32, seed=1)
    with torch.no_grad():
        found = layer(first, second)
    for n in range(2):
        for t in range(3):
            assert_close(found[n, t], naive_parts(layer, array(first[n, t]), array(second[n, t])), 1e-5)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_the_time_transformer_equals_the_equations(model: StepCatFormer, frames: int) -> None:
    layer = model.time[1]
    x, keys, fused = random(2, frames, 25, 32), random(2, frames, 25, 32, seed=1), random(2, 32, frames, 4, seed=2)
    with torch.no_grad():
        found = layer(x, keys, fused)
    expected = [naive_time(layer, array(x[n]), array(keys[n]), array(fused[n])) for n in range(2)]
    assert_close(found, np.stack(expected), 1e-5)


@pytest.mark.parametrize(("frames", "left"), [(1, 1), (2, 1), (13, 4), (64, 16)])
def test_fusion_tokens_have_the_frames_of_the_last_block(model: StepCatFormer, frames: int, left: int) -> None:
    with torch.no_grad():
        x, fused = model.backbone(random(3, 3, frames, 25))
    assert (x.shape, fused.shape) == ((3, 32, left, 25), (3, 32, left, 4))


def test_a_skeleton_whose_limbs_are_not_known_is_refused() -> None:
    shape = config(NTU25)
    with pytest.raises(InputError, match="arms and legs"):
        StepCatFormer(msgspec.structs.replace(shape, bones=shape.bones[::-1]))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def naive_linear(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    y = x @ array(layer.weight).T
    return y if layer.bias is None else y + array(layer.bias)


def naive_layer_norm(layer: torch.nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + layer.eps) * array(layer.weight) + array(layer.bias)


def naive_gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + torch.erf(torch.from_numpy(x / 2**0.5)).numpy()) / 2


def naive_softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def naive_feed_forward(layers: torch.nn.Sequential, x: np.ndarray) -> np.ndarray:
    norm, first, _, second = layers
    return naive_linear(second, naive_gelu(naive_linear(first, naive_layer_norm(norm, x))))


def naive_attention(layer: Attention, queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    q, k, v = naive_linear(layer.queries, queries), naive_linear(layer.keys, keys), naive_linear(layer.values, values)
    e = q.shape[1] // 8
    y = np.zeros_like(q)
    for head in (slice(start, start + e) for start in range(0, q.shape[1], e)):
        for i in range(len(q)):
            y[i, head] = naive_softmax(k[:, head] @ q[i, head] / e**0.5) @ v[:, head]
    return naive_linear(layer.project, y)


def naive_joints(layer: JointTransformer, x: np.ndarray, keys: np.ndarray) -> np.ndarray:
    normed = (
        naive_layer_norm(layer.norm_queries, x),
        naive_layer_norm(layer.norm_keys, keys),
        naive_layer_norm(layer.norm_values, x),
    )
    x = x + naive_attention(layer.attention, *normed)
    return x + naive_feed_forward(layer.feed_forward, x)


def naive_exchange(layer: Exchange, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    token = naive_linear(layer.towards, own[:1])
    seen = naive_layer_norm(layer.norm, np.concatenate([token, other[1:]]))
    token = naive_linear(layer.back, token + naive_attention(layer.attention, seen[:1], seen, seen))
    return np.concatenate([token, own[1:]])


def naive_parts(layer: PartAttention, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A frame [V, D] of each input -> [V', D]."""
    up, down = layer.upper_joints.tolist(), layer.lower_joints.tolist()
    if layer.mixed:
        upper_values, upper_keys, lower_values, lower_keys = first, second, first, second
    else:
        upper_values, upper_keys, lower_values, lower_keys = first, first, second, second
    upper = naive_joints(
        layer.attend_upper,
        naive_linear(layer.reduce_upper[0], upper_values[up]),
        naive_linear(layer.reduce_upper[-1], upper_keys[up]),
    )
    lower = naive_joints(
        layer.attend_lower,
        naive_linear(layer.reduce_lower[0], lower_values[down]),
        naive_linear(layer.reduce_lower[-1], lower_keys[down]),
    )
    new_upper, new_lower = (
        naive_exchange(layer.exchange_upper, upper, lower),
        naive_exchange(layer.exchange_lower, lower, upper),
    )
    parts = [(layer.widen_lower, new_lower), (layer.widen_upper, new_upper)]
    x = np.concatenate([naive_linear(widen[1], naive_layer_norm(widen[0], tokens)) for widen, tokens in parts])
    return x + naive_feed_forward(layer.mix, x.reshape(-1)).reshape(x.shape)


def naive_grid(layer: torch.nn.Conv2d, x: np.ndarray) -> np.ndarray:
    """x [C, T, J] -> [D, T, J]: any of the module's stride-1 convolutions, whose groups are one or one per channel."""
    weight = array(layer.weight)
    (above, beside), (step, _) = layer.padding, layer.dilation
    padded = np.pad(x, ((0, 0), (above, above), (beside, beside)))
    y = np.zeros((weight.shape[0], *x.shape[1:]))
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            seen = padded[:, i * step : i * step + x.shape[1], j : j + x.shape[2]]
            tap = weight[:, :, i, j]
            y += tap[:, 0, None, None] * seen if layer.groups > 1 else np.tensordot(tap, seen, 1)
    return y if layer.bias is None else y + array(layer.bias)[:, None, None]


def naive_values(layer: DilatedValues, x: np.ndarray) -> np.ndarray:
    n = layer.narrow
    reduced = [naive_grid(reduce, x) for reduce in layer.reduce]
    normed = np.maximum(naive_norm(layer.norm, np.concatenate(reduced[:3])), 0)
    assert [(c.dilation[0], c.kernel_size[0]) for c in layer.dilated] == [(2, 7), (3, 7)]
    branches = [naive_grid(layer.dilated[i], normed[i * n : (i + 1) * n]) for i in range(2)]
    branches.append(np.stack([normed[2 * n :, max(t - 1, 0) : t + 2].max(1) for t in range(x.shape[1])], 1))
    return x + np.concatenate([*branches, reduced[3]])


def naive_frames(layer: FrameAttention, queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    channels, frames, joints = values.shape

    def tokens(x: np.ndarray) -> np.ndarray:
        return np.stack([[x[c, t, j] for j in range(joints) for c in range(channels)] for t in range(frames)])

    q, k = (tokens(naive_grid(side[1], naive_grid(side[0], x))) for side, x in ((layer.queries, queries), (layer.keys, keys)))
    v = tokens(naive_values(layer.values, values))
    y = np.zeros_like(v)
    e = v.shape[1] // 8
    for i in range(8):
        head = slice(i * e, (i + 1) * e)
        for t in range(frames):
            cosine = [q[t, head] @ k[s, head] / np.linalg.norm(q[t, head]) / np.linalg.norm(k[s, head]) for s in range(frames)]
            y[t, head] = naive_softmax(np.array(cosine) * array(layer.temperature)[i].item()) @ v[:, head]
    return naive_grid(layer.project, y.reshape(frames, joints, channels).transpose(2, 0, 1))


def naive_gated(layer: GatedFeedForward, x: np.ndarray) -> np.ndarray:
    gate, value = np.split(naive_grid(layer.neighbours, naive_grid(layer.widen, x)), 2)
    return naive_grid(layer.project, naive_gelu(gate) * value)


def naive_time(layer: TimeTransformer, x: np.ndarray, keys: np.ndarray, fused: np.ndarray) -> np.ndarray:
    """x, keys [T, V, D], fused [D, T, 4] -> [D, T, V]."""
    joints = x.shape[1]
    fused = fused.transpose(1, 2, 0)
    x, keys = (np.concatenate([side, fused, side.mean(1, keepdims=True)], 1) for side in (x, keys))
    normed = [(layer.norm_queries, x), (layer.norm_keys, keys), (layer.norm_values, x)]
    first = naive_frames(layer.attention, *(naive_layer_norm(norm, side).transpose(2, 0, 1) for norm, side in normed))
    y = x.transpose(2, 0, 1) + first
    y = y + naive_gated(layer.feed_forward, naive_layer_norm(layer.norm, y.transpose(1, 2, 0)).transpose(2, 0, 1))
    shared = y[..., :joints] + y[..., joints:] @ array(layer.share)
    before, _, convolution, after = layer.transform
    return naive_norm(after, naive_grid(convolution, naive_gelu(naive_norm(before, shared))))
