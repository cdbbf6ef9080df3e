"""Training recipes: every number of a training run, stored whole in its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from runtime.errors import InputError
from runtime.features import FeatureRecipe
from runtime.readers.decoding import JSON_ERRORS
from star_edge.models.registry import registered


class Augmentation(msgspec.Struct, frozen=True):
    """Random changes to a training clip; zero (or one, for ``crop``) switches a change off.

    Attributes:
        yaw, tilt: largest rotation about the vertical axis and about the two others, degrees.
        scale: largest relative change of size, drawn per axis.
        crop: smallest fraction of the clip that is kept.
        speed: largest relative change of speed; the clip is resampled linearly.
        noise: standard deviation of joint noise, metres, constant over the clip's frames.
        jitter: standard deviation of joint noise, metres, drawn for each frame.
        mirror: probability of exchanging left and right.
        swap: probability of exchanging two persons.
        lose_joints: probability for each joint of being lost throughout the clip.
    """

    yaw: float = 0.0
    tilt: float = 0.0
    scale: float = 0.0
    crop: float = 1.0
    speed: float = 0.0
    noise: float = 0.0
    jitter: float = 0.0
    mirror: float = 0.0
    swap: float = 0.0
    lose_joints: float = 0.0


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A training recipe.

    Attributes:
        schedule: ``noam`` is lr * d^-0.5 * min(t^-0.5, t * w^-1.5) (STAR, eq. 8; w = steps of the warm-up);
            ``cosine`` rises linearly to lr and falls to zero along a cosine.
        lr: factor of the Noam schedule, or the cosine schedule's peak.
        warmup_epochs: length of the warm-up.
        frames_per_batch: rows a packed batch may hold; a longer clip makes a batch of its own.
        accumulate: batches whose gradients make one step.
        amp: ``bf16`` computes products in bfloat16, with weights and sums in float32.
        clip_norm: largest gradient norm, 0 for none.
        ema: decay per step of the averaged weights that are evaluated and saved, 0 for none.
        frames, persons: that a padded model brings every clip to; None for as many as its authors take, and as the data has.
        distillation: where there is a teacher, the part of the loss that compares with it, at ``temperature``.
    """

    name: str
    epochs: int = 60
    optimizer: Literal["adam", "adamw"] = "adamw"
    schedule: Literal["noam", "cosine"] = "cosine"
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.05
    warmup_epochs: float = 5.0
    label_smoothing: float = 0.1
    frames_per_batch: int = 768
    accumulate: Annotated[int, msgspec.Meta(ge=1)] = 1
    amp: Literal["none", "bf16"] = "none"
    clip_norm: float = 1.0
    ema: float = 0.99
    dropout: float = 0.2
    attention_dropout: float = 0.0
    head_dropout: float = 0.3
    frames: Annotated[int, msgspec.Meta(ge=1)] | None = None
    persons: Annotated[int, msgspec.Meta(ge=1)] | None = None
    distillation: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    features: FeatureRecipe = FeatureRecipe()
    augmentation: Augmentation = Augmentation()


DEFAULT = Recipe(
    name="default",
    augmentation=Augmentation(
        yaw=30.0, tilt=8.0, scale=0.1, crop=0.7, speed=0.25, noise=0.01, jitter=0.003, mirror=0.5, swap=0.5, lose_joints=0.02
    ),
)

# Paper, section 4.2 and eq. 8; weight decay, smoothing and head dropout from the authors' code.
PAPER = Recipe(
    name="paper",
    epochs=100,
    optimizer="adam",
    schedule="noam",
    lr=1.0,
    betas=(0.9, 0.98),
    eps=1e-9,
    weight_decay=4e-5,
    frames_per_batch=12_800,
    clip_norm=0.0,
    ema=0.0,
    dropout=0.5,
    attention_dropout=0.5,
    features=FeatureRecipe(centre="none"),
)

# What quantisation-aware training changes in the recipe its model was trained with: a few epochs, with smaller steps, and nothing
# rounded but what INT8 rounds. Dropout, averaging and augmentation stay, because the few clips are known by heart already.
QAT: dict[str, Any] = {"name": "qat", "epochs": 8, "schedule": "cosine", "lr": 1e-3, "warmup_epochs": 1.0, "amp": "none"}

# What fine-tuning changes in the recipe its model was trained with: a quarter of the default recipe's steps, and a short warm-up.
FINE_TUNING: dict[str, Any] = {"name": "fine-tuning", "epochs": 20, "schedule": "cosine", "lr": 5e-4, "warmup_epochs": 1.0}

RECIPES = {recipe.name: recipe for recipe in (DEFAULT, PAPER)}


def get_recipe(name_or_path: str, model: str = "star-64", **overrides: Any) -> Recipe:
    """A named recipe or one from a JSON file (missing fields as in ``default``), with fields that are not None replaced.

    What ``model`` is registered to be trained with comes before a named recipe and before what a file does not say.
    """
    own = registered(model).recipe
    if name_or_path in RECIPES:
        recipe = msgspec.structs.replace(RECIPES[name_or_path], **own)
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise InputError(
                f"unknown recipe '{name_or_path}'",
                expected=f"one of {', '.join(RECIPES)}, or a JSON file with fields of Recipe",
            )
        try:
            given = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
            recipe = msgspec.convert(
                {**msgspec.to_builtins(msgspec.structs.replace(DEFAULT, **own)), "name": path.stem, **given}, Recipe
            )
        except JSON_ERRORS as error:
            raise InputError(f"cannot read the recipe: {error}", where=path) from None
    return _replaced(recipe, overrides)


def continued_recipe(
    model: str, trained: Mapping[str, Any], features: FeatureRecipe, changes: Mapping[str, Any], **overrides: Any
) -> Recipe:
    """The recipe of training that goes on from a model's weights.

    Args:
        model: its registered name.
        trained: the recipe in its checkpoint; what is not recorded there is as in ``default`` for that model.
        features: those of its checkpoint.
        changes: ``QAT`` or ``FINE_TUNING``.
        overrides: fields to replace, unless None.
    """
    known = {field: trained[field] for field in Recipe.__struct_fields__ if field in trained}
    try:
        recipe = msgspec.convert({**msgspec.to_builtins(get_recipe("default", model)), **known, **changes}, Recipe)
    except msgspec.ValidationError as error:
        raise InputError(f"the checkpoint's recipe has a wrong field: {error}") from None
    return _replaced(recipe, {"features": features, **overrides})


def _replaced(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    return msgspec.structs.replace(recipe, **{key: value for key, value in overrides.items() if value is not None})
