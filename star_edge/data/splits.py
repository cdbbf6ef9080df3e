"""Which clips train, choose and test: the published splits, with a validation part of whole subjects where these are known.

An assignment is int8 [N]: TRAIN, VAL, TEST, or UNUSED for a clip the scheme leaves out. Validation clips are always taken
out of the training part, never out of the test part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TRAIN, VAL, TEST, UNUSED = 0, 1, 2, -1
PARTS = {"train": TRAIN, "val": VAL, "test": TEST}
SCHEME_NAME = re.compile(r"[A-Za-z0-9_-]+")

# Shahroudy et al. 2016, cross-subject
NTU60_TRAIN_SUBJECTS = (1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38)
# Liu et al. 2019, cross-subject
NTU120_TRAIN_SUBJECTS = (
    *NTU60_TRAIN_SUBJECTS, 45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91,
    92, 93, 94, 95, 97, 98, 100, 103)  # fmt: skip
NTU60_ACTIONS, NTU120_ACTIONS = 60, 120
NTU60_SETUPS = 17

VAL_SHARE, TEST_SHARE = 0.15, 0.25
_FEWEST_TO_SHARE = 3  # clips of a class; fewer all train
_VAL_RULE = "val: 15 % of the training subjects, evenly spaced by number"


@dataclass(frozen=True)
class Split:
    """One scheme: int8 [N] assignment, what it is in words, and the subjects whose training clips became val."""

    assignment: np.ndarray
    description: str
    val_subjects: tuple[int, ...] = ()


def choose_val_subjects(train_subjects: np.ndarray) -> tuple[int, ...]:
    """Subjects to hold out of training: 15 % of them, at least one, evenly spaced by number; none if only one trains."""
    subjects = np.unique(train_subjects)
    if len(subjects) < 2:
        return ()
    count = max(1, round(VAL_SHARE * len(subjects)))
    positions = ((np.arange(count) + 0.5) * len(subjects) / count).astype(int)
    return tuple(int(subject) for subject in subjects[positions])


def by_subjects(subjects: np.ndarray, train: np.ndarray, test: np.ndarray, description: str) -> Split:
    """A split from masks [N] of training and test clips; val is whole subjects out of the training clips."""
    held_out = choose_val_subjects(subjects[train])
    assignment = np.full(len(subjects), UNUSED, dtype=np.int8)
    assignment[test] = TEST
    assignment[train] = np.where(np.isin(subjects[train], held_out), VAL, TRAIN)
    rule = _VAL_RULE if held_out else "no val: a single training subject" if train.any() else "no training clips"
    return Split(assignment, f"{description}; {rule}", held_out)


def is_ntu60(actions: np.ndarray, setups: np.ndarray) -> bool:
    """NTU-60 is actions 1 to 60 in set-ups 1 to 17; anything beyond is NTU-120."""
    return bool((actions <= NTU60_ACTIONS).all() and (setups <= NTU60_SETUPS).all())


def ntu_splits(setups: np.ndarray, cameras: np.ndarray, performers: np.ndarray, *, sixty: bool) -> dict[str, Split]:
    """Cross-subject, cross-view and cross-set-up splits of NTU RGB+D 60 (``sixty``) or 120; arrays int [N], 1-based."""
    training = np.isin(performers, NTU60_TRAIN_SUBJECTS if sixty else NTU120_TRAIN_SUBJECTS)
    name, count = ("NTU-60", len(NTU60_TRAIN_SUBJECTS)) if sixty else ("NTU-120", len(NTU120_TRAIN_SUBJECTS))
    views, even = np.isin(cameras, (2, 3)), setups % 2 == 0
    return {
        "xsub": by_subjects(performers, training, ~training, f"{name} cross-subject: the {count} official performers train"),
        "xview": by_subjects(performers, views, ~views, "cross-view: cameras 2 and 3 train, camera 1 tests"),
        "xset": by_subjects(performers, even, ~even, "cross-set-up: even set-ups train, odd ones test"),
    }


def nw_ucla_splits(subjects: np.ndarray, views: np.ndarray, duplicate_of: np.ndarray) -> dict[str, Split]:
    """Northwestern-UCLA: cross-subject, and cross-view without the test clips whose coordinates are in the training half."""
    test = np.isin(subjects, (8, 9, 10))
    view3 = views == 3
    return {
        "xsub": by_subjects(subjects, ~test, test, "cross-subject: subjects 8, 9, 10 test"),
        "xview": by_subjects(
            subjects,
            ~view3,
            view3 & (duplicate_of < 0),
            "cross-view: views 1 and 2 train, view 3 tests; its clips that repeat a view-2 clip (duplicate_of >= 0) left out",
        ),
    }


def msr_action3d_splits(subjects: np.ndarray, valid: np.ndarray) -> dict[str, Split]:
    """MSR Action3D: the usual cross-subject split of the clips with a usable skeleton."""
    odd, usable = subjects % 2 == 1, valid == 1
    description = "cross-subject: odd subjects train, even ones test; only the clips marked valid"
    return {"xsub": by_subjects(subjects, odd & usable, ~odd & usable, description)}


def sbu_splits(subjects: np.ndarray, subjects2: np.ndarray, folds: np.ndarray) -> dict[str, Split]:
    """SBU Kinect Interaction: the usual five folds, and a split in which no person of the test part trains."""
    count = int(folds.max()) + 1
    splits = {}
    for fold in range(count):
        val_fold = (fold + 1) % count
        assignment = np.where(folds == fold, TEST, np.where(folds == val_fold, VAL, TRAIN)).astype(np.int8)
        description = (
            f"fold {fold} of {count} tests; val: fold {val_fold}, because the same people return in several folds "
            "and whole subjects cannot be taken out"
        )
        splits[f"fold{fold}"] = Split(assignment, description)
    testers = np.isin(subjects, (1, 7)).astype(int) + np.isin(subjects2, (1, 7))
    held_out = choose_val_subjects(np.concatenate([subjects[testers == 0], subjects2[testers == 0]]))
    holds_val = np.isin(subjects, held_out) | np.isin(subjects2, held_out)
    assignment = np.where(testers == 2, TEST, np.where(testers == 1, UNUSED, np.where(holds_val, VAL, TRAIN))).astype(np.int8)
    splits["persons"] = Split(
        assignment,
        "person-disjoint: both persons 1 or 7 test, neither trains, mixed pairs left out; val: every pair with the val subject",
        held_out,
    )
    return splits


def generic_splits(subjects: np.ndarray) -> dict[str, Split]:
    """Cross-subject for a set without a published split: the last third of the subjects tests."""
    order = np.unique(subjects)
    test = np.isin(subjects, order[len(order) - len(order) // 3 :])
    return {"xsub": by_subjects(subjects, ~test, test, "cross-subject: the last third of the subjects tests")}


def hold_out(names: Sequence[str], labels: np.ndarray, among: np.ndarray, share: float) -> np.ndarray:
    """Mask [N] of ``share`` of the clips of each class: the last by name among those of mask ``among``.

    The last, not ones picked at random: clips whose names follow each other are often cut from one video or made in one session,
    and most of these stay together so. Numbers in names count as numbers. At least one clip of a class with three or more.
    """
    held = np.zeros(len(labels), dtype=bool)
    order = sorted(np.flatnonzero(among).tolist(), key=lambda clip: (_natural(names[clip]), names[clip]))
    ordered = np.array(order, dtype=np.int64)
    for label in np.unique(labels[among]):
        clips = ordered[labels[ordered] == label]
        count = max(1, round(share * len(clips))) if len(clips) >= _FEWEST_TO_SHARE else 0
        held[clips[len(clips) - count :]] = True
    return held


def by_class(names: Sequence[str], labels: np.ndarray, train: np.ndarray, test: np.ndarray, description: str) -> Split:
    """A split from masks [N] of training and test clips without subjects; val is 15 % of the training clips of each class."""
    val = hold_out(names, labels, train, VAL_SHARE)
    assignment = np.full(len(labels), UNUSED, dtype=np.int8)
    assignment[test], assignment[train], assignment[val] = TEST, TRAIN, VAL
    rule = "val: the last 15 % by name of the training clips of each class" if val.any() else "no val: too few training clips"
    return Split(assignment, f"{description}; {rule}")


def stratified_splits(names: Sequence[str], labels: np.ndarray) -> dict[str, Split]:
    """For a set without subjects and without a published split: the last quarter by name of each class tests."""
    test = hold_out(names, labels, np.ones(len(labels), dtype=bool), TEST_SHARE)
    return {"stratified": by_class(names, labels, ~test, test, "stratified: the last quarter by name of each class tests")}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which clip_9 comes before clip_10."""
    parts = re.split(r"([0-9]+)", name)
    return [(len(part.lstrip("0")), part.lstrip("0")) if i % 2 else (0, part) for i, part in enumerate(parts)]
