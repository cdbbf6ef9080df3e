"""Really narrower layers: hidden channels that masks remove, taken out of both layers around an activation.

Exact for linear layers alone. A convolution over frames is no second layer: what a constant channel gives it is not constant, because
it meets zeros beyond the clip's ends. What a graph, a product or a shift reads is no middle either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from runtime.errors import InputError
from star_edge.compression.low_rank import replace_module
from star_edge.compression.masks import Masks, Scope, largest

# names of a layer and its only reader, siblings with an ``activation`` between them: the FFN's and the head's of STAR, and what
# weighs channels in AAGCN
NAMES = (("linear1", "linear2"), ("hidden", "output"), ("squeeze", "channels"))
_ELEMENTWISE = (nn.GELU, nn.ReLU, nn.SiLU)


@dataclass(frozen=True)
class Pair:
    """Paths of second(activation(first(x))), of which nothing else reads the middle."""

    first: str
    second: str
    activation: str


def pairs(model: nn.Module) -> dict[str, Pair]:
    """Path of each first layer of a pair -> the pair: siblings of known names, or neighbours in a sequence."""
    found = {}
    for path, parent in model.named_modules():
        prefix = f"{path}." if path else ""
        for first, activation, second in _triples(parent):
            linear = all(isinstance(getattr(parent, name, None), nn.Linear) for name in (first, second))
            if linear and isinstance(getattr(parent, activation, None), _ELEMENTWISE):
                found[prefix + first] = Pair(prefix + first, prefix + second, prefix + activation)
    return found


def _triples(parent: nn.Module) -> Iterable[tuple[str, str, str]]:
    """Names of children that may be a layer, an activation, and its only reader."""
    if isinstance(parent, nn.Sequential):
        names = [name for name, _ in parent.named_children()]
        return zip(names, names[1:], names[2:], strict=False)
    return ((first, "activation", second) for first, second in NAMES)


def strongest(model: nn.Module, sparsity: float, scope: Scope = "global") -> Masks:
    """Masks of whole hidden channels, [out, in] of each first layer that loses some, for :func:`shrink`; the strongest stay.

    A channel is as strong as the norms of the weights into and out of it, multiplied, against the mean of its pair: in a wider
    layer all of them are smaller.

    Args:
        sparsity: share of the channels to remove.
        scope: whether all channels are ranked together, or those of each pair alone.
    """
    layers = {path: _linears(model, pair) for path, pair in pairs(model).items()}
    strengths = {path: _strengths(*pair) for path, pair in layers.items()}
    kept = largest(strengths, sparsity, scope)
    for path, strength in strengths.items():
        kept[path][strength.argsort(stable=True)[-1]] = True  # not argmax: of equal ones the last stays
    return {path: mask[:, None].repeat(1, layers[path][0].in_features) for path, mask in kept.items() if not mask.all()}


def _strengths(first: nn.Linear, second: nn.Linear) -> Tensor:
    norms = first.weight.detach().norm(dim=1) * second.weight.detach().norm(dim=0)
    return norms / norms.mean().clamp(min=torch.finfo(norms.dtype).tiny)


def narrow(model: nn.Module, widths: Mapping[str, int]) -> None:
    """Replace both layers of pairs by fresh ones around so many channels, in place: a narrow model before ``load_state_dict``.

    Args:
        widths: path of a pair's first layer -> channels between the two.
    """
    known = pairs(model)
    for path, width in widths.items():
        first, second = _linears(model, _known(known, path))
        if not 1 <= width <= first.out_features:
            raise InputError(
                "a layer cannot have so many channels", where=path, found=width, expected=f"1 to {first.out_features}"
            )
        replace_module(model, path, _linear(first, first.in_features, width))
        replace_module(model, known[path].second, _linear(second, width, second.out_features))


def shrink(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Take hidden channels whose weights are masked out of the model, in place.

    Exact in eval mode: a channel without weights is a constant, the activation of its bias, and what the second layer makes of it
    goes to that one's bias.

    Args:
        masks: path of a pair's first layer -> mask of whole outputs, [out, in].

    Returns the widths, for :func:`narrow`.
    """
    known = pairs(model)
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
        narrow(model, {path: widths[path]})
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
