"""Folders of .npy clips, one sub-folder a class."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from runtime.errors import InputError
from star_edge.cli import cli
from star_edge.data import convert, open_dataset
from star_edge.data.sources import DESCRIPTION_FILE, DESCRIPTION_SCHEMA, FolderDescription


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, name in enumerate(("kick", "wave")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(12):
            joints = np.random.default_rng(label * 100 + i).normal(size=(4, 15, 3))
            np.save(tmp_path / "mine" / name / f"clip_{i}.npy", joints)
    return tmp_path / "mine"


def test_classes_are_sub_folders(folder: Path) -> None:
    dataset = open_dataset(folder, skeleton="nite15")
    assert (dataset.meta.name, dataset.meta.class_names, dataset.meta.skeleton.name) == ("mine", ("kick", "wave"), "nite15")
    assert np.bincount(dataset.labels).tolist() == [12, 12]
    assert set(dataset.subjects.tolist()) == {0}
    names = {part: {str(name) for name in dataset.names[dataset.indices(None, part)]} for part in ("train", "val", "test")}
    assert names["test"] == {f"{name}/clip_{i}" for name in ("kick", "wave") for i in (9, 10, 11)}
    assert names["val"] == {f"{name}/clip_{i}" for name in ("kick", "wave") for i in (8,)}
    first = dataset.names.tolist().index("wave/clip_3")
    np.testing.assert_array_equal(dataset.clip(first).joints, np.load(folder / "wave" / "clip_3.npy").astype(np.float32))


def test_the_layout_has_to_be_named(folder: Path) -> None:
    with pytest.raises(InputError, match="cannot tell the skeleton layout") as caught:
        open_dataset(folder)
    assert "--skeleton" in str(caught.value.hint)


def test_bad_files_are_named(folder: Path, tmp_path: Path) -> None:
    np.save(folder / "stray.npy", np.ones((2, 15, 3)))
    (folder / "wave" / "deeper").mkdir()
    np.save(folder / "wave" / "deeper" / "x.npy", np.ones((2, 15, 3)))
    np.save(folder / "wave" / "joints.npy", np.ones((2, 14, 3)))
    np.save(folder / "wave" / "nan.npy", np.full((2, 15, 3), np.nan))
    np.save(folder / "wave" / "objects.npy", np.array([None]), allow_pickle=True)
    (folder / "wave" / "cut.npy").write_bytes((folder / "wave" / "clip_0.npy").read_bytes()[:-9])
    meta = convert(folder, tmp_path / "out", skeleton="nite15")
    assert {entry.file: entry.reason for entry in meta.skipped} == {
        "stray.npy": "file is in no folder of a class",
        "wave/deeper/x.npy": "file is in no folder of a class",
        "wave/joints": "wrong joint count",
        "wave/nan": "joints hold NaN or infinity",
        "wave/objects": "cannot read the .npy file",
        "wave/cut": "cannot read the .npy file",
    }


def test_description_names_the_classes(folder: Path, tmp_path: Path) -> None:
    description = FolderDescription(DESCRIPTION_SCHEMA, "gestures", "free", ("wave", "bow"))
    (folder / DESCRIPTION_FILE).write_bytes(msgspec.json.encode(description))
    meta = convert(folder, tmp_path / "out", skeleton="nite15")
    assert (meta.name, meta.class_names, meta.clips, len(meta.skipped)) == ("gestures", ("wave", "bow"), 12, 12)


def test_a_dataset_folder_is_no_recording(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "out", skeleton="nite15")
    with pytest.raises(InputError, match="dataset folder already"):
        convert(tmp_path / "out", tmp_path / "again", skeleton="nite15")


def test_a_folder_of_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    with pytest.raises(InputError, match="no recordings here") as caught:
        open_dataset(tmp_path)
    assert ".pkl" in str(caught.value.expected)


def test_command_line(folder: Path, tmp_path: Path) -> None:
    arguments = [
        "data",
        "convert",
        str(folder),
        str(tmp_path / "out"),
        "--skeleton",
        "nite15",
        "--to-skeleton",
        "kinect20",
        "--json",
    ]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    report = msgspec.json.decode(done.stdout)
    assert (report["clips"], report["skeleton"], report["default_split"]) == (24, "kinect20", "stratified")
