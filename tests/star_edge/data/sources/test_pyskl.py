"""PYSKL pickles as data sets: layouts, classes, subjects, splits, and what is left out."""

from __future__ import annotations

import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from runtime.errors import InputError
from star_edge.cli import cli
from star_edge.data import convert, open_dataset
from star_edge.data.report import describe
from star_edge.data.sources import DESCRIPTION_FILE, DESCRIPTION_SCHEMA, FolderDescription
from star_edge.data.splits import NTU60_TRAIN_SUBJECTS


def clip(name: str, label: int = 0, joints: int = 17, coordinates: int = 2, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    fields = {
        "frame_dir": name,
        "label": label,
        "img_shape": (480, 640),
        "original_shape": (480, 640),
        "total_frames": 5,
        "keypoint": rng.uniform(1, 400, size=(1, 5, joints, coordinates)).astype(np.float16),
    }
    if coordinates == 2:
        fields["keypoint_score"] = rng.uniform(0.1, 1, size=(1, 5, joints)).astype(np.float16)
    return fields | changes


def write(path: Path, annotations: list[Any], split: dict[str, list[str]] | None = None) -> Path:
    path.write_bytes(pickle.dumps({"split": split or {}, "annotations": annotations}, 4))
    return path


def names_of(dataset: Any, scheme: str, part: str) -> set[str]:
    return {str(name) for name in dataset.names[dataset.indices(scheme, part)]}


def ntu_clips(coordinates: int = 3) -> list[dict[str, Any]]:
    return [
        clip(f"S001C00{camera}P{person:03}R001A{action:03}", action - 1, 25 if coordinates == 3 else 17, coordinates)
        for person in range(1, 11)
        for camera in (1, 2, 3)
        for action in (1, 7)
    ]


def test_ntu_names_give_subjects_classes_and_val_of_whole_performers(tmp_path: Path) -> None:
    clips = ntu_clips()
    names = [entry["frame_dir"] for entry in clips]
    lists = {
        "xsub_train": [name for name in names if int(name[9:12]) in NTU60_TRAIN_SUBJECTS],
        "xsub_val": [name for name in names if int(name[9:12]) not in NTU60_TRAIN_SUBJECTS],
        "xview_train": [name for name in names if name[5:8] != "001"],
        "xview_val": [name for name in names if name[5:8] == "001"],
    }
    dataset = open_dataset(write(tmp_path / "ntu60_3danno.pkl", clips, lists))
    assert (dataset.meta.name, dataset.meta.skeleton.name, dataset.meta.fps) == ("ntu60_3danno", "ntu25", 30.0)
    assert "ROSE Lab" in dataset.meta.terms
    assert list(dataset.meta.splits) == ["xsub", "xview"]
    assert (dataset.meta.class_names[0], dataset.meta.class_names[6]) == ("drink water", "throw")
    assert set(dataset.subjects.tolist()) == set(range(1, 11))
    for scheme in ("xsub", "xview"):
        split = dataset.meta.splits[scheme]
        assert split.val_subjects
        assert "15 % of the training subjects" in split.description
        held = names_of(dataset, scheme, "val")
        assert {int(name[9:12]) for name in held} == set(split.val_subjects)
        assert held | names_of(dataset, scheme, "train") == set(lists[f"{scheme}_train"])
        assert names_of(dataset, scheme, "test") == set(lists[f"{scheme}_val"])
    np.testing.assert_array_equal(dataset.clip(0).joints, clips[0]["keypoint"][0].astype(np.float32))


def test_other_names_have_no_subject_and_val_by_class(tmp_path: Path) -> None:
    clips = [clip(f"v_{label}_{i}", label) for label in range(3) for i in range(20)]
    train = [entry["frame_dir"] for entry in clips if int(entry["frame_dir"].split("_")[2]) < 14]
    test = [entry["frame_dir"] for entry in clips if entry["frame_dir"] not in train]
    path = write(tmp_path / "gym.pkl", clips, {"train1": train, "test1": test, "train2": test, "test2": train[:10]})
    dataset = open_dataset(path)
    assert list(dataset.meta.splits) == ["split1", "split2"]
    assert dataset.meta.class_names == ("class 0", "class 1", "class 2")
    assert set(dataset.subjects.tolist()) == {0}
    assert describe(dataset).subjects == ()
    assert dataset.meta.splits["split1"].description.startswith("PYSKL's lists train1 and test1; ")
    assert names_of(dataset, "split1", "val") == {f"v_{label}_{i}" for label in range(3) for i in (12, 13)}
    assert names_of(dataset, "split1", "test") == set(test)
    assert "the last 15 % by name" in dataset.meta.splits["split1"].description
    assert dataset.meta.splits["split2"].unused == 42 - 10
    np.testing.assert_array_equal(open_dataset(path).assignment("split1"), dataset.assignment("split1"))


def test_three_lists_are_what_they_are_called(tmp_path: Path) -> None:
    clips = [clip(f"c{i}") for i in range(6)]
    lists = {"train": ["c0", "c1"], "val": ["c2"], "test": ["c3", "c4"]}
    dataset = open_dataset(write(tmp_path / "x.pkl", clips, lists))
    assert list(dataset.meta.splits) == ["pyskl"]
    assert [names_of(dataset, "pyskl", part) for part in lists] == [set(names) for names in lists.values()]


def test_without_lists_the_split_is_stratified(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clips = [clip(f"c{i}", i % 2) for i in range(40)]
    dataset = open_dataset(write(tmp_path / "x.pkl", clips, {"everything": ["c0"]}))
    assert list(dataset.meta.splits) == ["stratified"]
    assert "everything" in caplog.text
    test = dataset.labels[dataset.indices(None, "test")]
    assert np.bincount(test).tolist() == [5, 5]


def test_a_clip_in_two_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="share clips"):
        open_dataset(write(tmp_path / "x.pkl", [clip("a")], {"x_train": ["a", "b"], "x_val": ["a"]}))


def test_bad_annotations_are_left_out_or_fatal(tmp_path: Path) -> None:
    bad = [clip("frames", total_frames=9), clip("twice"), clip("joints", joints=18), "text", clip("many", 10**6)]
    path = write(tmp_path / "x.pkl", [clip("good"), clip("twice"), *bad])
    meta = convert(path, tmp_path / "out")
    assert meta.clips == 2
    assert {entry.file: entry.reason for entry in meta.skipped} == {
        "annotation 5": "annotation is no dict",
        "annotation 6": "annotation without a class",
        "twice": "two clips of one name",
        "frames": "array 'keypoint' does not fit the frames",
        "joints": "skeleton layout does not fit the recordings",
    }
    with pytest.raises(InputError) as caught:
        convert(path, tmp_path / "other", on_error="fail")
    assert str(caught.value.where).startswith(str(path))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("joints", "coordinates"), [(18, 2), (17, 3), (25, 2), (20, 3)])
