"""Hidden channels: which models have them, which are weakest, and that taking them out changes nothing but the sizes."""

from __future__ import annotations

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from runtime.errors import InputError  # noqa: E402
from star_edge.compression.channels import narrow, pairs, shrink, strongest  # noqa: E402
from star_edge.compression.masks import apply_masks, two_of_four  # noqa: E402
from star_edge.models.aagcn import Attention  # noqa: E402
from star_edge.models.registry import build_model, star_config  # noqa: E402
from star_edge.models.star import Star  # noqa: E402
from star_edge.skeletons import NITE15  # noqa: E402


def star() -> Star:
    torch.manual_seed(0)
    return Star(star_config("star-64", NITE15, 9, 6, layers=2)).eval()


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(11, 15, 9), torch.tensor([0, 4, 11], dtype=torch.int32)


def feed_forward() -> nn.Sequential:
    """As STEP-CATFormer's, then layers that LayerNorm parts."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.LayerNorm(6), nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 6)
    ).eval()


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_shrunk_model_answers_as_the_masked_one_and_is_rebuilt_from_its_widths(scope: str) -> None:
    model = star()
    known = pairs(model)
    assert set(known) == {f"layers.{i}.{branch}.linear1" for i in range(2) for branch in ("spatial", "temporal")} | {
        "head.hidden"
    }
    masks = strongest(model, 0.4, scope)  # type: ignore[arg-type]
    apply_masks(model, masks)
    masked = model(*clips())
    widths = shrink(model, masks)
    removed = 4 * 64 + 128 - sum(widths.values())
    assert removed == (round(0.4 * 384) if scope == "global" else 4 * round(0.4 * 64) + round(0.4 * 128))
    torch.testing.assert_close(model(*clips()), masked, atol=1e-5, rtol=1e-5)
    rebuilt = build_model("star-64", msgspec.structs.replace(model.config, widths=widths)).eval()
    rebuilt.load_state_dict(model.state_dict())
    torch.testing.assert_close(rebuilt(*clips()), model(*clips()), atol=0, rtol=0)


def attention() -> Attention:
    """AAGCN's; at first its last layer is zero."""
    torch.manual_seed(0)
    model = Attention(8, 25).eval()
    nn.init.normal_(model.channels.weight)
    return model


@pytest.mark.parametrize("make", [feed_forward, attention])
def test_neighbours_in_a_sequence_and_squeezed_channels_are_pairs(make) -> None:
    model = make()
    assert list(pairs(model)) == (["1"] if isinstance(model, nn.Sequential) else ["squeeze"])
    masks = strongest(model, 0.5)
    apply_masks(model, masks)
    x = torch.randn(3, 6) if isinstance(model, nn.Sequential) else torch.randn(2, 8, 5, 25)
    masked = model(x)
    assert shrink(model, masks) == {path: len(mask) // 2 for path, mask in masks.items()}
    torch.testing.assert_close(model(x), masked, atol=1e-6, rtol=1e-6)


@settings(deadline=None)
@given(st.integers(0, 2**16), st.floats(0, 1), st.sampled_from(["global", "layer"]))
def test_the_weakest_channels_go_but_each_pair_keeps_one(seed: int, sparsity: float, scope: str) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 5), nn.SiLU(), nn.Linear(5, 2))
    norms = {"0": model[0].weight.norm(dim=1) * model[2].weight.norm(dim=0)}
    norms["2"] = model[2].weight.norm(dim=1) * model[4].weight.norm(dim=0)
    strengths = {path: values / values.mean() for path, values in norms.items()}
    kept = {path: torch.ones(len(values), dtype=torch.bool) for path, values in strengths.items()}
    kept |= {path: mask.all(1) for path, mask in strongest(model, sparsity, scope).items()}  # type: ignore[arg-type]
    assert all(path_kept[strengths[path].argmax()] for path, path_kept in kept.items())
    for paths in [["0", "2"]] if scope == "global" else [["0"], ["2"]]:
        values, stay = torch.cat([strengths[path] for path in paths]), torch.cat([kept[path] for path in paths])
        assert int(stay.sum()) >= len(values) - round(sparsity * len(values))
        others = torch.cat([kept[path] & (strengths[path] < strengths[path].max()) for path in paths])
        if others.any() and not stay.all():
            assert values[others].min() >= values[~stay].max()


def test_only_whole_channels_of_pairs_are_taken_out() -> None:
    model = star()
    with pytest.raises(InputError, match="whole channels"):
        shrink(model, {"head.hidden": two_of_four(model.head.hidden.weight)})
    with pytest.raises(InputError, match="no hidden channels"):
        shrink(model, {"layers.0.spatial.qkv": torch.ones(192, 64, dtype=torch.bool)})
    for width in (0, -1, 129):
        with pytest.raises(InputError, match="so many channels"):
            narrow(model, {"head.hidden": width})
