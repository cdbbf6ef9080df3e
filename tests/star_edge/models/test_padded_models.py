"""Every padded model: the authors' parameter count, odd clips, other skeletons, half weights, and the exported graph."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from padded_checks import (  # noqa: E402
    assert_exports,
    assert_takes_odd_clips,
    assert_works_in_half,
    config,
    packed,
    settled,
    shifted,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # noqa: E402

from runtime.skeleton import Skeleton  # noqa: E402
from star_edge.models.config import PaddedConfig  # noqa: E402
from star_edge.models.padded import PaddedModel  # noqa: E402
from star_edge.models.registry import MODELS, build_model  # noqa: E402
from star_edge.skeletons import COCO17, KINECT20, NITE15, NTU25  # noqa: E402

PADDED = [name for name, entry in MODELS.items() if entry.padded]
# of 60 classes: the authors', and how many of theirs ours is without
PARAMETERS = {
    "st-gcn": (3_098_832, 0),
    "st-gcn++": (1_403_144, 0),
    # by which the authors' channels could move over joints: one a channel, before and after the convolution of each of ten blocks
    "shift-gcn": (693_107, 2 * (4 * 64 + 3 * 128 + 3 * 256)),
    "ctr-gcn": (1_446_672, 0),
    "step-catformer": (417_977_435, 0),
    "aagcn": (3_781_668, 0),
    # alpha and beta have an entry per group in each of the authors' ten blocks, of which their configuration reads the first
    "dg-stgcn": (1_701_172, 10 * 2 * (8 - 1)),
    "hyperformer": (2_729_194, 0),
    # a BatchNorm that nothing reads; together also one of two biases of the logits' sum
    "s-tr": (3_075_338, 2 * 256),
    "t-tr": (1_768_870, 2 * 256),
    "st-tr": (3_075_338 + 1_768_870, 2 * 2 * 256 + 60),
}
STREAMS = {"st-tr": 2}  # whose outputs stand side by side, where there is more than one
ONE_WIDTH = ("hyperformer",)  # of all blocks
AUTHORS_DIM = {"hyperformer": 216}  # where it is not 64
LEAST_DIM = {"hyperformer": 24}


def small(name: str, skeleton: Skeleton, frames: int = 13, dim: int = 8) -> PaddedConfig:
    """A small config, of ``dim`` where the model can be so narrow."""
    return config(skeleton, frames, max(dim, LEAST_DIM.get(name, 0)))


def made(name: str, shape: PaddedConfig) -> PaddedModel:
    """A model in eval mode with random weights and statistics, and shifts of all signs where there are any."""
    model = build_model(name, shape)
    assert isinstance(model, PaddedModel)
    return shifted(settled(model))


@pytest.mark.parametrize("name", PADDED)
def test_parameter_counts_are_the_authors(name: str) -> None:
    published, without = PARAMETERS[name]
    counts = {}
    for classes in (60, 120):
        with torch.device("meta"):
            model = build_model(name, config(NTU25, dim=AUTHORS_DIM.get(name, 64), classes=classes))
        counts[classes] = sum(parameter.numel() for parameter in model.parameters())
    assert counts[60] == published - without
    width = 216 if name == "hyperformer" else 256 * STREAMS.get(name, 1)
    assert counts[120] - counts[60] == 60 * (width + 1) * (2 if name == "step-catformer" else 1)  # its second classifier


@pytest.mark.parametrize("name", [name for name in PADDED if name != "step-catformer"])
@pytest.mark.parametrize(("frames", "left"), [(1, 1), (2, 1), (13, 4), (64, 16)])
def test_two_blocks_halve_the_frames(name: str, frames: int, left: int) -> None:
    model = build_model(name, small(name, NITE15)).eval()
    assert isinstance(model, PaddedModel)
    width = model.config.dim if name in ONE_WIDTH else 4 * model.config.dim * STREAMS.get(name, 1)
    with torch.no_grad():
        x = model.normalised(torch.randn(3, 2, frames, 15, 3))
        assert model.encode(x).shape == (6, width, left, 15)


@pytest.mark.parametrize("name", PADDED)
def test_odd_clips(name: str) -> None:
    assert_takes_odd_clips(made(name, small(name, NTU25)))


@pytest.mark.parametrize("name", PADDED)
@pytest.mark.parametrize("skeleton", [KINECT20, NITE15, COCO17], ids=lambda skeleton: skeleton.name)
@pytest.mark.parametrize("frames", [1, 6])
def test_other_skeletons_and_lengths(name: str, skeleton: Skeleton, frames: int) -> None:
    model = made(name, small(name, skeleton, frames))
    with torch.no_grad():
        logits = model(*packed(model.config, [[3], [2, 9]]))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", PADDED)
def test_half_weights(name: str) -> None:
    assert_works_in_half(made(name, small(name, NTU25, frames=64)))


@pytest.mark.slow
@pytest.mark.parametrize("name", PADDED)
def test_export(name: str) -> None:
    assert_exports(made(name, small(name, NTU25)), "fp32", 1e-4)


@pytest.mark.slow
def test_export_of_taps_in_half() -> None:
    assert_exports(made("shift-gcn", config(NTU25)), "fp16", 2e-2)


@pytest.mark.parametrize("name", [name for name in PADDED if name != "step-catformer"])
def test_averaged_weights_follow_a_model_in_training(name: str) -> None:
    """What training with EMA does: a copy made at once, updated after each step, and judged in between."""
    torch.manual_seed(0)
    model = build_model(name, small(name, NITE15, dim=12))
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.0))
    features, cu_seqlens = packed(model.config, [(5,), (9, 4)])
    for _ in range(2):
        model.train()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3.0)  # shifts that reach further with each step
        averaged.update_parameters(model)
        model.eval()
        averaged.module.eval()
        with torch.no_grad():
            torch.testing.assert_close(averaged.module(features, cu_seqlens), model(features, cu_seqlens), equal_nan=True)
        averaged.module.train()
