"""Splits: the published ones to the clip, val out of train by whole subjects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_edge.data import open_dataset, splits
from star_edge.data.splits import TEST, TRAIN, UNUSED, VAL, Split


def subjects_of(split: Split, subjects: np.ndarray, part: int) -> set[int]:
    return set(subjects[split.assignment == part].tolist())


def test_published_subject_lists() -> None:
    assert len(splits.NTU60_TRAIN_SUBJECTS) == len(set(splits.NTU60_TRAIN_SUBJECTS)) == 20
    assert len(splits.NTU120_TRAIN_SUBJECTS) == len(set(splits.NTU120_TRAIN_SUBJECTS)) == 53
    assert set(splits.NTU60_TRAIN_SUBJECTS) < set(splits.NTU120_TRAIN_SUBJECTS)
    assert max(splits.NTU120_TRAIN_SUBJECTS) <= 106


@pytest.mark.parametrize(("performers", "train"), [(40, 20), (106, 53)])
def test_ntu_cross_subject(performers: int, train: int) -> None:
    performer = np.arange(1, performers + 1)
    one = np.ones_like(performer)
    split = splits.ntu_splits(one, one, performer, sixty=train == 20)["xsub"]
    used = subjects_of(split, performer, TRAIN) | subjects_of(split, performer, VAL)
    assert len(used) == train
    assert set(split.val_subjects) == subjects_of(split, performer, VAL)
    assert len(split.val_subjects) == round(0.15 * train)
    assert f"NTU-{60 if train == 20 else 120}" in split.description


def test_one_late_setup_or_action_makes_it_ntu120() -> None:
    assert splits.is_ntu60(np.array([60]), np.array([17]))
    assert not splits.is_ntu60(np.array([61]), np.array([17]))
    assert not splits.is_ntu60(np.array([60]), np.array([18]))


def test_ntu_views_and_setups() -> None:
    cameras = np.array([1, 2, 3, 1, 2, 3])
    setups = np.array([1, 2, 3, 4, 5, 6])
    performers = np.array([1, 1, 2, 2, 3, 3])
    made = splits.ntu_splits(setups, cameras, performers, sixty=True)
    np.testing.assert_array_equal(made["xview"].assignment == TEST, cameras == 1)
    np.testing.assert_array_equal(made["xset"].assignment == TEST, setups % 2 == 1)
    for split in made.values():
        assert not subjects_of(split, performers, TRAIN) & subjects_of(split, performers, VAL)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 120), min_size=1, max_size=60), st.data())
def test_parts_share_no_subject(numbers: list[int], data: st.DataObject) -> None:
    subjects = np.array(numbers)
    split = splits.generic_splits(subjects)["xsub"]
    parts = [subjects_of(split, subjects, part) for part in (TRAIN, VAL, TEST)]
    assert parts[0] | parts[1] | parts[2] == set(numbers)
    assert sum(map(len, parts)) == len(set(numbers))
    assert parts[0], "somebody trains"
    count = len(set(numbers))
    assert len(parts[2]) == count // 3
    assert (len(parts[1]) > 0) == (count - count // 3 >= 2)
    order = data.draw(st.permutations(range(len(subjects))))
    np.testing.assert_array_equal(splits.generic_splits(subjects[order])["xsub"].assignment, split.assignment[order])


def test_single_training_subject_gives_no_val() -> None:
    split = splits.generic_splits(np.array([4, 4, 4]))["xsub"]
    assert (split.assignment == TRAIN).all()
    assert split.val_subjects == ()
    assert "no val" in split.description


def test_nw_ucla(real_data: Path) -> None:
    dataset = open_dataset(real_data / "nw_ucla.npz")
    assert len(dataset.indices("xsub", "test")) == 445
    assert len(dataset.indices("xsub", "train")) + len(dataset.indices("xsub", "val")) == 1039
    assert set(dataset.subjects[dataset.indices("xsub", "test")].tolist()) == {8, 9, 10}
    assert len(dataset.indices("xview", "test")) == 464 - 95
    assert (dataset.assignment("xview") == UNUSED).sum() == 95
    assert "duplicate_of" in dataset.meta.splits["xview"].description


def test_msr_action3d(real_data: Path) -> None:
    dataset = open_dataset(real_data / "msr_action3d.npz")
    train, val, test = (dataset.indices("xsub", part) for part in ("train", "val", "test"))
    assert (len(train) + len(val), len(test)) == (284, 273)
    assert set(dataset.subjects[test].tolist()) == {2, 4, 6, 8, 10}
    assert len(dataset) + len(dataset.meta.skipped) == 567
    zero_rows = int((~np.load(real_data / "msr_action3d.npz")["xyz"].any(axis=(1, 2))).sum())
    assert (zero_rows, dataset.meta.dropped_rows) == (1113, 1113 - 38)  # one clip, of 38 rows, is nothing but zeros


def test_sbu_folds_and_persons(real_data: Path) -> None:
    dataset = open_dataset(real_data / "sbu_interaction.npz")
    assert dataset.meta.default_split == "fold0"
    assert [len(dataset.indices(f"fold{k}", "test")) for k in range(5)] == [55, 52, 56, 54, 65]
    assert sorted(np.concatenate([dataset.indices(f"fold{k}", "test") for k in range(5)])) == list(range(282))
    for k in range(5):
        np.testing.assert_array_equal(dataset.indices(f"fold{k}", "val"), dataset.indices(f"fold{(k + 1) % 5}", "test"))
    pairs = np.array([[int(name[1:3]), int(name[4:6])] for name in dataset.names.tolist()])
    people = {part: set(pairs[dataset.indices("persons", part)].ravel().tolist()) for part in ("train", "val", "test")}
    assert people["test"] == {1, 7}
    assert not people["train"] & {1, 7}
    assert not people["train"] & set(dataset.meta.splits["persons"].val_subjects)
    assert len(dataset.indices("persons", "test")) == 28
    assert len(dataset.indices("persons", "train")) + len(dataset.indices("persons", "val")) == 181
    assert (dataset.person_lengths[:, 0] == dataset.person_lengths[:, 1]).all()


def test_held_out_are_the_last_by_name_of_each_class() -> None:
    names = [f"clip_{i}" for i in range(20)] + ["a", "b", "c", "d", "e"]
    labels = np.array([0] * 20 + [1] * 3 + [2] * 2)
    among = np.ones(25, dtype=bool)
    among[19] = False
    held = splits.hold_out(names, labels, among, 0.15)
    assert [names[i] for i in np.flatnonzero(held)] == ["clip_16", "clip_17", "clip_18", "c"]
    order = np.random.default_rng(0).permutation(25)
    shuffled = splits.hold_out([names[i] for i in order], labels[order], among[order], 0.15)
    np.testing.assert_array_equal(shuffled, held[order])


@settings(deadline=None)
@given(st.lists(st.tuples(st.text("a01._", max_size=5), st.integers(0, 3)), min_size=1, max_size=40, unique=True))
def test_stratified_parts_hold_every_clip_once(clips: list[tuple[str, int]]) -> None:
    labels = np.array([label for _, label in clips])
    split = splits.stratified_splits([name for name, _ in clips], labels)["stratified"]
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        parts = np.bincount(split.assignment[labels == label], minlength=3)
        assert parts[splits.TRAIN] >= 1
        assert parts.sum() == count
        assert (parts[splits.TEST] > 0) == (count >= 3)
        assert ("no val" in split.description) == (not (split.assignment == splits.VAL).any())
