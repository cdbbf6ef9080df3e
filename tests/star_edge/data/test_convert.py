"""Conversion: streamed, the same for any number of workers, whole or absent, and every left-out recording named."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import InputError
from runtime.readers.ntu import Recording, read_ntu
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


@pytest.fixture(scope="session")
def whole(recordings: Path) -> str:
    """Hash of the dataset of ``recordings``."""
    return open_dataset(recordings).meta.sha256


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


def interrupted_after(files: int) -> Callable[..., Iterator[Any]]:
    """A progress bar that is interrupted when so many files are done."""

    def track(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == files:
                raise KeyboardInterrupt
            yield item

    return track


def interrupt(source: Path, out: Path, files: int, **options: Any) -> Path:
    """Convert until so many files are done; the partial folder."""
    with pytest.raises(KeyboardInterrupt):
        convert(source, out, track=interrupted_after(files), **options)
    return out.with_name(f".{out.name}.partial")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the .skeleton files that were read."""
    names: list[str] = []

    def counted(path: Path) -> Recording:
        names.append(path.stem)
        return read_ntu(path)

    monkeypatch.setattr("star_edge.data.sources.ntu.read_ntu", counted)
    return names


def test_an_interrupted_conversion_goes_on(tmp_path: Path, mixed: Path, reads: list[str]) -> None:
    convert(mixed, tmp_path / "reference")
    whole = list(reads)
    out = tmp_path / "out"
    for done, files in ((0, 3), (3, 17)):  # the second one ends while it goes on
        reads.clear()
        assert interrupt(mixed, out, files).is_dir()
        assert not out.exists()
        assert reads == whole[done : files + 1]  # the last was read, but is not done
    reads.clear()
    convert(mixed, out)
    assert reads == whole[17:]
    assert contents(out) == contents(tmp_path / "reference")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed", "out", "reference"]


def test_a_conversion_goes_on_when_the_disk_has_room_again(
    tmp_path: Path,
    recordings: Path,
    reads: list[str],
    whole: str,
    caplog: pytest.LogCaptureFixture,
    files_of_at_most: Callable[[int], Any],
) -> None:
    with files_of_at_most(200_000), pytest.raises(OSError, match="File too large") as caught:
        convert(recordings, tmp_path / "out")
    assert str(caught.value.filename).endswith(".out.partial")
    assert "the same command goes on from there" in caplog.text
    read = len(reads)
    assert 5 < read < 30
    meta = convert(recordings, tmp_path / "out")
    assert len(reads) == 31  # the one that did not fit was read twice
    assert meta.sha256 == Dataset.open(tmp_path / "out").sha256() == whole


def test_an_interruption_leaves_the_old_dataset(tmp_path: Path, recordings: Path) -> None:
    out = tmp_path / "out"
    convert(recordings, out)
    before = contents(out)
    interrupt(recordings, out, 3, force=True)
    assert contents(out) == before
    convert(recordings, out, force=True)
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("file", ["journal.jsonl", "dataset/xyz.npy"])
@given(share=st.floats(0, 1), damage=st.sampled_from(["cut", "overwritten"]))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_kill_left_on_the_disk(file: str, share: float, damage: str, tmp_path: Path, recordings: Path,
                                         whole: str) -> None:  # fmt: skip
    with TemporaryDirectory(dir=tmp_path) as folder:
        out = Path(folder) / "out"
        left = interrupt(recordings, out, 12) / file
        data = left.read_bytes()
        at = int(share * len(data))
        left.write_bytes(data[:at] + (b"" if damage == "cut" else b"\x00\xff" + data[at + 2 :]))
        convert(recordings, out)
        assert Dataset.open(out).sha256() == whole


@pytest.mark.parametrize("gone", ["dataset", "dataset/xyz.npy", "dataset/splits"])
def test_killed_while_a_partial_folder_was_moved_or_removed(tmp_path: Path, recordings: Path, whole: str, gone: str) -> None:
    """The journal is there, and what it speaks of is in its place already, or on its way out."""
    out = tmp_path / "out"
    path = interrupt(recordings, out, 12) / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert convert(recordings, out).sha256 == Dataset.open(out).sha256() == whole
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_line_that_lacks_only_its_end_is_written_again(tmp_path: Path, recordings: Path, whole: str) -> None:
    out = tmp_path / "out"
    journal = interrupt(recordings, out, 12) / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-1])
    interrupt(recordings, out, 20)
    assert convert(recordings, out).sha256 == Dataset.open(out).sha256() == whole


def test_a_file_changed_meanwhile_is_read_again(tmp_path: Path, mixed: Path, reads: list[str]) -> None:
    out, damaged = tmp_path / "out", mixed / "S001C001P001R009A001.skeleton"
    interrupt(mixed, out, 20)
    assert damaged.stem in reads
    damaged.write_bytes(next(mixed.glob("S*A008.skeleton")).read_bytes())
    reads.clear()
    meta = convert(mixed, out)
    assert reads[0] == damaged.stem
    assert damaged.stem not in {entry.file for entry in meta.skipped}
    assert Dataset.open(out).sha256() == meta.sha256


def test_another_plan_starts_over(tmp_path: Path, recordings: Path, reads: list[str]) -> None:
    out = tmp_path / "out"
    interrupt(recordings, out, 20)
    reads.clear()
    meta = convert(recordings, out, min_frames=40)
    assert len(reads) == 30
    assert meta.sha256 == convert(recordings, tmp_path / "other", min_frames=40).sha256


def test_two_conversions_to_one_target(tmp_path: Path, recordings: Path) -> None:
    def track(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
        with pytest.raises(InputError, match="another conversion to this target is running"):
            convert(recordings, tmp_path / "out")
        return items

    assert convert(recordings, tmp_path / "out", track=track).clips == 30


def test_a_replacement_killed_between_its_renames_is_undone(tmp_path: Path, recordings: Path) -> None:
    out = tmp_path / "out"
    convert(recordings, out)
    out.rename(tmp_path / ".out.old")
    with pytest.raises(InputError, match="the target exists"):
        convert(recordings, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


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
