"""STEP-CATFormer: CTR-GCN, then attention across body parts and across frames (github.com/maclong01/STEP-CATFormer).

The authors' class ``Model_lst_4part``, whose ten matrices of V * 4 * dim rows and columns, 6400 for ntu25, are 98 % of it: a
model to compress. N counts persons of all clips, T frames, V joints, D = 4 * dim channels.

The authors premultiply joints by I - A^8, A the tree from parent to child. No joint of ntu25 lies eight bones below their root:
it is the identity, and left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.errors import InputError
from star_edge.models.blocks import GROWTH, blocks, draw
from star_edge.models.config import PaddedConfig
from star_edge.models.ctr_gcn import block_of
from star_edge.models.limbs import Division, arms_and_rest, layout_of, rest_and_legs, upper_and_lower
from star_edge.models.padded import LayerNorm, PaddedModel, softmax

_HEADS = 8
# blocks that the fusion tokens come from: every which of their frames, and their width against dim
_TAPPED = {0: (4, 1), 4: (2, 2), 7: (1, 4), 9: (1, 4)}
_LINES_OF_TEXT = 5  # of an action: on the whole of it, and on what head, hands, hips and feet do
_TEXT = 512  # width of CLIP's embedding


class StepCatFormer(PaddedModel):
    """CTR-GCN's ten blocks, then part and time transformers; its input's statistics are per person.

    What only the authors' loss reads is in :class:`TrainingHeads`. ``dim`` is a multiple of eight, and the skeleton a named one:
    arms and legs are told by the joints' names.
    """

    def __init__(self, config: PaddedConfig) -> None:
        width = 4 * config.dim
        super().__init__(config, width=width, together=True)
        layout = layout_of(config)
        if config.growth not in ((), GROWTH):
            raise InputError(
                "STEP-CATFormer reads blocks by their number",
                found=f"{len(config.growth)} blocks",
                expected="the authors' ten",
            )
        self.blocks = blocks(config, block_of(config))
        self.fusion = nn.ModuleList(_fusion(growth * config.dim, width, stride) for stride, growth in _TAPPED.values())
        self.fuse = nn.Conv2d(width, width, 1)
        self.embedding = nn.Linear(width, width)
        self.positions = nn.Parameter(torch.randn(config.joints, width))
        self.arms = PartAttention(width, arms_and_rest(layout), mixed=False)
        self.legs = PartAttention(width, rest_and_legs(layout), mixed=False)
        self.limbs = PartAttention(width, upper_and_lower(layout), mixed=True)
        self.halves = PartAttention(width, upper_and_lower(layout), mixed=True)
        self.time = nn.ModuleList(TimeTransformer(width, config.joints) for _ in range(2))
        flat = width * config.joints
        self.mlp = nn.Sequential(
            LayerNorm(flat),
            nn.Linear(flat, flat),
            nn.GELU(),
            LayerNorm(flat),
            nn.Linear(flat, flat),
            nn.GELU(),
            LayerNorm(flat),
        )
        self.training_heads = TrainingHeads(width, config.classes)
        nn.init.normal_(self.output.weight, std=math.sqrt(2 / config.classes))

    def encode(self, x: Tensor) -> Tensor:
        """x [N, C, T, V] -> [N, D, ceil(T / 4), V]."""
        x, fused = self.backbone(x)
        joints = self.embedding(x.permute(0, 2, 3, 1)) + self.positions
        arms, legs = self.arms(joints, joints), self.legs(joints, joints)
        first = self.time[0](arms, legs, fused)
        # limbs and halves take joints by their place, though arms and legs have brought them into another order: as the authors do
        arms = self.limbs(arms, legs)
        legs = self.halves(legs, arms)
        y = first + self.time[1](arms, legs, fused)
        y = y.permute(0, 2, 3, 1)
        mixed: Tensor = self.mlp(y.flatten(2)).view(y.shape)
        return mixed.permute(0, 3, 1, 2)

    def backbone(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """CTR-GCN's output [N, D, T', V], and the fusion tokens [N, D, T', 4]: the joints' mean at four depths."""
        means: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in _TAPPED:
                means.append(self.fusion[len(means)](x).mean(3, keepdim=True))
        return x, self.fuse(torch.cat(means, 3))


class TrainingHeads(nn.Module):
    """What the authors' loss alone reads, here so that the model is theirs, parameter for parameter; inference leaves it out.

    A second classifier of the backbone, and embeddings of the whole body, head, hands, hips and feet, which the loss draws towards
    those of a text on each.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.output = nn.Linear(width, classes)
        self.text = nn.ModuleList(nn.Linear(width, _TEXT) for _ in range(_LINES_OF_TEXT))
        self.scale = nn.Parameter(torch.full((1, _LINES_OF_TEXT), math.log(1 / 0.07)))
        nn.init.normal_(self.output.weight, std=math.sqrt(2 / classes))


class PartAttention(nn.Module):
    """Two body parts each attend within and exchange tokens; all joints are then mixed: [N, T, V, D] -> [N, T, V', D].

    The upper part is D / 4 wide, the lower 3 D / 4. V' holds the lower part's joints, then the upper part's.

    Args:
        width: D.
        division: joints of the upper and the lower part; the first of each is the one that is exchanged.
        mixed: whether a part's keys come from the second input, its queries and values from the first; otherwise the upper part
            is the first's and the lower part the second's.
    """

    upper_joints: Tensor
    lower_joints: Tensor

    def __init__(self, width: int, division: Division, mixed: bool) -> None:
        super().__init__()
        upper, lower = width // 4, width - width // 4
        for name, joints in zip(("upper_joints", "lower_joints"), division, strict=True):
            self.register_buffer(name, torch.tensor(joints), persistent=False)
        self.mixed = mixed
        self.reduce_upper = nn.ModuleList(nn.Linear(width, upper) for _ in range(1 + mixed))
        self.reduce_lower = nn.ModuleList(nn.Linear(width, lower) for _ in range(1 + mixed))
        self.attend_upper, self.attend_lower = JointTransformer(upper), JointTransformer(lower)
        self.exchange_upper, self.exchange_lower = Exchange(upper, lower), Exchange(lower, upper)
        self.widen_upper = nn.Sequential(LayerNorm(upper), nn.Linear(upper, width))
        self.widen_lower = nn.Sequential(LayerNorm(lower), nn.Linear(lower, width))
        flat = width * sum(map(len, division))
        self.mix = nn.Sequential(LayerNorm(flat), *_feed_forward(flat, flat))
        for layer in (*self.reduce_upper, *self.reduce_lower):
            draw(layer, std=math.sqrt(2 / layer.out_features))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        upper = self._part(self.reduce_upper, self.attend_upper, first, second if self.mixed else first, self.upper_joints)
        lower = self._part(self.reduce_lower, self.attend_lower, first if self.mixed else second, second, self.lower_joints)
        upper, lower = self.exchange_upper(upper, lower), self.exchange_lower(lower, upper)
        x = torch.cat([self.widen_lower(lower), self.widen_upper(upper)], 2)
        mixed: Tensor = x + self.mix(x.flatten(2)).view(x.shape)
        return mixed

    def _part(self, reduce: nn.ModuleList, attend: nn.Module, values: Tensor, keys: Tensor, joints: Tensor) -> Tensor:
        values = reduce[0](values.index_select(2, joints))
        attended: Tensor = attend(values, reduce[1](keys.index_select(2, joints)) if self.mixed else values)
        return attended


class JointTransformer(nn.Module):
    """Joints of a frame attend to each other: x, which asks and answers, and keys [N, T, J, E] -> [N, T, J, E]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_queries, self.norm_keys, self.norm_values = LayerNorm(width), LayerNorm(width), LayerNorm(width)
        self.attention = Attention(width)
        self.feed_forward = nn.Sequential(LayerNorm(width), *_feed_forward(width, 4 * width))

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        x = x + self.attention(self.norm_queries(x), self.norm_keys(keys), self.norm_values(x))
        fed: Tensor = x + self.feed_forward(x)
        return fed


class Exchange(nn.Module):
    """A part's first token attends to the other part's other tokens, in their width: own [N, T, J, E], other [N, T, J', E'].

    Returns own with that token replaced.
    """

    def __init__(self, own: int, other: int) -> None:
        super().__init__()
        self.towards, self.back = nn.Linear(own, other), nn.Linear(other, own)
        self.norm, self.attention = LayerNorm(other), Attention(other)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        token = self.towards(own[..., :1, :])
        seen = self.norm(torch.cat([token, other[..., 1:, :]], 2))
        token = self.back(token + self.attention(seen[..., :1, :], seen, seen))
        return torch.cat([token, own[..., 1:, :]], 2)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(E / 8)) v in eight heads, and a linear map: [N, T, Q, E], [N, T, J, E] twice -> [N, T, Q, E]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.project = nn.Linear(width, width)
        self.scale = (width // _HEADS) ** -0.5
        for layer in (self.queries, self.keys, self.values, self.project):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / width))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = _heads(self.queries(queries)), _heads(self.keys(keys)), _heads(self.values(values))
        gathered = softmax(q @ k.transpose(-1, -2) * self.scale) @ v
        projected: Tensor = self.project(gathered.transpose(2, 3).flatten(3))
        return projected


class TimeTransformer(nn.Module):
    """Frames attend to each other: x, which asks and answers, and keys [N, T, V, D], fused [N, D, T, 4] -> [N, D, T, V].

    The fusion tokens and the joints' mean stand beside the joints; in the end each joint takes a learned share of all five.
    """

    def __init__(self, width: int, joints: int) -> None:
        super().__init__()
        self.norm_queries, self.norm_keys, self.norm_values = LayerNorm(width), LayerNorm(width), LayerNorm(width)
        self.attention = FrameAttention(width)
        self.norm = LayerNorm(width)
        self.feed_forward = GatedFeedForward(width)
        self.share = nn.Parameter(torch.zeros(len(_TAPPED) + 1, joints))
        self.transform = nn.Sequential(nn.BatchNorm2d(width), nn.GELU(), nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor, keys: Tensor, fused: Tensor) -> Tensor:
        joints = x.shape[2]
        fused = fused.permute(0, 2, 3, 1)
        x = torch.cat([x, fused, x.mean(2, keepdim=True)], 2)
        keys = torch.cat([keys, fused, keys.mean(2, keepdim=True)], 2)
        normed = (self.norm_queries(x), self.norm_keys(keys), self.norm_values(x))
        x = x.permute(0, 3, 1, 2) + self.attention(*(each.permute(0, 3, 1, 2) for each in normed))
        x = x + self.feed_forward(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        transformed: Tensor = self.transform(x[..., :joints] + x[..., joints:] @ self.share)
        return transformed


class FrameAttention(nn.Module):
    """Attention over frames whose tokens are all joints' channels in eight heads: three times [N, D, T, J] -> [N, D, T, J].

    Queries and keys see their neighbours in time and place, and are brought to length one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries, self.keys = (
            nn.Sequential(
                nn.Conv2d(width, width, 1, bias=False), nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
            )
            for _ in range(2)
        )
        self.values = DilatedValues(width)
        self.temperature = nn.Parameter(torch.ones(_HEADS, 1, 1))
        self.project = nn.Conv2d(width, width, 1, bias=False)
        _draw_convolutions([*self.queries, *self.keys, self.project])

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = self._tokens(self.queries(queries)), self._tokens(self.keys(keys)), self._tokens(self.values(values))
        gathered = softmax(_unit(q) @ _unit(k).transpose(-1, -2) * self.temperature) @ v  # [N, 8, T, J * D / 8]
        gathered = gathered.transpose(1, 2).flatten(2).unflatten(2, (values.shape[3], -1))
        projected: Tensor = self.project(gathered.permute(0, 3, 1, 2))
        return projected

    @staticmethod
    def _tokens(x: Tensor) -> Tensor:
        """[N, D, T, J] -> [N, 8, T, J * D / 8]; a token runs through the channels of one joint after the other."""
        return x.permute(0, 2, 3, 1).flatten(2).unflatten(2, (_HEADS, -1)).transpose(1, 2)


class DilatedValues(nn.Module):
    """x [N, D, T, J] plus four branches that share the channels, each after a 1x1 convolution, all but the last after a ReLU.

    Seven frames of each channel, dilated by 2 and by 3; a maximum of three frames; nothing.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = width // 4
        self.narrow = narrow
        self.reduce = nn.ModuleList(nn.Conv2d(width, narrow, 1, bias=biased) for biased in (False, False, True, True))
        self.norm = nn.BatchNorm2d(3 * narrow)
        self.dilated = nn.ModuleList(
            nn.Conv2d(narrow, narrow, (7, 1), padding=(3 * dilation, 0), dilation=(dilation, 1), groups=narrow, bias=False)
            for dilation in (2, 3)
        )
        self.maximum = nn.MaxPool2d((3, 1), stride=1, padding=(1, 0))
        nn.init.normal_(self.norm.weight, mean=1, std=0.02)
        _draw_convolutions([*self.reduce, *self.dilated])

    def forward(self, x: Tensor) -> Tensor:
        *parts, point = (reduce(x) for reduce in self.reduce)
        *parts, last = F.relu(self.norm(torch.cat(parts, 1))).split(self.narrow, 1)
        branches = [convolution(part) for convolution, part in zip(self.dilated, parts, strict=True)]
        return x + torch.cat([*branches, self.maximum(last), point], 1)


class GatedFeedForward(nn.Module):
    """One half of 8 D channels, by GELU, gates the other, both seeing their neighbours: x [N, D, T, J] -> [N, D, T, J]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 8 * width
        self.widen = nn.Conv2d(width, wide, 1, bias=False)
        self.neighbours = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
        self.project = nn.Conv2d(wide // 2, width, 1, bias=False)
        _draw_convolutions([self.widen, self.neighbours, self.project])

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.neighbours(self.widen(x)).chunk(2, 1)
        projected: Tensor = self.project(F.gelu(gate) * value)
        return projected


def _fusion(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 1, stride=(stride, 1)), nn.BatchNorm2d(after))


def _feed_forward(width: int, hidden: int) -> nn.Sequential:
    first, second = nn.Linear(width, hidden), nn.Linear(hidden, width)
    nn.init.normal_(first.weight, std=math.sqrt(2 / hidden))
    nn.init.normal_(second.weight, std=math.sqrt(2 / width))
    return nn.Sequential(first, nn.GELU(), second)


def _draw_convolutions(layers: Iterable[nn.Conv2d]) -> None:
    """He's, by the outputs that an input reaches were there no groups: as the authors do."""
    for layer in layers:
        draw(layer, std=math.sqrt(2 / (layer.out_channels * math.prod(layer.kernel_size))))


def _heads(x: Tensor) -> Tensor:
    """[N, T, J, E] -> [N, T, 8, J, E / 8]."""
    return x.unflatten(3, (_HEADS, -1)).transpose(2, 3)


def _unit(x: Tensor) -> Tensor:
    """Brought to length one along the last axis, in float32 whatever the rest computes in."""
    return F.normalize(x.float(), dim=-1).to(x.dtype)
