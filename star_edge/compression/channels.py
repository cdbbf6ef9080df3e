"""Really narrower layers: hidden channels that masks remove, taken out of both layers around an activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from runtime.errors import InputError
from star_edge.compression.low_rank import replace_module

# names of a layer and its only reader, siblings with an ``activation`` between them: the FFN's and the head's of STAR
NAMES = (("linear1", "linear2"), ("hidden", "output"))


@dataclass(frozen=True)
class Pair:
    """Paths of second(activation(first(x))), of which nothing else reads the middle."""

    first: str
    second: str
    activation: str


def pairs(model: nn.Module, names: Sequence[tuple[str, str]] = NAMES) -> dict[str, Pair]:
    """Path of each first layer of a pair -> the pair."""
    found = {}
    for path, parent in model.named_modules():
        children = dict(parent.named_children())
        for first, second in names:
            linear = isinstance(children.get(first), nn.Linear) and isinstance(children.get(second), nn.Linear)
            if linear and "activation" in children:
                prefix = f"{path}." if path else ""
                found[prefix + first] = Pair(prefix + first, prefix + second, f"{prefix}activation")
    return found


def narrow(model: nn.Module, widths: Mapping[str, int], names: Sequence[tuple[str, str]] = NAMES) -> None:
    """Replace both layers of pairs by fresh ones around so many channels, in place: a narrow model before ``load_state_dict``.

    Args:
        widths: path of a pair's first layer -> channels between the two.
    """
    known = pairs(model, names)
    for path, width in widths.items():
        first, second = _linears(model, _known(known, path))
        if not 1 <= width <= first.out_features:
            raise InputError(
                "a layer cannot have so many channels", where=path, found=width, expected=f"1 to {first.out_features}"
            )
        replace_module(model, path, _linear(first, first.in_features, width))
        replace_module(model, known[path].second, _linear(second, width, second.out_features))


def shrink(model: nn.Module, masks: Mapping[str, Tensor], names: Sequence[tuple[str, str]] = NAMES) -> dict[str, int]:
    """Take hidden channels whose weights are masked out of the model, in place.

    Exact in eval mode: a channel without weights is a constant, the activation of its bias, and what the second layer makes of it
    goes to that one's bias.

    Args:
        masks: path of a pair's first layer -> mask of whole outputs, [out, in].

    Returns the widths, for :func:`narrow`.
    """
    known = pairs(model, names)
    widths = {}
    for path, mask in masks.items():
        pair = _known(known, path)
        first, second = _linears(model, pair)
        kept = mask.any(1)
        if not torch.equal(mask, kept[:, None].expand(mask.shape)):
            raise InputError("only whole channels can be taken out", where=path, expected="a mask of the pattern 'channel'")
        if second.bias is None:
            raise InputError("what a masked channel's bias does has no place to go", where=pair.second, expected="a bias")
        widths[path] = int(kept.sum())
        narrow(model, {path: widths[path]}, names)
        _fill(first, second, kept, model.get_submodule(pair.activation), *_linears(model, pair))
    return widths


@torch.no_grad()
def _fill(
    first: nn.Linear, second: nn.Linear, kept: Tensor, activation: nn.Module, narrow1: nn.Linear, narrow2: nn.Linear
) -> None:
    bias = first.bias if first.bias is not None else first.weight.new_zeros(first.out_features)
    narrow1.weight.copy_(first.weight[kept])
    if first.bias is not None:
        narrow1.bias.copy_(bias[kept])
    narrow2.weight.copy_(second.weight[:, kept])
    narrow2.bias.copy_(second.bias + second.weight[:, ~kept] @ activation(bias[~kept]))


def _known(known: Mapping[str, Pair], path: str) -> Pair:
    if path not in known:
        raise InputError(
            "no hidden channels can be taken out here", where=path, expected=f"one of {', '.join(known) or 'none'}"
        )
    return known[path]


def _linears(model: nn.Module, pair: Pair) -> tuple[nn.Linear, nn.Linear]:
    first, second = model.get_submodule(pair.first), model.get_submodule(pair.second)
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    return first, second


def _linear(like: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, like.bias is not None, like.weight.device, like.weight.dtype)
    return linear.train(like.training)
