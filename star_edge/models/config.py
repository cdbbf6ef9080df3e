"""The shape of a model: what a checkpoint and a bundle keep of it. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]


class StarConfig(msgspec.Struct, frozen=True):
    """Shape of a STAR model; stored in checkpoints and bundles.

    Attributes:
        joints, channels, classes: V, C and K of input and output.
        edges: attention pairs (i, j) of the spatial branch.
        dim, heads, layers: width d, heads (d / heads = e), depth.
        hidden: width of the classification head.
        dropout: after attention and in the FFN. attention_dropout: on spatial attention weights. head_dropout: in the head.
        ranks: path of a linear layer -> rank of the two factors that stand for it, ``<path>.first`` and ``<path>.second``.
        widths: path of a layer in front of an activation -> channels behind it, where they are fewer than the fields above say.
        experts: models of this shape whose logits are averaged, at the paths ``experts.0`` and so on where there are several.
    """

    joints: int
    channels: int
    classes: int
    edges: tuple[tuple[int, int], ...]
    dim: int = 64
    heads: int = 8
    layers: int = 5
    hidden: int = 128
    dropout: float = 0.0
    attention_dropout: float = 0.0
    head_dropout: float = 0.0
    ranks: dict[str, int] = {}
    widths: dict[str, int] = {}
    experts: Positive = 1


class PaddedConfig(msgspec.Struct, frozen=True):
    """Shape of a model that looks at so many frames of so many persons, whoever is there; stored in checkpoints and bundles.

    Attributes:
        joints, channels, classes: V, width of a joint's features, and K. The last feature is the person's number.
        bones: (child, parent); a tree that hangs from ``root``.
        persons, frames: M and T that every clip is brought to.
        time: how a clip comes to T frames. ``pad`` puts zeros behind, and resamples what is longer; ``resample`` always resamples.
        dim: width of the first blocks; later ones follow from it.
        growth: each block's width against ``dim``; where it grows, frames halve. Empty for the ten blocks of the authors; a light
            ST-GCN++ for hands that PYSKL publishes has six.
        dropout: in the way of the model's authors.
        ranks, widths: as of :class:`StarConfig`, ranks of convolutions too.
        experts: as of :class:`StarConfig`.
    """

    joints: int
    channels: int
    classes: int
    bones: tuple[tuple[int, int], ...]
    root: int
    persons: Positive = 2
    frames: Positive = 64
    time: Literal["pad", "resample"] = "resample"
    dim: Positive = 64
    growth: tuple[Positive, ...] = ()
    dropout: float = 0.0
    ranks: dict[str, int] = {}
    widths: dict[str, int] = {}
    experts: Positive = 1


def expert_paths(config: StarConfig | PaddedConfig) -> list[str]:
    """What the paths in each expert begin with; nothing where the model is no ensemble."""
    return [""] if config.experts == 1 else [f"experts.{number}." for number in range(config.experts)]


def manifest_fields(config: StarConfig | PaddedConfig) -> dict[str, Any]:
    """A config in plain containers as a bundle keeps it.

    Without empty ``widths`` and without one expert: older readers know of neither, and count the fields.
    """
    fields: dict[str, Any] = msgspec.to_builtins(config)
    later = {"widths": {}, "experts": 1}
    return {name: value for name, value in fields.items() if name not in later or value != later[name]}
