"""Folders of NW-UCLA clips: names, duplicates, the published splits, and the real set written as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from runtime.errors import InputError
from star_edge.cli import cli
from star_edge.data import Dataset, convert, open_dataset
from star_edge.data.sources.nw_ucla import ACTIONS


def write(folder: Path, name: str, seed: int = 0, label: int | None = None, frames: int = 3) -> None:
    joints = np.random.default_rng(seed).normal(size=(frames, 20, 3)).round(4)
    content: dict[str, Any] = {"file_name": name, "skeletons": joints.tolist()}
    content["label"] = list(ACTIONS).index(int(name[1:3])) + 1 if label is None else label
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three actions of four subjects in three views; those of action 2 are the same in views 2 and 3."""
    for action in (1, 2, 12):
        for subject in (1, 2, 3, 9):
            for view in (1, 2, 3):
                seed = action * 1000 + subject * 10 + (2 if action == 2 and view == 3 else view)
                write(tmp_path / "all_sqe", f"a{action:02}_s{subject:02}_e00_v{view:02}", seed)
    return tmp_path / "all_sqe"


def test_names_say_class_subject_and_view(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert (dataset.meta.name, dataset.meta.skeleton.name, len(dataset)) == ("nw_ucla", "kinect20", 36)
    assert dataset.meta.class_names[9] == "carry"
    for name, label, subject in zip(dataset.names, dataset.labels, dataset.subjects, strict=True):
        assert (label, subject) == ({1: 0, 2: 1, 12: 9}[int(name[1:3])], int(name[5:7]))
    assert {str(name)[5:7] for name in dataset.names[dataset.indices("xsub", "test")]} == {"09"}


def test_repeated_clips_do_not_test_cross_view(folder: Path) -> None:
    dataset = open_dataset(folder)
    test = {str(name) for name in dataset.names[dataset.indices("xview", "test")]}
    assert test == {f"a{action:02}_s{subject:02}_e00_v03" for action in (1, 12) for subject in (1, 2, 3, 9)}
    assert dataset.meta.splits["xview"].unused == 4


def test_a_repeat_of_a_clip_that_was_left_out_tests(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "out", skip=["a02_s01_e00_v02"])
    dataset = Dataset.open(tmp_path / "out")
    assert "a02_s01_e00_v03" in dataset.names[dataset.indices("xview", "test")]


def test_the_same_for_any_number_of_workers(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("star_edge.data.sources.workers._FILES_PER_WORKER", 10)
    one, two = (convert(folder, tmp_path / str(workers), workers=workers) for workers in (1, 2))
    assert one == two


def test_bad_files_are_named(folder: Path, tmp_path: Path) -> None:
    write(folder, "a07_s01_e00_v01", label=1)
    write(folder, "a01_s01_e05_v01", label=4)
    write(folder, "holiday_a01", label=1)
    write(folder / "copy", "a01_s01_e00_v01")
    (folder / "a01_s01_e06_v01.json").write_text('{"skeletons": [[[0, 0')
    write(folder, "a11_s01_e00_v01", label=9)
    write(folder, "a11_s02_e00_v01", label=11)
    meta = convert(folder, tmp_path / "out")
    assert {entry.file: entry.reason for entry in meta.skipped} == {
        "a07_s01_e00_v01.json": "action number without a class name",
        "holiday_a01.json": "file name does not say action, subject, repetition and view",
        "copy/a01_s01_e00_v01.json": "two clips of one name",
        "a01_s01_e05_v01": "label does not fit the file name",
        "a01_s01_e06_v01": "cannot read the JSON clip",
    }
    assert meta.clips == 38
    with pytest.raises(InputError, match="does not fit"):
        open_dataset(folder, skeleton="ntu25")


def test_command_line(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["data", "convert", str(folder), str(tmp_path / "out"), "--split", "xview", "--json"])
    assert done.exit_code == 0, done.output
    report = msgspec.json.decode(done.stdout)
    assert (report["clips"], report["default_split"], report["skeleton"]) == (36, "xview", "kinect20")


def test_the_real_set_written_as_json(real_data: Path, tmp_path: Path) -> None:
    """A quarter of the set, all views of a repetition together: the clips, classes and splits of the .npz file."""
    path = real_data / "nw_ucla.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name} among the real recordings")
    with np.load(path) as archive:
        whole = {name: archive[name] for name in archive.files}
    starts = np.concatenate([[0], np.cumsum(whole["lengths"])])
    chosen = [i for i, name in enumerate(whole["names"]) if name[9:11] in ("00", "01")]
    source = tmp_path / "all_sqe"
    source.mkdir()
    for i in chosen:
        joints = whole["xyz"][starts[i] : starts[i + 1]].astype(float).tolist()
        content = {"file_name": str(whole["names"][i]), "skeletons": joints, "label": int(whole["labels"][i]) + 1}
        (source / f"{whole['names'][i]}.json").write_bytes(msgspec.json.encode(content))
    dataset, expected = open_dataset(source), open_dataset(path)
    assert dataset.meta.class_names == expected.meta.class_names
    rows = {str(name): i for i, name in enumerate(expected.names)}
    repeated = {str(name) for name, other in zip(whole["names"], whole["duplicate_of"], strict=True) if other >= 0}
    assert len(dataset) == len(chosen)
    assert repeated & set(map(str, dataset.names))
    for i, name in enumerate(map(str, dataset.names)):
        row = rows[name]
        np.testing.assert_array_equal(dataset.clip(i).joints, expected.clip(row).joints)
        assert (dataset.labels[i], dataset.subjects[i]) == (expected.labels[row], expected.subjects[row])
        for scheme in ("xsub", "xview"):
            assert dataset.assignment(scheme)[i] == expected.assignment(scheme)[row]
