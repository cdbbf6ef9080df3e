"""Which clips are chosen, and which are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.selection import check_not_held_out, stratified, training_clips
from runtime.bundle import Bundle
from runtime.errors import InputError
from star_edge.data import Dataset


def clips(labels: list[int], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = np.array([f"clip{number:04}" for number in range(len(labels))])
    return names, np.array(labels), rng.integers(1, 300, len(labels))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 5), st.data())
def test_shares_are_equal_and_the_order_given_does_not_matter(labels, count, seed, data):
    names, classes, lengths = clips(labels, seed)
    chosen = stratified(names, classes, lengths, count, seed)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(labels))
    assert list(names[chosen]) == sorted(names[chosen])
    taken = np.bincount(classes[chosen], minlength=5)
    exhausted = taken == np.bincount(classes, minlength=5)
    assert (taken[~exhausted] >= taken.max() - 1).all()  # no class has two more than one that could have given more
    order = np.array(data.draw(st.permutations(range(len(labels)))))
    again = order[stratified(names[order], classes[order], lengths[order], count, seed)]
    assert (again == chosen).all()


def test_every_share_reaches_from_short_to_long():
    names, classes, lengths = clips([0] * 200 + [1] * 100, 0)
    chosen = stratified(names, classes, lengths, 20)
    for label in (0, 1):
        own = np.sort(lengths[classes == label])
        runs = np.array_split(own, 10)
        taken = np.sort(lengths[chosen[classes[chosen] == label]])
        assert all(run[0] <= length <= run[-1] for run, length in zip(runs, taken, strict=True))


def test_the_seed_draws_within_the_runs():
    names, classes, lengths = clips([0, 1] * 100, 0)
    one, two = (stratified(names, classes, lengths, 20, seed) for seed in (0, 1))
    assert one.tolist() != two.tolist()
    assert one.tolist() == stratified(names, classes, lengths, 20, 0).tolist()


def test_a_split_without_training_clips(small_data: Path):
    dataset = Dataset.open(small_data)
    assert len(training_clips(dataset, "xsub")) == 24
    with pytest.raises(InputError, match="no training clips") as caught:
        training_clips(dataset, "test-only")
    assert "--data" in (caught.value.hint or "")
    with pytest.raises(InputError, match="no split 'xview'") as caught:
        training_clips(dataset, "xview")
    assert "--split xsub" in (caught.value.hint or "")


def test_held_out_clips_are_recognised_in_the_recorded_data(small_bundle: Bundle, small_data: Path):
    dataset = Dataset.open(small_data)
    assert check_not_held_out(small_bundle.manifest, dataset, dataset.indices("xsub", "train"))
    for wrong in (dataset.indices("xsub", "test"), dataset.indices("xsub", "val"), dataset.indices("other", "train")):
        with pytest.raises(InputError, match="judged by") as caught:
            check_not_held_out(small_bundle.manifest, dataset, wrong)
        assert "e.g. clip" in (caught.value.found or "")


def test_held_out_clips_are_recognised_by_name_in_other_data(
    small_bundle: Bundle, write_dataset: Callable[..., Path], tmp_path: Path
):
    other = Dataset.open(write_dataset(tmp_path / "other", clips=40, seed=1))
    with pytest.raises(InputError, match="judged by"):
        check_not_held_out(small_bundle.manifest, other, np.arange(40))


def test_val_clips_may_calibrate_a_model_that_was_fitted_to_them(make_bundle: Callable[..., Path], small_data: Path):
    manifest = Bundle.open(make_bundle(fitted=("train", "val"))).manifest
    dataset = Dataset.open(small_data)
    assert check_not_held_out(manifest, dataset, dataset.indices("xsub", "val"))


@pytest.mark.parametrize("source", [{"data": "/nowhere"}, {"data": ""}, {"split": "gone"}])
def test_nothing_to_compare_with_is_told(make_bundle: Callable[..., Path], small_data: Path, source: dict[str, str]):
    manifest = Bundle.open(make_bundle(data_sha256="0" * 64, **source)).manifest
    dataset = Dataset.open(small_data)
    assert not check_not_held_out(manifest, dataset, dataset.indices("xsub", "test"))
