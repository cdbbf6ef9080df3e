"""Checkpoints of the models' authors: small files of their layout give the logits of their layers, written out in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from foreign_files import CLASSES, FILES, shift_gcn, st_gcn_plus, star  # noqa: E402
from padded_checks import assert_close, packed  # noqa: E402

from runtime.errors import InputError  # noqa: E402
from runtime.features import FeatureRecipe  # noqa: E402
from runtime.skeleton import Skeleton, bones_towards_root  # noqa: E402
from star_edge.models.config import PaddedConfig  # noqa: E402
from star_edge.models.registry import MODELS, Registered  # noqa: E402
from star_edge.skeletons import COCO17, NITE15  # noqa: E402
from star_edge.training.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint, save_checkpoint  # noqa: E402
from star_edge.training.foreign import read_foreign  # noqa: E402

FINGERS = [(1 + 4 * finger + segment, 4 * finger + segment if segment else 0) for finger in range(5) for segment in range(4)]
HAND = Skeleton("hand21", tuple(f"landmark_{i}" for i in range(21)), bones_towards_root(FINGERS, 0, 21), 0, dims=2)
FRAMES = 7


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Registered("shift_gcn", "ShiftGcn", PaddedConfig, {"frames": 300, "time": "pad"})
    monkeypatch.setitem(MODELS, "shift-gcn", entry)


def read(path: Path, content: Any, skeleton: Skeleton = NITE15, **fields: Any) -> Checkpoint:
    torch.save(content, path / "theirs.pt")
    return read_foreign(path / "theirs.pt", skeleton, CLASSES, **fields)


def logits_and_joints(checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
    """Logits [K] of a clip of FRAMES frames of one person, and its features float64 [C, T, V]."""
    features, cu_seqlens = packed(checkpoint.model.config, [[FRAMES]])
    with torch.no_grad():
        logits = build_from_checkpoint(checkpoint)(features, cu_seqlens)[0]
    return logits.double().numpy(), features[..., :-1].double().numpy().transpose(2, 0, 1)


@pytest.mark.parametrize("holder", ["nothing", "state_dict"])
def test_st_gcn_plus(tmp_path: Path, holder: str) -> None:
    state = st_gcn_plus()
    content = (
        state if holder == "nothing" else {"meta": {"epoch": 16}, "state_dict": {f"module.{n}": w for n, w in state.items()}}
    )
    found = read(tmp_path, content, frames=FRAMES, persons=1)
    assert found.model.name == "st-gcn++"
    assert (found.model.config.dim, found.model.config.growth) == (12, (1, 1, 2))
    assert found.features == FeatureRecipe(channels=4)
    logits, joints = logits_and_joints(found)
    assert_close(logits, naive_st_gcn_plus(state, joints), 1e-5)


def test_st_gcn_plus_of_two_coordinates_does_not_look_at_scores(tmp_path: Path) -> None:
    state = st_gcn_plus(joints=21, coordinates=2, widths=(12, 12, 12, 12, 12, 24))
    found = read(tmp_path, state, HAND, frames=FRAMES, persons=1)
    assert (found.model.config.channels, found.model.config.growth) == (4, (1, 1, 1, 1, 1, 2))
    logits, joints = logits_and_joints(found)
    assert_close(logits, naive_st_gcn_plus(state, joints[:2]), 1e-5)


def test_shift_gcn(tmp_path: Path) -> None:
    state = shift_gcn()
    found = read(tmp_path, state, frames=FRAMES)
    assert (found.model.name, found.model.config.persons, found.model.config.growth) == ("shift-gcn", 1, (1, 1, 2))
    logits, joints = logits_and_joints(found)
    # half of seven frames are four here and three in the authors' code, whose blocks cannot add them up
    assert_close(logits, naive_shift_gcn(state, joints), 1e-5)
    assert read(tmp_path, shift_gcn(persons=2)).model.config.persons == 2


def test_star(tmp_path: Path) -> None:
    state = star()
    optimiser = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.98)}]}
    content = {"epoch": 5, "model_state_dict": state, "optimizer_state_dict": optimiser, "loss": torch.tensor(1.0)}
    found = read(tmp_path, content, heads=4)
    config = found.model.config
    assert (config.dim, config.layers, config.heads, config.hidden, config.channels) == (16, 2, 4, 32, 9)
    assert found.features == FeatureRecipe(channels=9, centre="none")
    assert not any(i == j for i, j in config.edges)
    for ours, theirs in {
        "input_norm.running_var": "dn.running_var",
        "embedding.weight": "lls.weight",
        "layers.1.spatial.qkv.weight": "spatial_layers.1.lin_qkv.weight",
        "layers.1.temporal.qkv.weight": "temporal_layers.1.lin_qkv.weight",
        "layers.0.temporal.norm1.weight": "temporal_layers.0.add_norm_att.ln.weight",
        "layers.0.temporal.norm2.bias": "temporal_layers.0.add_norm_ffn.ln.bias",
        "layers.0.spatial.linear1.weight": "spatial_layers.0.ffn.net.0.weight",
        "layers.0.spatial.linear2.weight": "spatial_layers.0.ffn.net.3.weight",
        "context.weight": "context_attention.weights",
        "head.hidden.weight": "mlp_head.0.weight",
        "head.output.bias": "mlp_head.3.bias",
    }.items():
        assert torch.equal(found.state_dict[ours], state[theirs])


@pytest.mark.parametrize("kind", FILES)
def test_what_was_read_is_a_checkpoint(tmp_path: Path, kind: Any) -> None:
    found = read(tmp_path, FILES[kind](), kind=kind)
    assert found.recipe["read_from"]["kind"] == kind
    save_checkpoint(found, tmp_path / "ckpt.pt")
    again = load_checkpoint(tmp_path / "ckpt.pt")
    assert msgspec.structs.replace(again, state_dict={}) == msgspec.structs.replace(found, state_dict={})
    assert again.state_dict.keys() == found.state_dict.keys()


@pytest.mark.parametrize("kind", FILES)
def test_files_without_counts_of_batches(tmp_path: Path, kind: str) -> None:
    state = {name: weight for name, weight in FILES[kind]().items() if not name.endswith("num_batches_tracked")}
    assert read(tmp_path, state).state_dict["input_norm.num_batches_tracked"] == 0


@pytest.mark.parametrize(
    ("kind", "weight", "change", "part"),
    [
        ("st-gcn++", "backbone.gcn.1.tcn.branches.5.bias", None, "'backbone.gcn.1.tcn.branches.5.bias' is missing"),
        ("st-gcn++", "backbone.gcn.0.gcn.PA", torch.ones(3, 15, 15), "no place for"),
        ("st-gcn++", "backbone.gcn.2.gcn.bn.weight", torch.ones(23), "does not fit the model"),
        ("st-gcn++", "backbone.gcn.2.tcn.bn.weight", torch.ones(25), "widths"),
        ("st-gcn++", "backbone.gcn.1.gcn.A", torch.full((3, 15, 15), math.nan), "NaN or infinity"),
        ("st-gcn++", "backbone.gcn.0.gcn.A", torch.ones(3, 25, 25), "number of joints"),
        ("st-gcn++", "backbone.gcn.0.gcn.A", torch.ones(25, 25), "number of axes"),
        ("st-gcn++", "backbone.gcn.0.gcn.conv.weight", torch.ones(36, 6, 1, 1), "number of coordinates"),
        ("st-gcn++", "cls_head.fc_cls.bias", torch.ones(60), "number of classes"),
        ("shift-gcn", "l2.gcn1.shift_in", torch.arange(120), "moves channels in another way"),
        ("shift-gcn", "l3.tcn1.shift_out.xpos", torch.full((16,), 0.1), "moves channels over joints"),
        ("shift-gcn", "l2.gcn1.Linear_weight", torch.ones(8, 9), "does not fit the model"),
        ("shift-gcn", "l2.tcn1.shift_in.ypos", None, "'l2.tcn1.shift_in.ypos' is missing"),
        ("star", "lls.weight", torch.ones(16, 18), "features that there are none of"),
        ("star", "temporal_layers.1.lin_qkv.weight", None, "is missing"),
        ("star", "spatial_factor", torch.ones(2), "no place for"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, kind: str, weight: str, change: torch.Tensor | None, part: str) -> None:
    state = FILES[kind]()
    state.pop(weight, None)
    with pytest.raises(InputError, match=part) as caught:
        read(tmp_path, state if change is None else {**state, weight: change})
    assert caught.value.where == str(tmp_path / "theirs.pt")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"layer.weight": torch.ones(2)}, "whose checkpoint this is"),
        ({}, "whose checkpoint this is"),
        ({"epoch": 3}, "no state dict"),
        ([torch.ones(2)], "not a star-edge checkpoint"),
        ({"state_dict": {"weight": Path("x")}}, "only pickle could load"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any, part: str) -> None:
    with pytest.raises(InputError, match=part) as caught:
        read(tmp_path, content)
    assert caught.value.where == str(tmp_path / "theirs.pt")


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        read_foreign(tmp_path / "none.pt", NITE15, CLASSES)
    with pytest.raises(InputError, match="unknown kind"):
        read(tmp_path, star(), kind="gcn")
    with pytest.raises(InputError, match=r"'fc.bias' is missing"):
        read(tmp_path, star(), kind="shift-gcn")
    with pytest.raises(InputError, match="heads"):
        read(tmp_path, star(), heads=3)
    with pytest.raises(InputError, match="number of joints"):
        read(tmp_path, shift_gcn(), COCO17)
    with pytest.raises(InputError, match="number of coordinates"):
        read(tmp_path, st_gcn_plus(coordinates=2))
    with pytest.raises(InputError, match="no choice of frames"):
        read(tmp_path, star(), frames=7)


def test_joints_of_a_picture_stay_where_they_are(tmp_path: Path) -> None:
    state = st_gcn_plus(joints=21, coordinates=2)
    assert read(tmp_path, state, HAND).features == FeatureRecipe(channels=4, centre="none")
    assert read(tmp_path, state, HAND, centre="root").features == FeatureRecipe(channels=4, centre="root")


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    torch.save(shift_gcn(), tmp_path / "theirs.pt")
    assert read_foreign(tmp_path / "theirs.pt", NITE15).class_names == ("class 0", "class 1", "class 2", "class 3")


def test_a_checkpoint_of_ours_is_told_apart(tmp_path: Path) -> None:
    save_checkpoint(read(tmp_path, shift_gcn()), tmp_path / "ours.pt")
    with pytest.raises(InputError, match="star-edge already"):
        read_foreign(tmp_path / "ours.pt", NITE15)


def weight_of(state: dict[str, torch.Tensor], name: str) -> np.ndarray:
    array: np.ndarray = state[name].double().numpy()
    return array


def norm(state: dict[str, torch.Tensor], name: str, x: np.ndarray) -> np.ndarray:
    """BatchNorm over the first axis."""
    names = ("running_mean", "running_var", "weight", "bias")
    mean, variance, gain, bias = (weight_of(state, f"{name}.{leaf}").reshape(-1, *[1] * (x.ndim - 1)) for leaf in names)
    return (x - mean) / np.sqrt(variance + 1e-5) * gain + bias


def convolution(state: dict[str, torch.Tensor], name: str, x: np.ndarray, stride: int = 1, dilation: int = 1) -> np.ndarray:
    """x [C, T, V] -> [D, ceil(T / stride), V], over frames, zeros around."""
    weight, frames = weight_of(state, f"{name}.weight")[..., 0], x.shape[1]
    reach = weight.shape[2] // 2
    y = np.zeros((len(weight), -(-frames // stride), x.shape[2])) + weight_of(state, f"{name}.bias")[:, None, None]
    for t in range(y.shape[1]):
        for tap in range(-reach, reach + 1):
            if 0 <= t * stride + tap * dilation < frames:
                y[:, t] += weight[:, :, tap + reach] @ x[:, t * stride + tap * dilation]
    return y


def input_norm(state: dict[str, torch.Tensor], name: str, x: np.ndarray) -> np.ndarray:
    """x [C, T, V], normalised per joint and coordinate."""
    channels, frames, joints = x.shape
    return norm(state, name, x.transpose(2, 0, 1).reshape(-1, frames)).reshape(joints, channels, frames).transpose(1, 2, 0)


def residual(state: dict[str, torch.Tensor], block: str, x: np.ndarray, first: bool, stride: int) -> np.ndarray | float:
    if f"{block}.residual.conv.weight" in state:
        return norm(state, f"{block}.residual.bn", convolution(state, f"{block}.residual.conv", x, stride))
    return 0.0 if first else x


def down(state: dict[str, torch.Tensor], layer: str, x: np.ndarray) -> np.ndarray:
    if f"{layer}.down.0.weight" in state:
        return norm(state, f"{layer}.down.1", convolution(state, f"{layer}.down.0", x))
    return x


def naive_st_gcn_plus(state: dict[str, torch.Tensor], x: np.ndarray) -> np.ndarray:
    x = input_norm(state, "backbone.data_bn", x)
    for i in range(sum(name.endswith("gcn.A") for name in state)):
        block, before = f"backbone.gcn.{i}", x
        values = convolution(state, f"{block}.gcn.conv", x).reshape(3, -1, *x.shape[1:])
        gathered = sum(values[k] @ weight_of(state, f"{block}.gcn.A")[k] for k in range(3))
        x = np.maximum(norm(state, f"{block}.gcn.bn", gathered) + down(state, f"{block}.gcn", x), 0)
        stride = 2 if f"{block}.residual.conv.weight" in state else 1
        branches = []
        for branch in range(5):
            name = f"{block}.tcn.branches.{branch}"
            y = np.maximum(norm(state, f"{name}.1", convolution(state, f"{name}.0", x)), 0)
            if branch < 4:
                branches.append(convolution(state, f"{name}.3.conv", y, stride, branch + 1))
            else:
                branches.append(np.stack([y[:, max(t - 1, 0) : t + 2].max(1) for t in range(0, y.shape[1], stride)], 1))
        branches.append(convolution(state, f"{block}.tcn.branches.5", x, stride))
        y = np.maximum(norm(state, f"{block}.tcn.transform.0", np.concatenate(branches)), 0)
        y = norm(state, f"{block}.tcn.bn", convolution(state, f"{block}.tcn.transform.2", y))
        x = np.maximum(y + residual(state, block, before, i == 0, stride), 0)
    return weight_of(state, "cls_head.fc_cls.weight") @ x.mean((1, 2)) + weight_of(state, "cls_head.fc_cls.bias")


def naive_shift_gcn(state: dict[str, torch.Tensor], x: np.ndarray) -> np.ndarray:
    x = input_norm(state, "data_bn", x)
    for n in range(1, 1 + sum(name.endswith("Feature_Mask") for name in state)):
        block, before = f"l{n}", x
        stride = 2 if f"{block}.residual.conv.weight" in state else 1
        frames, joints = x.shape[1:]
        rows = x.transpose(1, 2, 0).reshape(frames, -1)[:, state[f"{block}.gcn1.shift_in"].numpy()].reshape(frames, joints, -1)
        rows = rows * (np.tanh(weight_of(state, f"{block}.gcn1.Feature_Mask")) + 1)
        rows = rows @ weight_of(state, f"{block}.gcn1.Linear_weight") + weight_of(state, f"{block}.gcn1.Linear_bias")
        rows = norm(state, f"{block}.gcn1.bn", rows.reshape(frames, -1)[:, state[f"{block}.gcn1.shift_out"].numpy()].T)
        y = rows.reshape(joints, -1, frames).transpose(1, 2, 0)
        x = np.maximum(y + down(state, f"{block}.gcn1", x), 0)
        y = naive_shift(weight_of(state, f"{block}.tcn1.shift_in.ypos"), norm(state, f"{block}.tcn1.bn", x), 1)
        y = np.maximum(convolution(state, f"{block}.tcn1.temporal_linear", y), 0)
        y = norm(state, f"{block}.tcn1.bn2", naive_shift(weight_of(state, f"{block}.tcn1.shift_out.ypos"), y, stride))
        x = np.maximum(y + residual(state, block, before, n == 1, stride), 0)
    return weight_of(state, "fc.weight") @ x.mean((1, 2)) + weight_of(state, "fc.bias")


def naive_shift(shifts: np.ndarray, x: np.ndarray, stride: int) -> np.ndarray:
    """Each channel of x [C, T, V] at stride * t + its shift, half a frame later where the stride is two."""
    frames = x.shape[1]
    y = np.zeros((len(x), -(-frames // stride), x.shape[2]))
    for channel, shift in enumerate(shifts + (stride - 1) / 2):
        low = math.floor(shift)
        for t in range(y.shape[1]):
            for at, share in ((stride * t + low, 1 - shift + low), (stride * t + low + 1, shift - low)):
                if 0 <= at < frames:
                    y[channel, t] += share * x[channel, at]
    return y