def test_other_layouts_have_to_be_named(tmp_path: Path, joints: int, coordinates: int) -> None:
    path = write(tmp_path / "x.pkl", [clip("a", 0, joints, coordinates)])
    with pytest.raises(InputError, match="cannot tell the skeleton layout") as caught:
        open_dataset(path)
    assert "--skeleton" in str(caught.value.hint)


def test_named_layouts(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path / "x.pkl", [clip("a", 0, 18, 2)]), skeleton="openpose18")
    assert dataset.meta.skeleton.name == "openpose18"
    with pytest.raises(InputError, match="no usable recording"):
        open_dataset(tmp_path / "x.pkl", skeleton="kinect20")


def test_description_beside_the_file(tmp_path: Path) -> None:
    description = FolderDescription(DESCRIPTION_SCHEMA, "mine", "free", ("wave", "kick"), 25.0)
    (tmp_path / DESCRIPTION_FILE).write_bytes(msgspec.json.encode(description))
    meta = convert(write(tmp_path / "x.pkl", [clip("a", 1), clip("b", 2)]), tmp_path / "out")
    assert (meta.name, meta.terms, meta.class_names, meta.fps, meta.clips) == ("mine", "free", ("wave", "kick"), 25.0, 1)
    assert [entry.reason for entry in meta.skipped] == ["label without a class name"]


class Trap:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_command_line(tmp_path: Path) -> None:
    path = write(tmp_path / "hrnet.pkl", ntu_clips(2), {})
    done = CliRunner().invoke(
        cli, ["data", "convert", str(path), str(tmp_path / "out"), "--to-skeleton", "openpose18", "--json"]
    )
    assert done.exit_code == 0, done.output
    report = msgspec.json.decode(done.stdout)
    assert (report["skeleton"], report["clips"], report["name"]) == ("openpose18", 60, "hrnet")
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps({"annotations": [Trap(tmp_path / "ran")]}, 4))
    done = CliRunner().invoke(cli, ["data", "convert", str(tmp_path / "trap.pkl"), str(tmp_path / "trapped")])
    assert isinstance(done.exception, InputError) or done.exit_code == 2
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "trapped").exists()
