"""The arithmetic of the gates."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_edge.verification.gates import GATES, wilson_interval


@pytest.mark.parametrize(
    ("precision", "samples", "losses", "disagreements"),
    [
        ("fp16", 1, 1, 1),
        ("fp16", 445, 1, 2),
        ("fp16", 999, 1, 4),
        ("fp16", 1000, 1, 5),
        ("fp16", 2000, 2, 10),
        ("fp16", 16487, 16, 82),
        ("int8", 99, 1, 1),
        ("int8", 100, 1, 2),
        ("int8", 200, 2, 4),
        ("int8", 445, 4, 8),
    ],
)
def test_allowed_clips(precision, samples, losses, disagreements):
    gate = GATES[precision]
    assert (gate.allowed_losses(samples), gate.allowed_disagreements(samples)) == (losses, disagreements)


@pytest.mark.parametrize(
    ("lost", "gained", "agreed", "holds"),
    [
        (0, 0, 445, True),
        (4, 0, 441, True),
        (5, 0, 440, False),
        (6, 2, 437, True),  # four net, eight different
        (6, 3, 436, False),  # three net, but nine different
        (0, 0, 436, False),  # wrong both times, differently: an engine that answers at random among wrong classes
    ],
)
def test_int8_gate_on_445_clips(lost, gained, agreed, holds):
    assert GATES["int8"].holds(445, lost, gained, agreed) is holds


def test_no_clips_never_pass():
    assert not GATES["int8"].holds(0, 0, 0, 0)


@settings(deadline=None, max_examples=50)
@given(samples=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_interval_holds_the_share_and_narrows(samples, share):
    successes = round(share * samples)
    low, high = wilson_interval(successes, samples)
    assert 0 <= low <= successes / samples <= high <= 1
    wider = wilson_interval(successes * 4, samples * 4)
    assert wider[1] - wider[0] < high - low


def test_wilson_interval_of_known_cases():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(81, 263)  # Wilson interval of 81 in 263, Newcombe (1998), table I: 0.2553 to 0.3662
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
