"""The registry of models: name -> architecture, built for any skeleton, feature count and class count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from runtime.errors import InputError

if TYPE_CHECKING:
    from runtime.skeleton import Skeleton
    from star_edge.models.star import Star, StarConfig

# name -> fields of StarConfig that make the variant
MODELS: dict[str, dict[str, Any]] = {
    "star-64": {"dim": 64},
    "star-128": {"dim": 128},
}


def model_config(
    name: str,
    skeleton: Skeleton,
    channels: int,
    classes: int,
    attention: Literal["sparse", "full"] = "sparse",
    **overrides: Any,
) -> StarConfig:
    """Config of a registered model; ``attention="full"`` joins all pairs of joints (the paper's ablation)."""
    from star_edge.models.star import StarConfig

    if name not in MODELS:
        raise InputError(f"unknown model '{name}'", expected=f"one of {', '.join(MODELS)}", hint="star-edge inspect models")
    joints = range(skeleton.num_joints)
    edges = skeleton.edges() if attention == "sparse" else tuple((i, j) for i in joints for j in joints)
    return StarConfig(
        joints=skeleton.num_joints, channels=channels, classes=classes, edges=edges, **{**MODELS[name], **overrides}
    )


def build_model(config: StarConfig) -> Star:
    """A freshly initialised model."""
    from star_edge.models.star import Star

    return Star(config)
