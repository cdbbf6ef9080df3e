"""Checkpoints: plain containers and tensors only, so that ``torch.load(weights_only=True)`` is enough."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import Tensor

from runtime.errors import InputError, MismatchError
from runtime.features import FeatureRecipe
from runtime.files import write_atomic
from runtime.readers.decoding import reason_of
from runtime.skeleton import Skeleton
from star_edge import __version__
from star_edge.models.config import PaddedConfig, StarConfig
from star_edge.models.registry import ModelConfig, build_model, parse_config

if TYPE_CHECKING:
    from star_edge.models.registry import Model

SCHEMA = "star-edge/checkpoint/1"


class ModelEntry(msgspec.Struct, frozen=True):
    """Registered name and shape of the model: a ``ModelConfig``, of the type that goes with the name."""

    name: str
    config: Any

    def __post_init__(self) -> None:
        if isinstance(self.config, dict):  # from a file, where only the name tells what the fields are
            msgspec.structs.force_setattr(self, "config", parse_config(self.name, self.config))


class DataEntry(msgspec.Struct, frozen=True):
    """What the model was trained on.

    Attributes:
        source: absolute path of the dataset; calibrate, verify and bench look there first.
        name, sha256, terms: of the dataset, from its description.
        split: scheme; ``fitted`` the parts of it whose clips the weights have seen.
    """

    source: str
    name: str
    split: str
    sha256: str = ""
    terms: str = ""
    fitted: tuple[str, ...] = ("train",)


class QuantisationEntry(msgspec.Struct, frozen=True):
    """What quantisation-aware training began with and settled on.

    Attributes:
        start, start_sha256: path and hash of the checkpoint it began with.
        ranges: calibration key (``layers.0.spatial.qkv.in``) -> amax of the activation.
    """

    start: str
    start_sha256: str
    ranges: dict[str, float]


class Checkpoint(msgspec.Struct):
    """A trained model with everything needed to export, calibrate and judge it.

    Attributes:
        state_dict: tensors by module path.
        metrics: accuracies and epoch of the saved weights.
        recipe: the full training recipe as plain containers.
        quantisation: of a model whose training was quantisation-aware; its validation accuracy is that in INT8.
    """

    model: ModelEntry
    state_dict: dict[str, Any]
    skeleton: Skeleton
    features: FeatureRecipe
    class_names: tuple[str, ...]
    data: DataEntry
    metrics: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    quantisation: QuantisationEntry | None = None
    schema: str = SCHEMA
    version: str = __version__


def save_torch(content: dict[str, Any], path: Path) -> None:
    """``torch.save`` that is atomic: the file appears whole or not at all."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())


def load_torch(path: Path) -> dict[str, Any]:
    """``torch.load(weights_only=True)`` onto the CPU, with errors a user can act on."""
    if not path.is_file():
        raise InputError("no such checkpoint", where=path, hint="star-edge train --data DATASET")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            "checkpoint holds objects that only pickle could load; star-edge does not run code from files",
            where=path,
            found=str(error).splitlines()[0],
            expected="tensors and plain containers (torch.load(weights_only=True))",
            hint="save it again as a dictionary of state_dict and plain values",
        ) from None
    except Exception as error:  # on damaged bytes torch's unpickler fails in ways of all kinds, assertions among them
        raise InputError(
            "checkpoint cannot be read",
            where=path,
            found=reason_of(error),
            expected="a file written by star-edge train",
        ) from None
    if not isinstance(content, dict):
        raise InputError("not a star-edge checkpoint", where=path, found=type(content).__name__, expected="a dictionary")
    return content


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint atomically."""
    tensors = checkpoint.state_dict
    plain = msgspec.to_builtins(msgspec.structs.replace(checkpoint, state_dict={}))
    save_torch({**plain, "state_dict": {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}}, path)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read and validate a checkpoint.

    Raises:
        InputError: not a checkpoint, needs pickle, wrong fields, weights that do not fit the config or are not finite.
        MismatchError: written by a newer star-edge.
    """
    path = Path(path)
    content = load_torch(path)
    _check_schema(content.get("schema"), path)
    tensors = content.pop("state_dict", None)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError("checkpoint has no state_dict of tensors", where=path)
    try:
        checkpoint = msgspec.convert({**content, "state_dict": {}}, Checkpoint)
    except msgspec.ValidationError as error:
        raise InputError(f"checkpoint has a wrong field: {error}", where=path) from None
    except InputError as error:  # a model that is not registered
        raise InputError(error.what, where=path, expected=error.expected, hint=error.hint) from None
    checkpoint.state_dict = tensors
    checkpoint.skeleton.check(where=path)
    _check_weights(checkpoint, path)
    return checkpoint


def build_from_checkpoint(checkpoint: Checkpoint) -> Model:
    """The checkpoint's model with its weights, in eval mode."""
    model = build_model(checkpoint.model.name, checkpoint.model.config)
    model.load_state_dict(checkpoint.state_dict)
    return model.eval()


def _check_schema(schema: object, path: Path) -> None:
    family, _, number = str(schema).rpartition("/")
    if family != SCHEMA.rpartition("/")[0] or not number.isdigit():
        raise InputError("not a star-edge checkpoint", where=path, found=f"schema {schema!r}", expected=SCHEMA)
    if int(number) > int(SCHEMA.rpartition("/")[2]):
        raise MismatchError(
            "checkpoint was written by a newer star-edge",
            where=path,
            found=schema,
            expected=f"{SCHEMA} or older",
            hint="pip install --upgrade star-edge",
        )


def _check_weights(checkpoint: Checkpoint, path: Path) -> None:
    config: ModelConfig = checkpoint.model.config
    skeleton, features, classes = checkpoint.skeleton, checkpoint.features, checkpoint.class_names
    found = (config.joints, config.channels, config.classes)
    if found != (skeleton.num_joints, features.channels, len(classes)):
        raise InputError(
            "checkpoint contradicts itself",
            where=path,
            found=f"model for (joints, channels, classes) = {found}",
            expected=f"{(skeleton.num_joints, features.channels, len(classes))} from skeleton, features and class names",
        )
    if isinstance(config, PaddedConfig) and (config.bones, config.root) != (skeleton.bones, skeleton.root):
        raise InputError("checkpoint contradicts itself", where=path, found="a model for other bones", expected=skeleton.name)
    # a model of millions of layers is not built to find that out
    layers = config.experts * (config.layers if isinstance(config, StarConfig) else 1)
    if layers > len(checkpoint.state_dict):
        raise InputError(
            "checkpoint has fewer weights than layers",
            where=path,
            found=f"{len(checkpoint.state_dict)} weights, {layers} layers",
            expected="several weights a layer",
        )
    try:
        with torch.device("meta"):
            built = build_model(checkpoint.model.name, config).state_dict()
    except InputError as error:
        where = ", ".join(filter(None, (error.where, error.found)))
        raise InputError(error.what, where=path, found=where, expected=error.expected, hint=error.hint) from None
    expected = {name: tuple(tensor.shape) for name, tensor in built.items()}
    for name in sorted(expected.keys() | checkpoint.state_dict.keys()):
        tensor = checkpoint.state_dict.get(name)
        shape = None if tensor is None else tuple(tensor.shape)
        if shape != expected.get(name):
            raise InputError(
                f"weight '{name}' does not fit the model '{checkpoint.model.name}'",
                where=path,
                found="missing" if shape is None else f"shape {shape}",
                expected="no such weight" if name not in expected else f"shape {expected[name]}",
            )
        if tensor is not None and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"weight '{name}' holds NaN or infinity", where=path, hint="train again with a lower --lr")
