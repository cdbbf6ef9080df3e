"""The dataset folder: what was converted comes back, and damage is named instead of trained on."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InputError, MismatchError
from star_edge.data import Dataset, convert, open_dataset
from star_edge.data.report import describe

LENGTHS = (4, 1, 6, 3, 2, 5)
PERSONS = (1, 1, 2, 1, 1, 1)


def arrays() -> dict[str, np.ndarray]:
    """Six clips of five joints by three subjects; clip 2 has two persons."""
    return {
        "xyz": np.random.default_rng(0).normal(size=(sum(LENGTHS), 5, 3)).astype(np.float32),
        "lengths": np.array(LENGTHS),
        "persons": np.array(PERSONS),
        "labels": np.array([0, 1, 0, 1, 0, 1]),
        "subjects": np.array([1, 1, 2, 2, 3, 3]),
        "class_names": np.array(["nod", "shake"]),
        "names": np.array([f"clip{i}" for i in range(6)]),
        "edges": np.array([[0, 1], [1, 2], [2, 3], [2, 4]]),
    }


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    np.savez(tmp_path / "small.npz", **arrays())
    return tmp_path / "small.npz"


@pytest.fixture
def folder(tmp_path: Path, npz: Path) -> Path:
    convert(npz, tmp_path / "small")
    return tmp_path / "small"


def test_clips_come_back(folder: Path) -> None:
    dataset = Dataset.open(folder)
    xyz = arrays()["xyz"]
    assert len(dataset) == 6
    assert isinstance(dataset.xyz, np.memmap)
    start = 0
    for i, length in enumerate(LENGTHS):
        clip = dataset.clip(i)
        np.testing.assert_array_equal(clip.joints, xyz[start : start + length])
        assert (clip.name, sum(clip.person_lengths), len(clip.person_lengths)) == (f"clip{i}", length, PERSONS[i])
        start += length
    assert dataset.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert dataset.person_lengths[2].tolist() == [3, 3]
    assert dataset.sha256() == dataset.meta.sha256
    for column in (dataset.lengths, dataset.person_lengths, dataset.labels, dataset.subjects):
        assert column.dtype == np.int32


def test_a_clip_is_a_copy(folder: Path) -> None:
    dataset = Dataset.open(folder)
    dataset.clip(0).joints[:] = 7
    assert (dataset.clip(0).joints != 7).all()


def test_parts(folder: Path) -> None:
    dataset = Dataset.open(folder)
    parts = {part: dataset.indices(None, part) for part in ("train", "val", "test")}
    assert {part: set(dataset.subjects[index].tolist()) for part, index in parts.items()} == {
        "train": {1}, "val": {2}, "test": {3}}  # fmt: skip
    assert all(index.dtype == np.int64 for index in parts.values())
    with pytest.raises(InputError, match="no split 'xview'"):
        dataset.indices("xview", "train")
    with pytest.raises(InputError, match="no part 'dev'"):
        dataset.indices("xsub", "dev")
    with pytest.raises(InputError, match="no such clip"):
        dataset.clip(6)


def test_on_the_fly_equals_converted(npz: Path, folder: Path) -> None:
    direct, converted = open_dataset(npz), open_dataset(folder)
    assert direct.meta == converted.meta
    assert (direct.path, converted.path) == (None, folder)
    np.testing.assert_array_equal(direct.xyz, converted.xyz)
    np.testing.assert_array_equal(direct.clip(2).joints, converted.clip(2).joints)


def save(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / f"{name}.npy"
        np.save(path, make(np.load(path, allow_pickle=True)), allow_pickle=True)

    return damage


def edit(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps(meta | changes))

    return damage


def cut(name: str, size: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:size])

    return damage


def set_to(index: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (cut("xyz.npy", 200), "xyz.npy"),
        (cut("xyz.npy", 0), "xyz.npy"),
        (cut("xyz.npy", 20), "xyz.npy"),
        (cut("labels.npy", 130), "labels.npy"),
        (cut("meta.json", 100), "meta.json"),
        (cut("splits/xsub.npy", 3), "xsub.npy"),
        (lambda folder: (folder / "labels.npy").unlink(), "labels.npy"),
        (save("xyz", lambda a: a.astype(np.float64)), "xyz.npy"),
        (save("xyz", lambda a: a[:-1]), "xyz.npy"),
        (save("lengths", lambda a: a.astype(np.int64)), "lengths.npy"),
        (save("lengths", set_to(0, -4)), "lengths.npy"),
        (save("lengths", set_to(0, 5)), "lengths.npy"),
        (save("person_lengths", set_to((2, 0), 4)), "person_lengths.npy"),
        (save("person_lengths", set_to(0, [5, -1])), "person_lengths.npy"),
        (save("labels", set_to(0, 2)), "labels.npy"),
        (save("labels", lambda a: a.astype(object)), "labels.npy"),
        (save("names", lambda a: a.astype("S")), "names.npy"),
        (save("splits/xsub", set_to(0, 3)), "xsub.npy"),
        (edit(clips=7), "lengths.npy"),
        (edit(frames=20), "xyz.npy"),
        (edit(class_names=["nod"]), "labels.npy"),
        (edit(default_split="other"), "meta.json"),
        (edit(splits={"../xsub": {"description": "", "val_subjects": [], "train": 0, "val": 0, "test": 0, "unused": 0}},
              default_split="../xsub"), "meta.json"),
        (edit(clips="six"), "meta.json"),
    ],
)  # fmt: skip
def test_damage_is_named(folder: Path, damage: Callable[[Path], None], where: str) -> None:
    damage(folder)
    with pytest.raises(InputError) as caught:
        Dataset.open(folder)
    assert where in str(caught.value.where)


def test_nan_is_found_when_the_clip_is_read(folder: Path) -> None:
    save("xyz", set_to((4, 2, 1), np.nan))(folder)
    dataset = Dataset.open(folder)
    assert len(dataset.clip(0)) == 4
    with pytest.raises(InputError, match="NaN") as caught:
        dataset.clip(1)
    assert "clip1" in str(caught.value.where)


def test_newer_schema(folder: Path) -> None:
    edit(schema="star-edge/dataset/2")(folder)
    with pytest.raises(MismatchError, match="another schema"):
        Dataset.open(folder)


def test_changed_value_is_found_by_its_hash(folder: Path) -> None:
    assert describe(Dataset.open(folder)).clips == 6
    save("xyz", set_to((0, 0, 0), 0.5))(folder)
    with pytest.raises(MismatchError, match="changed since its conversion"):
        describe(Dataset.open(folder))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_arbitrary_damage_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    base = tmp_path_factory.getbasetemp() / "fuzz"
    if not (base / "good").exists():
        base.mkdir(exist_ok=True)
        np.savez(base / "good.npz", **arrays())
        convert(base / "good.npz", base / "good")
    folder = base / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base / "good", folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    victim = data.draw(st.sampled_from(files))
    content = bytearray(victim.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    victim.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with contextlib.suppress(InputError, MismatchError):
        describe(Dataset.open(folder))


def test_not_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a dataset folder"):
        Dataset.open(tmp_path)
    with pytest.raises(InputError, match="no recordings here"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="no recordings here"):
        open_dataset(tmp_path / "absent")
