"""Folders of Kinetics-skeleton clips: classes from the clips, the published parts, and a stratified val."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from runtime.errors import InputError
from star_edge.cli import cli
from star_edge.data import Dataset, convert, open_dataset
from star_edge.data.sources import DESCRIPTION_FILE, DESCRIPTION_SCHEMA, FolderDescription

CLASSES = {0: "abseiling", 2: "yoga"}


def write(folder: Path, name: str, number: Any = 0, seed: int = 0, frames: int = 3, **changes: Any) -> None:
    rng = np.random.default_rng(seed)
    bodies = [{"pose": rng.uniform(0.1, 0.9, 36).round(3).tolist(), "score": rng.uniform(0.2, 1, 18).round(3).tolist()}]
    content = {"data": [{"frame_index": i + 1, "skeleton": bodies} for i in range(frames)], "label": CLASSES.get(number, "x"),
               "label_index": number} | changes  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(20):
        for label in CLASSES:
            part = "kinetics_val" if i >= 15 else "kinetics_train"
            write(tmp_path / "kinetics" / part, f"clip_{label}_{i}", label, i * 10 + label)
    (tmp_path / "kinetics" / "kinetics_train_label.json").write_text("{}")
    return tmp_path / "kinetics"


def test_classes_survive_an_interruption(tmp_path: Path, folder: Path) -> None:
    """They stand in the clips alone, and those of the first run are not read again."""
    write(folder / "kinetics_train", "another_name", 0, label="swimming")

    def track(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 25:
                raise KeyboardInterrupt
            yield item

    whole = convert(folder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "out", track=track)
    assert convert(folder, tmp_path / "out") == whole
    assert "class has two names" in {entry.reason for entry in whole.skipped}


def parts(dataset: Dataset) -> dict[str, set[int]]:
    names = {part: dataset.names[dataset.indices(None, part)] for part in ("train", "val", "test")}
    return {part: {int(str(name).split("_")[2]) for name in found} for part, found in names.items()}


def test_classes_and_published_parts(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert (dataset.meta.name, dataset.meta.skeleton.name, dataset.meta.fps) == ("kinetics_skeleton", "openpose18", 30.0)
    assert dataset.meta.class_names == ("abseiling", "class 1", "yoga")
    assert dataset.meta.skipped == ()
    assert [dataset.labels[i] for i in range(40)] == [int(str(name).split("_")[1]) for name in dataset.names]
    assert list(dataset.meta.splits) == ["kinetics"]
    assert parts(dataset) == {"train": set(range(13)), "val": {13, 14}, "test": set(range(15, 20))}


def test_a_folder_without_parts_is_stratified(folder: Path) -> None:
    dataset = open_dataset(folder / "kinetics_train")
    assert list(dataset.meta.splits) == ["stratified"]
    assert (dataset.meta.name, dataset.meta.fps) == ("kinetics_train", None)
    assert parts(dataset) == {"train": set(range(9)), "val": {9, 10}, "test": set(range(11, 15))}


def test_the_same_for_any_number_of_workers(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("star_edge.data.sources.workers._FILES_PER_WORKER", 10)
    one, two = (convert(folder, tmp_path / str(workers), workers=workers) for workers in (1, 2))
    assert one == two


def test_bad_clips_are_named(folder: Path, tmp_path: Path) -> None:
    train = folder / "kinetics_train"
    write(train, "zz_none", None)
    write(train, "zz_far", 10**6)
    write(train, "zz_other_name", 0, label="climbing")
    write(train, "zz_nobody", 0, data=[{"frame_index": 1, "skeleton": []}])
    (train / "zz_cut.json").write_text('{"data": [')
    write(folder / "kinetics_val", "clip_0_0", 0)
    meta = convert(folder, tmp_path / "out")
    assert {entry.file: entry.reason for entry in meta.skipped} == {
        "kinetics_val/clip_0_0.json": "two clips of one name",
        "zz_none": "label without a class name",
        "zz_far": "label without a class name",
        "zz_other_name": "class has two names",
        "zz_nobody": "no body in any frame",
        "zz_cut": "cannot read the JSON clip",
    }
    assert meta.class_names == ("abseiling", "class 1", "yoga")


def test_description_gives_the_classes(folder: Path, tmp_path: Path) -> None:
    description = FolderDescription(DESCRIPTION_SCHEMA, "mine", "free", ("a", "b"), 15.0)
    (folder / DESCRIPTION_FILE).write_bytes(msgspec.json.encode(description))
    meta = convert(folder, tmp_path / "out")
    assert (meta.name, meta.terms, meta.class_names, meta.fps, meta.clips) == ("mine", "free", ("a", "b"), 15.0, 20)


def test_json_files_that_are_no_clips(tmp_path: Path) -> None:
    (tmp_path / "some.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="no usable recording"):
        open_dataset(tmp_path)


def test_command_line(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli, ["data", "convert", str(folder), str(tmp_path / "out"), "--to-skeleton", "coco17", "--json"]
    )
    assert done.exit_code == 0, done.output
    report = msgspec.json.decode(done.stdout)
    assert (report["clips"], report["skeleton"], report["default_split"]) == (40, "coco17", "kinetics")
