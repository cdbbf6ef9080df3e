"""State dicts drawn at random in the layouts that the models' authors publish."""

from __future__ import annotations

import math

import torch

CLASSES = ("wave", "sit", "run", "fall")


class Fake:
    """A state dict drawn at random, layer by layer."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.state: dict[str, torch.Tensor] = {}

    def put(self, name: str, *shape: int, scale: float = 1.0) -> None:
        self.state[name] = scale * torch.randn(shape, generator=self.generator)

    def linear(self, name: str, after: int, before: int, *kernel: int) -> None:
        self.put(f"{name}.weight", after, before, *kernel, scale=1 / math.sqrt(before * math.prod(kernel)))
        self.put(f"{name}.bias", after)

    def norm(self, name: str, channels: int, statistics: bool = True) -> None:
        self.put(f"{name}.weight", channels)
        self.put(f"{name}.bias", channels)
        if statistics:
            self.put(f"{name}.running_mean", channels)
            self.state[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=self.generator)
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(11)


def st_gcn_plus(joints: int = 15, coordinates: int = 3, widths: tuple[int, ...] = (12, 12, 24)) -> dict[str, torch.Tensor]:
    fake = Fake()
    fake.norm("backbone.data_bn", joints * coordinates)
    for i, (before, after) in enumerate(zip((coordinates, *widths[:-1]), widths, strict=True)):
        block, narrow = f"backbone.gcn.{i}", after // 6
        fake.put(f"{block}.gcn.A", 3, joints, joints, scale=0.3)
        fake.linear(f"{block}.gcn.conv", 3 * after, before, 1, 1)
        fake.norm(f"{block}.gcn.bn", after)
        if before != after:
            fake.linear(f"{block}.gcn.down.0", after, before, 1, 1)
            fake.norm(f"{block}.gcn.down.1", after)
            if i > 0:
                fake.linear(f"{block}.residual.conv", after, before, 1, 1)
                fake.norm(f"{block}.residual.bn", after)
        for branch in range(5):
            width = after - 5 * narrow if branch == 0 else narrow
            fake.linear(f"{block}.tcn.branches.{branch}.0", width, after, 1, 1)
            fake.norm(f"{block}.tcn.branches.{branch}.1", width)
            if branch < 4:
                fake.linear(f"{block}.tcn.branches.{branch}.3.conv", width, width, 3, 1)
        fake.linear(f"{block}.tcn.branches.5", narrow, after, 1, 1)
        fake.norm(f"{block}.tcn.transform.0", after)
        fake.linear(f"{block}.tcn.transform.2", after, after, 1, 1)
        fake.norm(f"{block}.tcn.bn", after)
    fake.linear("cls_head.fc_cls", len(CLASSES), widths[-1])
    return fake.state


def shift_gcn(joints: int = 15, widths: tuple[int, ...] = (8, 8, 16), persons: int = 1) -> dict[str, torch.Tensor]:
    fake = Fake()
    fake.norm("data_bn", persons * joints * 3)
    for n, (before, after) in enumerate(zip((3, *widths[:-1]), widths, strict=True), start=1):
        gcn, tcn = f"l{n}.gcn1", f"l{n}.tcn1"
        fake.put(f"{gcn}.Linear_weight", before, after, scale=1 / math.sqrt(before))
        fake.put(f"{gcn}.Linear_bias", 1, 1, after)
        fake.put(f"{gcn}.Feature_Mask", 1, joints, before)
        for name, channels, sign in (("shift_in", before, 1), ("shift_out", after, -1)):
            moves = [
                (j * channels + c + sign * c * channels) % (joints * channels) for j in range(joints) for c in range(channels)
            ]
            fake.state[f"{gcn}.{name}"] = torch.tensor(moves)
            fake.put(f"{tcn}.{name}.xpos", after, scale=1e-10)
            fake.put(f"{tcn}.{name}.ypos", after, scale=3)
        fake.norm(f"{gcn}.bn", joints * after)
        if before != after:
            fake.linear(f"{gcn}.down.0", after, before, 1, 1)
            fake.norm(f"{gcn}.down.1", after)
            if n > 1:
                fake.linear(f"l{n}.residual.conv", after, before, 1, 1)
                fake.norm(f"l{n}.residual.bn", after)
        fake.norm(f"{tcn}.bn", after)
        fake.norm(f"{tcn}.bn2", after)
        fake.linear(f"{tcn}.temporal_linear", after, after, 1, 1)
    fake.linear("fc", len(CLASSES), widths[-1])
    return fake.state


def star(joints: int = 15, channels: int = 9, dim: int = 16, layers: int = 2) -> dict[str, torch.Tensor]:
    fake = Fake()
    fake.norm("dn", joints * channels)
    fake.linear("lls", dim, channels)
    for i in range(layers):
        for branch in ("spatial", "temporal"):
            layer = f"{branch}_layers.{i}"
            fake.put(f"{layer}.lin_qkv.weight", 3 * dim, dim)
            for norm in ("add_norm_att", "add_norm_ffn"):
                fake.norm(f"{layer}.{norm}.ln", dim, statistics=False)
            for linear in (0, 3):
                fake.linear(f"{layer}.ffn.net.{linear}", dim, dim)
    fake.put("context_attention.weights", dim, dim)
    fake.linear("mlp_head.0", 32, joints * dim)
    fake.linear("mlp_head.3", len(CLASSES), 32)
    return fake.state


FILES = {"st-gcn++": st_gcn_plus, "shift-gcn": shift_gcn, "star": star}
