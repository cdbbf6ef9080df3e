"""The registry of models: name -> architecture, built for any skeleton, feature count and class count.

A checkpoint and a bundle keep a model's name and its config; the name tells the family, and so what the config's fields mean.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from runtime.errors import InputError, MismatchError
from runtime.features import FeatureRecipe
from star_edge.models.config import PaddedConfig, StarConfig

if TYPE_CHECKING:
    from runtime.bundle import Bundle
    from runtime.skeleton import Skeleton
    from star_edge.models.ensemble import Ensemble
    from star_edge.models.padded import PaddedModel
    from star_edge.models.star import Star

    Model: TypeAlias = Star | PaddedModel | Ensemble

ModelConfig: TypeAlias = StarConfig | PaddedConfig


class Registered(msgspec.Struct, frozen=True):
    """A registered model.

    Attributes:
        module, model: where its class is, and the class.
        config: the config of its family.
        fields: of the config, that make the variant.
        recipe: fields of a named training recipe that are others for this model.
    """

    module: str
    model: str
    config: type[StarConfig] | type[PaddedConfig]
    fields: dict[str, Any] = {}
    recipe: dict[str, Any] = {}

    @property
    def padded(self) -> bool:
        """Whether it looks at a fixed number of frames and persons."""
        return self.config is PaddedConfig


# what the padded models are trained with where the recipe is one of ours: joints alone, and the number of their person
_JOINTS: dict[str, Any] = {"features": FeatureRecipe(channels=4), "dropout": 0.0}


def _padded(module: str, model: str, **fields: Any) -> Registered:
    return Registered(module, model, PaddedConfig, fields, _JOINTS)


MODELS: dict[str, Registered] = {
    "star-64": Registered("star", "Star", StarConfig, {"dim": 64}),
    "star-128": Registered("star", "Star", StarConfig, {"dim": 128}),
    "st-gcn": _padded("st_gcn", "StGcn", frames=300, time="pad"),
    "st-gcn++": _padded("st_gcn_plus", "StGcnPlus", frames=100),
    "shift-gcn": _padded("shift_gcn", "ShiftGcn", frames=300, time="pad"),
    "ctr-gcn": _padded("ctr_gcn", "CtrGcn"),
    "step-catformer": _padded("step_catformer", "StepCatFormer"),
    "aagcn": _padded("aagcn", "Aagcn"),
    "dg-stgcn": _padded("dg_stgcn", "DgStGcn", frames=100),
    "hyperformer": _padded("hyperformer", "Hyperformer", dim=216),
    "s-tr": _padded("st_tr", "STr", frames=300, time="pad"),
    "t-tr": _padded("st_tr", "TTr", frames=300, time="pad"),
    "st-tr": _padded("st_tr", "StTr", frames=300, time="pad"),
}


def registered(name: str) -> Registered:
    """A model by its name; InputError for one that is not registered."""
    if name not in MODELS:
        raise InputError(f"unknown model '{name}'", expected=f"one of {', '.join(MODELS)}", hint="star-edge inspect models")
    return MODELS[name]


def model_config(name: str, skeleton: Skeleton, channels: int, classes: int, **overrides: Any) -> ModelConfig:
    """Config of a registered model.

    Args:
        name: of the model.
        skeleton: layout of its joints.
        channels: of the features, with the person's number for a padded model.
        classes: K.
        overrides: what :func:`star_config` takes, or other fields of a padded model's config; None leaves a field as it is.
    """
    make = padded_config if registered(name).padded else star_config
    return make(name, skeleton, channels, classes, **overrides)


def star_config(
    name: str,
    skeleton: Skeleton,
    channels: int,
    classes: int,
    attention: Literal["sparse", "full"] = "sparse",
    **overrides: Any,
) -> StarConfig:
    """Config of a STAR model; ``attention="full"`` joins all pairs of joints (the paper's ablation)."""
    joints = range(skeleton.num_joints)
    edges = skeleton.edges() if attention == "sparse" else tuple((i, j) for i in joints for j in joints)
    fields = _fields(name, overrides)
    return StarConfig(joints=skeleton.num_joints, channels=channels, classes=classes, edges=edges, **fields)


def padded_config(name: str, skeleton: Skeleton, channels: int, classes: int, **overrides: Any) -> PaddedConfig:
    """Config of a padded model; the last of the features' ``channels`` is the person's number."""
    return PaddedConfig(
        joints=skeleton.num_joints,
        channels=channels,
        classes=classes,
        bones=skeleton.bones,
        root=skeleton.root,
        **_fields(name, overrides),
    )


def _fields(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the registered variant, with those that are not None replaced."""
    return {**registered(name).fields, **{field: value for field, value in overrides.items() if value is not None}}


def parse_config(name: str, fields: Mapping[str, Any]) -> ModelConfig:
    """The config of a registered model from plain containers.

    Raises InputError for an unknown model, msgspec.ValidationError for fields that are not those of its family.
    """
    return msgspec.convert(dict(fields), registered(name).config)


def config_of(bundle: Bundle) -> ModelConfig:
    """The model's configuration as the manifest records it; MismatchError when it is not one of a registered model."""
    model = bundle.manifest.model
    try:
        return parse_config(model.name, model.config)
    except (msgspec.ValidationError, InputError) as error:
        raise MismatchError(
            f"the model '{model.name}' is not known here",
            where=bundle.path,
            found=str(error),
            expected="the configuration of a registered model",
            hint="export the bundle again, or star-edge inspect models",
        ) from None


def build_model(name: str, config: ModelConfig) -> Model:
    """A freshly initialised model, or an ensemble of them where the config has several experts."""
    if config.experts == 1:
        return _build_alone(name, config)
    from star_edge.models.ensemble import Ensemble

    if reshaped := {**config.ranks, **config.widths}:
        raise InputError(
            "an ensemble has no layers of low rank or with fewer channels",
            found=", ".join(reshaped),
            expected="experts, or ranks and widths",
        )
    alone = msgspec.structs.replace(config, experts=1)
    return Ensemble(config, [_build_alone(name, alone) for _ in range(config.experts)])


def _build_alone(name: str, config: ModelConfig) -> Star | PaddedModel:
    entry = registered(name)
    model: Star | PaddedModel = getattr(importlib.import_module(f"star_edge.models.{entry.module}"), entry.model)(config)
    if config.widths:
        from star_edge.compression.channels import narrow

        narrow(model, config.widths)
    if config.ranks:
        from star_edge.compression.low_rank import factorise

        factorise(model, config.ranks)
    return model
