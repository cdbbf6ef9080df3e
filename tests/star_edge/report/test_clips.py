"""Which clips are played, from where, and by which rule."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.clip import Clip
from runtime.errors import InputError, MismatchError
from runtime.packed_clips import clips_to_bytes
from star_edge.report import make_page
from star_edge.report.clips import Pool, choose, open_pool
from star_edge.report.sources import Sources


def pool_of(count: int) -> Pool:
    joints = np.ones((20, 15, 3), dtype=np.float32)
    return Pool([f"clip {i}" for i in range(count)], [0] * count, lambda i: Clip(joints, (20,), f"clip {i}"), "clips")


def test_sure_unsure_wrong_and_two_persons_in_turn(reported, by_hand):
    predictions = by_hand.predictions(Bundle.open(reported))
    # right: 0, 1, 3, 4, 5, 6 (two persons); wrong: 2, 7
    shown, rule = choose(pool_of(8), predictions, "fp32", 4)
    assert [(entry.clip.name, entry.why) for entry in shown] == [
        ("clip 0", "right and sure"), ("clip 6", "right but unsure"), ("clip 2", "wrong"), ("clip 4", "right and sure")
    ]  # fmt: skip
    assert "in turn" in rule
    assert len(choose(pool_of(8), predictions, "fp32", 50)[0]) == 8
    # int8 is right on clip 7 and wrong on clip 4
    assert [entry.clip.name for entry in choose(pool_of(8), predictions, "int8", 3)[0]] == ["clip 0", "clip 7", "clip 4"]


def test_clips_that_are_over_at_once_are_shown_only_where_there_are_no_others(reported, by_hand):
    predictions = by_hand.predictions(Bundle.open(reported), rows=(3, *[50] * 7))
    assert choose(pool_of(8), predictions, "fp32", 1)[0][0].clip.name == "clip 4"
    short = msgspec.structs.replace(predictions, rows=(3,) * 8)
    assert choose(pool_of(8), short, "fp32", 1)[0][0].clip.name == "clip 0"


def test_without_answers_clips_are_spread_evenly():
    shown, rule = choose(pool_of(9), None, "fp32", 3)
    assert [entry.clip.name for entry in shown] == ["clip 0", "clip 4", "clip 8"]
    assert {entry.why for entry in shown} == {""}
    assert "star-edge verify" in rule
    assert len(choose(pool_of(2), None, "fp32", 5)[0]) == 2


def test_answers_about_other_clips_choose_nothing(reported, by_hand):
    predictions = by_hand.predictions(Bundle.open(reported), clips=tuple(f"other {i}" for i in range(8)))
    assert "evenly" in choose(pool_of(8), predictions, "fp32", 3)[1]


def test_recorded_clips_come_with_their_terms(reported, recorded):
    pool = open_pool(Sources.of(Bundle.open(reported)), recorded)
    assert (pool.what, pool.terms, pool.fps, pool.note) == ("test clips of hand, split own", "ask the owner", 15.0, "")
    made = make_page([reported], data=recorded, clips=3)
    page = Path(made.made).read_text(encoding="utf-8")
    assert made.clips == ("clip 0", "clip 6", "clip 2")
    assert "Terms of these recordings: ask the owner" in page
    assert "Played at the 15 frames a second of the recording" in " ".join(page.split())


def test_clips_packed_with_the_bundle_stand_in(reported, by_hand):
    packed = clips_to_bytes(
        [by_hand.clip(0, 20, 1), by_hand.clip(6, 20, 2)], np.array([0, 2]), Bundle.open(reported).class_names
    )
    (reported / "clips.npz").write_bytes(packed)
    pool = open_pool(Sources.of(Bundle.open(reported)), None)
    assert pool.what == "test clips packed with the bundle"
    assert "The recorded clips are not shown" in pool.note
    assert make_page([reported]).clips == ("clip 0", "clip 6")


def test_golden_clips_are_called_generated(reported):
    pool = open_pool(Sources.of(Bundle.open(reported)), None)
    assert "generated and no recordings" in pool.what
    assert pool.labels == [None, None]
    assert pool.clip(1).person_lengths == (5, 3)


def test_data_that_was_named_must_fit(reported, recorded, tmp_path):
    with pytest.raises(InputError):
        make_page([reported], data=tmp_path / "nothing")
    meta = recorded / "meta.json"
    meta.write_bytes(meta.read_bytes().replace(b'"wave"', b'"wink"'))
    with pytest.raises(MismatchError, match="other classes"):
        make_page([reported], data=recorded)
    assert not (reported / "reports" / "report.html").exists()
