"""STAR: parameter counts, and the torch model against itself in other packings."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from star_edge.models.dropout import Dropout  # noqa: E402
from star_edge.models.registry import star_config  # noqa: E402
from star_edge.models.star import Star  # noqa: E402
from star_edge.skeletons import NTU25  # noqa: E402


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [("star-64", 60, 426_494), ("star-64", 120, 434_234), ("star-128", 60, 1_262_462), ("star-128", 120, 1_270_202)],
)
def test_parameter_counts_equal_the_authors_model(name: str, classes: int, parameters: int) -> None:
    model = Star(star_config(name, NTU25, 9, classes))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_state_dict_names_are_the_module_paths_of_the_design() -> None:
    names = set(Star(star_config("star-64", NTU25, 9, 60)).state_dict())
    assert {"input_norm.weight", "embedding.weight", "layers.0.temporal.qkv.weight", "layers.4.spatial.norm2.bias",
            "context.weight", "head.hidden.weight", "head.output.bias"} <= names  # fmt: skip
    assert not any("mask" in name for name in names)


def test_full_attention_has_every_pair_and_other_logits() -> None:
    torch.manual_seed(0)
    sparse = Star(star_config("star-64", NTU25, 9, 5)).eval()
    full = Star(star_config("star-64", NTU25, 9, 5, attention="full")).eval()
    full.load_state_dict(sparse.state_dict())
    assert len(full.config.edges) == 625
    features, cu_seqlens = torch.randn(7, 25, 9), torch.tensor([0, 7], dtype=torch.int32)
    assert not torch.allclose(sparse(features, cu_seqlens), full(features, cu_seqlens))


def test_an_empty_clip_has_finite_logits_and_leaves_its_neighbours_alone() -> None:
    torch.manual_seed(0)
    model = Star(star_config("star-64", NTU25, 9, 5)).eval()
    features = torch.randn(9, 25, 9)
    with torch.no_grad():
        full = model(features, torch.tensor([0, 4, 4, 9], dtype=torch.int32))
        without = model(features, torch.tensor([0, 4, 9], dtype=torch.int32))
    assert full.isfinite().all()
    torch.testing.assert_close(full[[0, 2]], without, atol=1e-5, rtol=1e-5)


def test_dropout_drops_the_share_it_says_and_keeps_the_mean() -> None:
    torch.manual_seed(3)
    dropout, ones = Dropout(0.25).train(), torch.ones(200_000)
    out = dropout(ones)
    assert abs((out == 0).double().mean().item() - 0.25) < 0.01
    assert abs(out.mean().item() - 1) < 0.01
    torch.manual_seed(3)
    torch.testing.assert_close(dropout(ones), out, atol=0, rtol=0)
    torch.testing.assert_close(dropout.eval()(ones), ones, atol=0, rtol=0)
