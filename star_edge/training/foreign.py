"""Checkpoints that the models' authors published, read into ours: ST-GCN++ (PYSKL), Shift-GCN and STAR.

What a file is shows in the names of its weights. The logits are then those of the authors' code for the same features of the same
frames; what no weight tells is left to the caller, and :func:`differences` remain before the first layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import torch
from torch import Tensor

from runtime.errors import InputError
from runtime.features import FeatureRecipe
from runtime.files import sha256_of
from runtime.skeleton import Skeleton
from star_edge.data.sources.base import class_names_for
from star_edge.models.blocks import GROWTH
from star_edge.models.registry import MODELS, ModelConfig, build_model, padded_config, star_config
from star_edge.models.shift_gcn import moved
from star_edge.models.skeleton_graph import hops
from star_edge.skeletons import LAYOUTS
from star_edge.training.checkpoint import Checkpoint, DataEntry, ModelEntry, load_torch

Kind = Literal["st-gcn++", "shift-gcn", "star"]

# path of our module or weight -> where theirs are, joined along the first axis if they are several; i counts from zero, n from one
_Names = Mapping[str, str | tuple[str, ...]]

_BRANCHES = range(5)  # of ST-GCN++ that begin with a 1x1 convolution, BatchNorm and ReLU

_ST_GCN_PLUS: _Names = {
    "input_norm": "backbone.data_bn",
    "output": "cls_head.fc_cls",
    "blocks.{i}.spatial.graph": "backbone.gcn.{i}.gcn.A",
    "blocks.{i}.spatial.gather.values": "backbone.gcn.{i}.gcn.conv",
    "blocks.{i}.spatial.norm": "backbone.gcn.{i}.gcn.bn",
    "blocks.{i}.spatial.down.0": "backbone.gcn.{i}.gcn.down.0",
    "blocks.{i}.spatial.down.1": "backbone.gcn.{i}.gcn.down.1",
    "blocks.{i}.temporal.reduce.0": tuple(f"backbone.gcn.{{i}}.tcn.branches.{j}.0" for j in _BRANCHES),
    "blocks.{i}.temporal.reduce.1": tuple(f"backbone.gcn.{{i}}.tcn.branches.{j}.1" for j in _BRANCHES),
    **{f"blocks.{{i}}.temporal.dilated.{j}": f"backbone.gcn.{{i}}.tcn.branches.{j}.3.conv" for j in _BRANCHES[:-1]},
    "blocks.{i}.temporal.point": "backbone.gcn.{i}.tcn.branches.5",
    "blocks.{i}.temporal.norm": "backbone.gcn.{i}.tcn.transform.0",
    "blocks.{i}.temporal.mix.0": "backbone.gcn.{i}.tcn.transform.2",
    "blocks.{i}.temporal.mix.1": "backbone.gcn.{i}.tcn.bn",
    "blocks.{i}.residual.0": "backbone.gcn.{i}.residual.conv",
    "blocks.{i}.residual.1": "backbone.gcn.{i}.residual.bn",
}

_SHIFT_GCN: _Names = {
    "input_norm": "data_bn",
    "output": "fc",
    "blocks.{i}.spatial.mask": "l{n}.gcn1.Feature_Mask",
    "blocks.{i}.spatial.mix.weight": "l{n}.gcn1.Linear_weight",
    "blocks.{i}.spatial.mix.bias": "l{n}.gcn1.Linear_bias",
    "blocks.{i}.spatial.norm": "l{n}.gcn1.bn",
    "blocks.{i}.spatial.down.0": "l{n}.gcn1.down.0",
    "blocks.{i}.spatial.down.1": "l{n}.gcn1.down.1",
    "blocks.{i}.temporal.norm_in": "l{n}.tcn1.bn",
    "blocks.{i}.temporal.shift_in.shift": "l{n}.tcn1.shift_in.ypos",
    "blocks.{i}.temporal.mix": "l{n}.tcn1.temporal_linear",
    "blocks.{i}.temporal.shift_out.shift": "l{n}.tcn1.shift_out.ypos",
    "blocks.{i}.temporal.norm_out": "l{n}.tcn1.bn2",
    "blocks.{i}.residual.0": "l{n}.residual.conv",
    "blocks.{i}.residual.1": "l{n}.residual.bn",
}

_STAR: _Names = {
    "input_norm": "dn",
    "embedding": "lls",
    **{
        f"layers.{{i}}.{branch}.{ours}": f"{branch}_layers.{{i}}.{theirs}"
        for branch in ("spatial", "temporal")
        for ours, theirs in {
            "qkv": "lin_qkv",
            "norm1": "add_norm_att.ln",
            "linear1": "ffn.net.0",
            "linear2": "ffn.net.3",
            "norm2": "add_norm_ffn.ln",
        }.items()
    },
    "context.weight": "context_attention.weights",
    "head.hidden": "mlp_head.0",
    "head.output": "mlp_head.3",
}

# the bias of the last layer: a number for each class
_LOGITS: Mapping[Kind, str] = {"st-gcn++": "cls_head.fc_cls.bias", "shift-gcn": "fc.bias", "star": "mlp_head.3.bias"}

# fields of the config that no weight tells
_FREE: Mapping[Kind, tuple[str, ...]] = {
    "st-gcn++": ("frames", "persons", "time"),
    "shift-gcn": ("frames", "persons", "time"),
    "star": ("heads",),
}

# weights by which a file is known
_MARKS: Mapping[Kind, tuple[str, ...]] = {
    "st-gcn++": ("backbone.gcn.0.gcn.conv.weight", "backbone.gcn.0.tcn.branches.0.0.weight"),
    "shift-gcn": ("l1.gcn1.Feature_Mask", "l1.tcn1.shift_in.ypos"),
    "star": ("spatial_layers.0.lin_qkv.weight", "temporal_layers.0.lin_qkv.weight"),
}

# kinds of weights that are stored in another shape
_TURNED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Feature_Mask": lambda weight: weight.squeeze(0),  # [1, V, C]
    "Linear_bias": lambda weight: weight.flatten(),  # [1, 1, D]
    "Linear_weight": lambda weight: weight.transpose(0, -1),  # [C, D]
}

_NEGLIGIBLE = 1e-6  # of a joint, by which Shift-GCN's kernel moves channels; theirs are below 1e-9


@dataclass
class _File:
    """The tensors of a checkpoint by name, and which of them nothing has asked for."""

    path: Path
    tensors: dict[str, Tensor]
    unread: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.unread = set(self.tensors)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise InputError(
                f"weight '{name}' is missing", where=self.path, hint="give the whole file that the authors published"
            )
        self.unread.discard(name)
        return self.tensors[name]

    def size(self, name: str, axis: int, axes: int) -> int:
        """Length of one axis of a weight that has so many."""
        shape = tuple(self[name].shape)
        if len(shape) != axes:
            raise self.error(f"weight '{name}' has another number of axes", f"shape {shape}", f"{axes} axes")
        return shape[axis]

    def count(self, name: str, first: int = 0) -> int:
        """How many numbers from ``first`` on, put in the place of {}, make the name of a weight."""
        count = 0
        while name.format(count + first) in self.tensors:
            count += 1
        return count

    def expect(self, what: str, found: int, expected: int, hint: str) -> None:
        if found != expected:
            raise self.error(f"the weights are for another number of {what}", found, expected, hint)

    def error(self, what: str, found: object, expected: object, hint: str | None = None) -> InputError:
        return InputError(what, where=self.path, found=found, expected=expected, hint=hint)


@dataclass(frozen=True)
class _Plan:
    """What a file makes: a registered model, its config and features, the names of its weights, and its number of blocks."""

    model: str
    config: ModelConfig
    features: FeatureRecipe
    names: _Names
    blocks: int


def read_foreign(
    path: Path | str,
    skeleton: Skeleton,
    class_names: tuple[str, ...] | None = None,
    kind: Kind | None = None,
    centre: Literal["root", "none"] | None = None,
    **fields: Any,
) -> Checkpoint:
    """A checkpoint of ours with the weights of a file from the models' authors. Runs no code that is in the file.

    Args:
        path: a file of ``torch.save``: a state dict by itself, or under ``state_dict`` (PYSKL) or ``model_state_dict`` (STAR).
        skeleton: layout of the joints that the weights were trained on.
        class_names: of the classes in the order of the logits; None to number them.
        kind: whose file it is; None to tell by the names of the weights.
        centre: of the features; None for what comes nearest to the authors.
        fields: of the model's config, where no weight tells them: ``frames``, ``persons`` and ``time`` of the padded models, ``heads``
            of STAR; those of the registered model by default.

    Raises:
        InputError: the file cannot be read or is of another kind; a weight is missing, has no place in the model, does not fit the
            skeleton or the classes, or is not finite.
    """
    path = Path(path)
    skeleton.check()
    file = _File(path, _tensors(path))
    if kind is None:
        kind = _kind_of(file)
    elif kind not in get_args(Kind):
        raise InputError(f"unknown kind of foreign checkpoint '{kind}'", expected=f"one of {', '.join(get_args(Kind))}")
    foreign = [name for name in fields if name not in _FREE[kind]]
    if foreign:
        raise file.error(f"a file of {kind} has no choice of {foreign[0]}", foreign[0], f"one of {', '.join(_FREE[kind])}")
    outputs = file.size(_LOGITS[kind], 0, axes=1)
    names = class_names_for(None, {}, np.arange(outputs)) if class_names is None else tuple(class_names)
    file.expect("classes", outputs, len(names), "a name for each class, in the order of the logits")
    plan = _PLANS[kind](file, skeleton, outputs, fields)
    features = plan.features if centre is None else msgspec.structs.replace(plan.features, centre=centre)
    return Checkpoint(
        model=ModelEntry(plan.model, plan.config),
        state_dict=_state_dict(file, plan),
        skeleton=skeleton,
        features=features,
        class_names=names,
        data=DataEntry(source="", name="", split=""),
        recipe={"read_from": {"file": path.name, "sha256": sha256_of(path), "kind": kind}},
    )


def differences(kind: Kind, dims: int) -> tuple[str, ...]:
    """In what clips of so many dimensions come to a model otherwise than in its authors' code."""
    if kind == "star":
        return (
            "a bone is in the slot of another joint there; here in that of its own",
            "joints at most three bones apart attend to each other, along the bones of the given skeleton",
        )
    body = (
        "a body is turned upright and centred on the middle of its spine there; here it is not turned, and centred on the root"
    )
    if dims == 2:
        body = "joints are scaled to each side of the picture, or to the body, there; here to the picture's longer side, y up"
    if kind == "shift-gcn":
        return body, "a clip is repeated until it has enough frames there; here zeros follow it"
    return body, "frames are sampled from a clip there; here they are interpolated between its frames"


