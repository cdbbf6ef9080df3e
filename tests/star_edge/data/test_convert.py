"""Conversion: streamed, the same for any number of workers, whole or absent, and every left-out recording named."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import InputError
from runtime.readers.ntu import read_ntu
from star_edge.data import Dataset, convert, open_dataset
from star_edge.data.convert import SKIP_LISTED, read_skip_list
from star_edge.data.generator import generate
from star_edge.data.sources import DESCRIPTION_FILE
from star_edge.skeletons import KINECT20


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty generated files; tests must not change them."""
    folder = tmp_path_factory.mktemp("generated") / "recordings"
    generate(folder, 30, seed=5)
    return folder


@pytest.fixture
def mixed(tmp_path: Path, recordings: Path) -> Path:
    """Good files, and one of each kind that cannot be used."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    files = sorted(recordings.iterdir())
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    good = files[0].read_bytes()
    (folder / "S001C001P001R009A001.skeleton").write_bytes(good[: len(good) // 2])
    (folder / "S001C001P001R009A002.skeleton").write_bytes(b"3\n0\n0\n0\n")
    (folder / "S001C001P001R009A003.skeleton").write_bytes(good.replace(b"\n25\n", b"\n20\n"))
    (folder / "S001C001P001R009A099.skeleton").write_bytes(good)
    (folder / "holiday.skeleton").write_bytes(good)
    return folder


BAD = {
    "S001C001P001R009A001": "file is truncated",
    "S001C001P001R009A002": "no body in any frame",
    "S001C001P001R009A003": "wrong joint count",
    "S001C001P001R009A099.skeleton": "action number without a class name",
    "holiday.skeleton": "file name does not say setup, camera, performer, repetition and action",
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_clips_are_those_of_the_reader(recordings: Path) -> None:
    dataset = open_dataset(recordings)
    assert len(dataset) == 30
    for i in (0, 7, 29):
        recording = read_ntu(recordings / f"{dataset.names[i]}.skeleton")
        clip = dataset.clip(i)
        np.testing.assert_array_equal(clip.joints, recording.clip.joints)
        assert clip.person_lengths == recording.clip.person_lengths
        name = str(dataset.names[i])
        assert dataset.labels[i] == int(name[17:20]) - 1
        assert dataset.subjects[i] == int(name[9:12])
    dropped = [read_ntu(file).clip.dropped for file in recordings.glob("*.skeleton")]
    assert dataset.meta.dropped_rows == sum(dropped) > 0


def test_the_same_bytes_for_any_number_of_workers(tmp_path: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("star_edge.data.sources.workers._FILES_PER_WORKER", 10)
    one, two = tmp_path / "one", tmp_path / "two"
    convert(recordings, one, workers=1)
    convert(recordings, two, workers=2)
    assert contents(one) == contents(two)


def test_every_left_out_file_has_its_reason(tmp_path: Path, mixed: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        meta = convert(mixed, tmp_path / "out")
    assert {entry.file: entry.reason for entry in meta.skipped} == BAD
    assert meta.clips + len(meta.skipped) == len(list(mixed.glob("*.skeleton")))
    details = {entry.file: entry.detail for entry in meta.skipped}
    assert details["S001C001P001R009A003"] == "line 4, found 20 joints, expected 25 joints"
    assert len(caplog.records) == len(BAD)


def test_skip_list(tmp_path: Path, mixed: Path) -> None:
    listed = tmp_path / "skip.txt"
    listed.write_text("# incomplete\nS001C001P001R009A001.skeleton\n\nS001C001P001R009A002  # no body\nS999C001P001R001A001\n")
    names = read_skip_list(listed)
    assert names == {"S001C001P001R009A001", "S001C001P001R009A002", "S999C001P001R001A001"}
    meta = convert(mixed, tmp_path / "out", skip=names)
    reasons = {entry.file: entry.reason for entry in meta.skipped}
    assert reasons["S001C001P001R009A001"] == reasons["S001C001P001R009A002"] == SKIP_LISTED
    assert set(reasons) == set(BAD)
    with pytest.raises(InputError, match="skip list"):
        read_skip_list(tmp_path / "absent.txt")


def test_too_short_recordings(tmp_path: Path, recordings: Path) -> None:
    frames = open_dataset(recordings).person_lengths.max(axis=1)
    limit = int(np.median(frames))
    meta = convert(recordings, tmp_path / "out", min_frames=limit)
    assert meta.clips == int((frames >= limit).sum()) < 30
    assert {entry.reason for entry in meta.skipped} == {"too few frames with a body"}


def test_fail_leaves_nothing(tmp_path: Path, mixed: Path) -> None:
    with pytest.raises(InputError) as caught:
        convert(mixed, tmp_path / "out", on_error="fail")
    assert caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed"]


def broken_track(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
    """A progress bar that is interrupted after three files."""
    for number, item in enumerate(items):
        if number == 3:
            raise KeyboardInterrupt
        yield item


def test_interruption_leaves_nothing_new_and_nothing_lost(tmp_path: Path, recordings: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert(recordings, out, track=broken_track)
    assert list(tmp_path.iterdir()) == []
    convert(recordings, out)
    before = contents(out)
    with pytest.raises(KeyboardInterrupt):
        convert(recordings, out, track=broken_track, force=True)
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_leftovers_of_a_killed_conversion_are_cleared(tmp_path: Path, recordings: Path) -> None:
    abandoned = tmp_path / ".out.4194999.partial"  # above the largest process id of Linux
    (abandoned / "splits").mkdir(parents=True)
    (abandoned / "xyz.npy").write_bytes(b"half")
    running = tmp_path / ".out.1.partial"  # process 1 is always there
    running.mkdir()
    convert(recordings, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.1.partial", "out"]


def test_existing_target(tmp_path: Path, recordings: Path) -> None:
    out = tmp_path / "out"
    convert(recordings, out)
    with pytest.raises(InputError, match="exists") as caught:
        convert(recordings, out)
    assert "--force" in str(caught.value.hint)
    convert(recordings, out, force=True, split="xview")
    assert Dataset.open(out).meta.default_split == "xview"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    with pytest.raises(InputError, match="not a dataset folder"):
        convert(recordings, precious, force=True)
    assert (precious / "thesis.tex").exists()


def test_unknown_split(tmp_path: Path, recordings: Path) -> None:
    with pytest.raises(InputError, match="no split 'fold7'") as caught:
        convert(recordings, tmp_path / "out", split="fold7")
    assert caught.value.expected == "xsub, xview, xset"
    assert list(tmp_path.iterdir()) == []


def test_nothing_usable(tmp_path: Path) -> None:
    folder = tmp_path / "empty_frames"
    folder.mkdir()
    (folder / "S001C001P001R001A001.skeleton").write_bytes(b"1\n0\n")
    with pytest.raises(InputError, match="no usable recording"):
        convert(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["empty_frames"]


def test_real_ntu_files(tmp_path: Path, real_data: Path) -> None:
    meta = convert(real_data / "ntu_samples", tmp_path / "ntu")
    dataset = Dataset.open(tmp_path / "ntu")
    assert (meta.name, meta.clips, meta.skipped, meta.dropped_rows, len(meta.class_names)) == ("ntu60", 7, (), 0, 60)
    assert meta.class_names[49] == "punch or slap other person"
    two = {str(name) for name, persons in zip(dataset.names, dataset.person_lengths, strict=True) if persons[1]}
    assert two == {"S001C001P001R001A050", "S001C003P008R002A058"}
    test = {str(name)[8:12] for name in dataset.names[dataset.indices("xsub", "test")]}
    assert test == {"P003"}


def test_damaged_description(tmp_path: Path, recordings: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = next(recordings.glob("*.skeleton"))
    (folder / file.name).write_bytes(file.read_bytes())
    for text in ("{", "[]", '{"schema": "other", "name": "", "terms": "", "class_names": ["a"]}'):
        (folder / DESCRIPTION_FILE).write_text(text)
        with pytest.raises(InputError, match="description"):
            open_dataset(folder)


def small_npz(path: Path, joints: int, **changes: Any) -> Path:
    arrays: dict[str, Any] = {
        "xyz": np.random.default_rng(0).normal(size=(6, joints, 3)).astype(np.float32),
        "lengths": [2, 4],
        "labels": [0, 1],
        "subjects": [1, 2],
        "class_names": ["a", "b"],
    }
    np.savez(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return path


def test_layout_is_recognised_by_its_bones(tmp_path: Path) -> None:
    edges = np.array([(b, a) for a, b in reversed(KINECT20.bones)])
    assert open_dataset(small_npz(tmp_path / "a.npz", 20, edges=edges)).meta.skeleton == KINECT20
    chain = np.array([(i, i + 1) for i in range(19)])
    custom = open_dataset(small_npz(tmp_path / "b.npz", 20, edges=chain, root=np.array(4))).meta.skeleton
    assert (custom.name, custom.root, custom.num_joints) == ("custom20", 4, 20)
    assert open_dataset(small_npz(tmp_path / "c.npz", 20, edges=chain), skeleton="msr20").meta.skeleton.name == "msr20"


def test_real_layouts(real_data: Path) -> None:
    for stem, layout in (("nw_ucla", "kinect20"), ("msr_action3d", "msr20"), ("sbu_interaction", "nite15")):
        assert open_dataset(real_data / f"{stem}.npz").meta.skeleton.name == layout


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({}, "cannot tell the skeleton layout"),
        ({"edges": [[0, 1], [1, 2], [2, 3], [3, 0]]}, "not a tree"),
        ({"edges": [[0, 1], [0, 1], [2, 3]]}, "does not reach"),
        ({"edges": [[0, 1], [1, 2], [2, 9]]}, "does not exist"),
        ({"edges": [[0, 1], [1, 2], [2, 3]], "root": [7]}, "not a joint"),
        ({"edges": [[0, 1], [1, 2], [2, 3]], "labels": [0, 2]}, "label without a class name"),
        ({"edges": [[0, 1], [1, 2], [2, 3]], "labels": None}, "array is missing"),
        ({"edges": [[0, 1], [1, 2], [2, 3]], "subjects": [1]}, "does not fit"),
        ({"edges": [[0, 1], [1, 2], [2, 3]], "class_names": None}, "class_names"),
        ({"edges": [[0, 1], [1, 2], [2, 3]], "names": ["a", "a"]}, "two clips of one name"),
    ],
)
def test_npz_that_is_no_data_set(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        open_dataset(small_npz(tmp_path / "x.npz", 4, **changes))


def test_wrong_joint_count(tmp_path: Path, recordings: Path) -> None:
    with pytest.raises(InputError, match="does not fit"):
        open_dataset(small_npz(tmp_path / "x.npz", 4), skeleton="ntu25")
    with pytest.raises(InputError, match="does not fit"):
        open_dataset(recordings, skeleton="kinect20")


def test_two_most_moving_of_three_persons_in_the_order_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    persons = [rng.normal(size=(4, 4, 3)) * size for size in (2.0, 0.1, 5.0)]
    xyz = np.concatenate(persons).astype(np.float32)
    changes = {"xyz": xyz, "lengths": [12], "persons": [3], "labels": [0], "subjects": [1], "edges": [[0, 1], [1, 2], [2, 3]]}
    dataset = open_dataset(small_npz(tmp_path / "x.npz", 4, **changes))
    np.testing.assert_array_equal(dataset.clip(0).joints, np.concatenate([xyz[:4], xyz[8:]]))
    assert dataset.meta.dropped_persons == 1
