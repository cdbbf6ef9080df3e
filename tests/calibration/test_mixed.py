"""The choice of layers: what goes back to float, in which order, and when it stops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.mixed import choose_layers, kind_of
from calibration.report import Int8Score, LayerSensitivity


def scored(sqnr_db: float | None = 30.0, *, passed: bool = True) -> Int8Score:
    return Int8Score(
        samples=100, top1=0.9, reference_top1=0.9, agreement=1.0, lost=0, gained=0, sqnr_db=sqnr_db, passed=passed
    )


def layers(**sqnr_db: float | None) -> list[LayerSensitivity]:
    return [
        LayerSensitivity(module=module, nodes=(), alone=scored(value), without=scored()) for module, value in sqnr_db.items()
    ]


def test_kinds_are_what_layers_of_one_shape_share():
    assert kind_of("layers.12.spatial.qkv") == "spatial.qkv"
    assert kind_of("head.hidden") == "head.hidden"


def test_a_gate_that_holds_leaves_every_faster_layer():
    stays, returned, score = choose_layers(layers(a=20.0, b=30.0), {"a": 1.0, "b": 1.0}, lambda _: scored())
    assert (stays, returned, score) == (("a", "b"), (), scored())


def test_layers_that_save_no_time_go_first_whatever_they_harm():
    stays, returned, _ = choose_layers(layers(a=10.0, b=90.0, c=None), {"a": 5.0, "b": -2.0, "c": 0.0}, lambda _: scored())
    assert stays == ("a",)
    assert [entry.module for entry in returned] == ["b", "c"]
    assert "saves no time here (-2.0 us)" in returned[0].reason


def test_harm_per_microsecond_decides_who_is_next():
    """b is twice as noisy as a (3 dB) but saves four times as much: a goes first. c makes no noise at all."""
    asked: list[tuple[str, ...]] = []

    def score_of(modules: tuple[str, ...]) -> Int8Score:
        asked.append(modules)
        return scored(passed=modules == ("c",))

    stays, returned, score = choose_layers(layers(a=30.0, b=27.0, c=None), {"a": 1.0, "b": 4.0, "c": 1.0}, score_of)
    assert [entry.module for entry in returned] == ["a", "b"]
    assert asked == [("a", "b", "c"), ("b", "c"), ("c",)]
    assert (stays, score.passed) == (("c",), True)


def test_a_gate_that_never_holds_leaves_nothing():
    stays, returned, score = choose_layers(layers(a=1.0, b=2.0), {"a": 1.0, "b": 1.0}, lambda _: scored(passed=False))
    assert stays == ()
    assert len(returned) == 2
    assert not score.passed


@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.tuples(st.floats(0, 60), st.floats(-5, 5)), min_size=1),
    st.integers(0, 8),
)
def test_every_layer_either_stays_or_is_returned_once(given_layers: dict[str, tuple[float, float]], most: int):
    """Whatever the figures, with a gate that holds for at most ``most`` layers."""
    measured = layers(**{module: noise for module, (noise, _) in given_layers.items()})
    saved = {module: gain for module, (_, gain) in given_layers.items()}
    stays, returned, score = choose_layers(measured, saved, lambda modules: scored(passed=len(modules) <= most))
    assert sorted([*stays, *(entry.module for entry in returned)]) == sorted(given_layers)
    assert len(stays) <= most
    assert score.passed
    assert all(saved[module] > 0 for module in stays)


def test_noise_is_what_harms_not_its_decibel():
    """10 dB less is ten times the noise: five times the saving does not make up for it."""
    _, returned, _ = choose_layers(
        layers(a=30.0, b=20.0), {"a": 1.0, "b": 5.0}, lambda modules: scored(passed=len(modules) < 2)
    )
    assert [entry.module for entry in returned] == ["b"]
    assert returned[0].reason.startswith("the gate is missed on val; 2.0e-03")
    assert float(returned[0].reason.split("; ")[1].split()[0]) == pytest.approx(0.01 / 5)
