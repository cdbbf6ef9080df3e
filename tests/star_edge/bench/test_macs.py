"""MAC counts against the paper's model as it was measured."""

from __future__ import annotations

import pytest

from star_edge.bench.macs import gate_macs, head_macs, linear_macs, macs, padded_macs, spatial_macs, temporal_macs
from star_edge.models.registry import star_config
from star_edge.skeletons import get_skeleton


def config(name: str, **options: object):
    return star_config(name, get_skeleton("ntu25"), 9, 60, **options)


@pytest.mark.parametrize(("name", "millions"), [("star-64", 5.134), ("star-128", 20.49)])
def test_linear_macs_of_a_row(name, millions):
    assert linear_macs(config(name)) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_linear_macs_of_300_rows():
    assert 300 * linear_macs(config("star-64")) / 1e9 == pytest.approx(1.54, abs=0.005)


def test_attention_adds_about_five_percent_and_its_full_form_is_625_of_187_pairs():
    sparse, full = config("star-64"), config("star-64", attention="full")
    attention = spatial_macs(sparse) + temporal_macs(sparse)
    assert attention / linear_macs(sparse) == pytest.approx(0.05, abs=0.005)
    assert spatial_macs(full) * 187 == spatial_macs(sparse) * 625


def test_counts_follow_the_shapes():
    star = config("star-64")
    assert spatial_macs(star) == 5 * 187 * 2 * 64
    assert temporal_macs(star) == 5 * 25 * 8 * (2 * 8 * 8 + 8)
    assert head_macs(star) == 25 * 64 * 64 + 25 * 64 * 128 + 128 * 60


def test_a_batch_is_the_sum_of_its_clips():
    star = config("star-64")
    assert macs(star, [32, 300]) == macs(star, [32]) + macs(star, [300])
    per_row = linear_macs(star) + spatial_macs(star) + temporal_macs(star) + gate_macs(star)
    assert macs(star, [0]) == head_macs(star)
    assert macs(star, [7]) - macs(star, [6]) == per_row


def test_torch_counts_the_same_linear_work():
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from star_edge.models.star import Star

    star = config("star-64")
    model = Star(star).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(20, 25, 9), torch.tensor([0, 20], dtype=torch.int32))
    dense = counter.get_total_flops() // 2  # the packed form: 625 pairs, and U with the column of ones
    expected = 20 * (linear_macs(star) + 5 * 625 * 2 * 64 + 5 * 25 * 8 * (2 * 8 * 9)) + head_macs(star)
    assert dense == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    "fields",
    [
        {"ranks": {"layers.0.spatial.qkv": 5, "layers.3.temporal.linear2": 7, "head.hidden": 11}},
        {"widths": {"layers.0.spatial.linear1": 5, "layers.3.temporal.linear1": 17, "head.hidden": 30}},
        {
            "widths": {"layers.0.spatial.linear1": 9, "head.hidden": 30},
            "ranks": {"layers.0.spatial.linear1": 2, "head.hidden": 3},
        },
    ],
)
def test_macs_of_low_rank_and_of_fewer_channels_are_those_of_what_is_left(fields: dict[str, dict[str, int]]) -> None:
    import msgspec

    torch = pytest.importorskip("torch", reason="torch is not installed")
    from star_edge.compression.ranks import count_applications
    from star_edge.models.registry import build_model

    whole = config("star-64")
    low = msgspec.structs.replace(whole, **fields)
    saved = {}
    for name, shape in (("whole", whole), ("low", low)):
        model = build_model("star-64", shape).eval()
        used = count_applications(model, torch.zeros(30, 25, 9), torch.tensor([0, 30], dtype=torch.int32))
        saved[name] = sum(model.get_parameter(f"{path}.weight").numel() * times for path, times in used.items())
    assert macs(whole, [30]) - macs(low, [30]) == saved["whole"] - saved["low"] > 0


def test_an_ensemble_costs_what_its_experts_do() -> None:
    import msgspec

    pytest.importorskip("torch", reason="torch is not installed")
    from star_edge.models.registry import padded_config

    one = config("star-64")
    assert macs(msgspec.structs.replace(one, experts=3), [30, 5]) == 3 * macs(one, [30, 5])
    padded = padded_config("ctr-gcn", get_skeleton("ntu25"), 4, 5, frames=4, dim=8, growth=(1, 2))
    assert padded_macs("ctr-gcn", msgspec.structs.replace(padded, experts=3)) == 3 * padded_macs("ctr-gcn", padded) > 0