def _tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, without what DistributedDataParallel puts in front of names."""
    try:
        content = load_torch(path)
    except InputError as error:
        expected = "a file of torch.save with a state dict of tensors"
        raise InputError(error.what, where=path, found=error.found, expected=expected) from None
    if "schema" in content:
        raise InputError(
            "this is a checkpoint of star-edge already", where=path, found=content["schema"], hint=f"star-edge evaluate {path}"
        )
    for holder in ("state_dict", "model_state_dict"):
        if isinstance(content.get(holder), dict):
            content = content[holder]
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            found = f"{name!r}: {type(tensor).__name__}"
            raise InputError("checkpoint has no state dict of tensors", where=path, found=found, expected="names and tensors")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _kind_of(file: _File) -> Kind:
    for kind, marks in _MARKS.items():
        if file.tensors.keys() >= set(marks):
            return kind
    found = ", ".join(list(file.tensors)[:3]) or "no weights"
    expected = "; ".join(f"{kind}: {', '.join(marks)}" for kind, marks in _MARKS.items())
    raise file.error("whose checkpoint this is does not show in the names of its weights", f"{found}, ...", expected)


def _plan_st_gcn_plus(file: _File, skeleton: Skeleton, classes: int, fields: Mapping[str, Any]) -> _Plan:
    joints = file.size("backbone.gcn.0.gcn.A", -1, axes=3)
    coordinates = file.size("backbone.gcn.0.gcn.conv.weight", 1, axes=4)
    _check_joints(file, skeleton, joints)
    if (skeleton.dims, coordinates) == (2, 2):
        _add_score(file, joints)
    elif coordinates != 3:
        file.expect("coordinates", coordinates, 3, "a skeleton with dims = 2, if the file is for x and y")
    blocks = file.count("backbone.gcn.{}.tcn.bn.weight")
    widths = [file.size(f"backbone.gcn.{i}.tcn.bn.weight", 0, axes=1) for i in range(blocks)]
    return _padded_plan("st-gcn++", file, skeleton, classes, widths, _ST_GCN_PLUS, fields)


def _plan_shift_gcn(file: _File, skeleton: Skeleton, classes: int, fields: Mapping[str, Any]) -> _Plan:
    joints = file.size("l1.gcn1.Feature_Mask", 1, axes=3)
    coordinates = file.size("l1.gcn1.Linear_weight", 0, axes=2)
    _check_joints(file, skeleton, joints)
    file.expect("coordinates", coordinates, 3, "a file for x, y and z, or x, y and score")
    blocks = file.count("l{}.gcn1.Linear_bias", first=1)
    widths = [file.size(f"l{n}.gcn1.Linear_bias", 2, axes=3) for n in range(1, blocks + 1)]
    for n, (before, after) in enumerate(zip([coordinates, *widths[:-1]], widths, strict=True), start=1):
        _check_moves(file, n, joints, before, after)
    persons = file.size("data_bn.weight", 0, axes=1) // (joints * coordinates)
    return _padded_plan("shift-gcn", file, skeleton, classes, widths, _SHIFT_GCN, {"persons": persons, **fields})


def _plan_star(file: _File, skeleton: Skeleton, classes: int, fields: Mapping[str, Any]) -> _Plan:
    dim, channels = (file.size("lls.weight", axis, axes=2) for axis in (0, 1))
    if channels not in (3, 9):
        raise file.error("the weights are for features that there are none of", f"{channels} channels", "3 or 9 channels")
    joints = file.size("dn.weight", 0, axes=1) // channels
    _check_joints(file, skeleton, joints)
    name = f"star-{dim}" if f"star-{dim}" in MODELS else "star-64"
    layers, hidden = file.count("spatial_layers.{}.lin_qkv.weight"), file.size("mlp_head.0.bias", 0, axes=1)
    config = star_config(name, skeleton, channels, classes, **{"dim": dim, "layers": layers, "hidden": hidden, **fields})
    if config.dim % config.heads:
        raise file.error("the heads do not share the channels evenly", f"{config.heads} heads", f"a divisor of {config.dim}")
    distance = hops(skeleton.bones, skeleton.num_joints)
    edges = tuple((int(i), int(j)) for i, j in np.argwhere((distance >= 1) & (distance <= 3)))
    features = FeatureRecipe(channels=3 if channels == 3 else 9, centre="none")
    return _Plan(name, msgspec.structs.replace(config, edges=edges), features, _STAR, layers)


_PLANS: Mapping[Kind, Callable[[_File, Skeleton, int, Mapping[str, Any]], _Plan]] = {
    "st-gcn++": _plan_st_gcn_plus,
    "shift-gcn": _plan_shift_gcn,
    "star": _plan_star,
}


def _padded_plan(
    name: str, file: _File, skeleton: Skeleton, classes: int, widths: list[int], names: _Names, fields: Mapping[str, Any]
) -> _Plan:
    """Of a model whose frames halve where its blocks widen, as they do in every configuration that the authors published."""
    dim = widths[0]
    growth = tuple(width // dim for width in widths)
    if [factor * dim for factor in growth] != widths:
        raise file.error("blocks have widths that the model cannot have", widths, f"multiples of the first, {dim}")
    own = {"dim": dim, "growth": () if growth == GROWTH else growth}
    config = padded_config(name, skeleton, 4, classes, **{**own, **fields})
    centre: Literal["root", "none"] = "none" if skeleton.dims == 2 else "root"
    return _Plan(name, config, FeatureRecipe(channels=4, centre=centre), names, len(widths))


def _check_joints(file: _File, skeleton: Skeleton, joints: int) -> None:
    known = ", ".join(name for name, layout in LAYOUTS.items() if layout.num_joints == joints) or "your own, as a .json file"
    file.expect(
        "joints", joints, skeleton.num_joints, f"the skeleton of {joints} joints that the weights were trained on: {known}"
    )


def _check_moves(file: _File, n: int, joints: int, before: int, after: int) -> None:
    """That channels of block n of Shift-GCN move over joints as ours do, which store no indices."""
    for name, channels, steps in ((f"l{n}.gcn1.shift_in", before, 1), (f"l{n}.gcn1.shift_out", after, -1)):
        if not torch.equal(file[name], moved(joints, channels, steps)):
            raise file.error(
                f"'{name}' moves channels in another way", "other indices", f"channel c by {'-' * (steps < 0)}c joints"
            )
    for name in (f"l{n}.tcn1.shift_in.xpos", f"l{n}.tcn1.shift_out.xpos"):
        if not bool((file[name].abs() <= _NEGLIGIBLE).all()):
            raise file.error(f"'{name}' moves channels over joints", float(file[name].abs().max()), f"at most {_NEGLIGIBLE}")


def _add_score(file: _File, joints: int) -> None:
    """Give weights for x and y a third input, the score, that they do not look at."""
    for leaf, neutral in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        name = f"backbone.data_bn.{leaf}"
        file.expect("features", file.size(name, 0, axes=1), 2 * joints, "a file whose input statistics persons share")
        entries = file[name].view(joints, 2)
        file.tensors[name] = torch.cat([entries, torch.full_like(entries[:, :1], neutral)], 1).flatten()
    for name in ("backbone.gcn.0.gcn.conv.weight", "backbone.gcn.0.gcn.down.0.weight"):
        file.expect("coordinates", file.size(name, 1, axes=4), 2, "the file as it was published")
        file.tensors[name] = torch.cat([file[name], torch.zeros_like(file[name][:, :1])], 1)


def _state_dict(file: _File, plan: _Plan) -> dict[str, Tensor]:
    """Every weight of the model from the file, which has to have no others."""
    names = {
        ours.format(i=i): tuple(name.format(i=i, n=i + 1) for name in ([theirs] if isinstance(theirs, str) else theirs))
        for ours, theirs in plan.names.items()
        for i in range(plan.blocks)
    }
    with torch.device("meta"):
        expected = build_model(plan.model, plan.config).state_dict()
    found = {}
    for ours, place in expected.items():
        module, _, leaf = ours.rpartition(".")
        theirs = names[ours] if ours in names else tuple(f"{name}.{leaf}" for name in names[module])
        if leaf == "num_batches_tracked":  # files of old are without; joined BatchNorms have seen the same batches
            file.unread -= set(theirs)
            found[ours] = file.tensors.get(theirs[0], torch.tensor(0))
        else:
            found[ours] = _weight(file, theirs, tuple(place.shape))
    if file.unread:
        surplus = ", ".join(sorted(file.unread)[:3])
        raise file.error(
            f"weights that {plan.model} has no place for", surplus, f"{len(file.tensors) - len(file.unread)} others alone"
        )
    return found


def _weight(file: _File, names: tuple[str, ...], shape: tuple[int, ...]) -> Tensor:
    """One weight of ours, float32, as those of the names in the file make it."""
    whole = torch.cat([file[name] for name in names]) if len(names) > 1 else file[names[0]]
    weight = _TURNED.get(names[0].rpartition(".")[2], Tensor.contiguous)(whole)
    if tuple(weight.shape) != shape:
        raise file.error(f"weight '{names[0]}' does not fit the model", f"shape {tuple(weight.shape)}", f"shape {shape}")
    if not bool(weight.isfinite().all()):
        raise file.error(f"weight '{names[0]}' holds NaN or infinity", "a damaged file", "finite numbers")
    return weight.float().clone(memory_format=torch.contiguous_format)
