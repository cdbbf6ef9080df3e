"""``star-edge pack``, and the verbs that read or refuse a packed bundle, through the real entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from runtime.bundle import Bundle, BundleWriter
from star_edge.data.dataset import Dataset

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def star_edge(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "star_edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, check=False, timeout=120)


@pytest.fixture
def folder(star_bundle: Path) -> Path:
    return star_bundle.parent


def test_pack_run_and_unpack(folder: Path) -> None:
    made = star_edge("pack", cwd=folder)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1].endswith("next: star-edge run tiny.star.zip --self-test")
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.star", "tiny.star.zip"]
    assert "next: star-edge verify tiny.star" in star_edge("inspect", cwd=folder).stdout  # of both the folder is meant
    (folder / "tiny.star").rename(folder / "elsewhere")
    tested = star_edge("run", "--self-test", cwd=folder)  # the packed one is the only one now
    assert tested.returncode == 0, tested.stderr
    assert "self-test passed" in tested.stdout
    np.save(folder / "clip.npy", np.ones((3, 15, 3), np.float32))
    named = star_edge("run", "tiny.star.zip", "clip.npy", cwd=folder)
    assert named.returncode == 0, named.stderr
    assert named.stdout.splitlines()[-1].endswith("next: star-edge inspect tiny.star.zip")
    back = star_edge("pack", "--unpack", "--json", cwd=folder)
    assert back.returncode == 0, back.stderr
    document = json.loads(back.stdout)
    assert (document["schema"], document["made"]) == ("star-edge/pack/1", "tiny.star")
    assert document["files"] == sorted(path.name for path in (folder / "elsewhere").iterdir())
    for path in (folder / "elsewhere").iterdir():
        assert (folder / "tiny.star" / path.name).read_bytes() == path.read_bytes()


def test_inspect_a_packed_bundle(folder: Path) -> None:
    star_edge("pack", "--out", "other.star.zip", cwd=folder)
    shown = star_edge("inspect", "other.star.zip", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[-1].endswith("next: star-edge run other.star.zip --self-test")
    document = json.loads(star_edge("inspect", "other.star.zip", "--json", cwd=folder).stdout)
    assert (document["packed"], document["clips"]) == (True, None)
    assert document["manifest"]["bundle_id"] == Bundle.open(folder / "tiny.star").manifest.bundle_id


@pytest.fixture
def dataset(tiny_dataset: Path, folder: Path) -> Path:
    """The tiny dataset; the tiny bundle is made one of its skeleton and classes, which no engine could run."""
    meta = Dataset.open(tiny_dataset).meta
    base = Bundle.open(folder / "tiny.star")
    manifest = msgspec.structs.replace(base.manifest, skeleton=meta.skeleton, class_names=meta.class_names)
    BundleWriter(folder / "tiny.star", base=base).commit(manifest)
    return tiny_dataset


def test_test_clips_are_packed(folder: Path, dataset: Path) -> None:
    made = star_edge("pack", "--clips", dataset, "--samples", 5, "--json", cwd=folder)
    assert made.returncode == 0, made.stderr
    report = json.loads(made.stdout)
    assert report["clips"] == 5
    assert "clips.npz" in report["files"]
    back = star_edge("pack", "--unpack", "tiny.star.zip", "--out", "back.star", cwd=folder)
    assert back.returncode == 0, back.stderr
    with np.load(folder / "back.star" / "clips.npz") as held:
        names, labels = held["names"].tolist(), held["labels"].tolist()
    data = Dataset.open(dataset)
    test = data.indices(None, "test").tolist()
    chosen = [data.names.tolist().index(name) for name in names]
    assert set(chosen) <= set(test)
    assert chosen == sorted(chosen)
    assert data.labels[chosen].tolist() == labels
    other = star_edge("pack", "tiny.star", "--clips", dataset, "--samples", 5, "--seed", 1, "--out", "o.star.zip", cwd=folder)
    assert other.returncode == 0, other.stderr
    assert (folder / "o.star.zip").read_bytes() != (folder / "tiny.star.zip").read_bytes()
    shown = json.loads(star_edge("inspect", "tiny.star.zip", "--json", cwd=folder).stdout)
    assert shown["clips"] == 5


def test_run_the_packed_clips(folder: Path) -> None:
    from runtime.clip import Clip
    from runtime.pack import write_pack
    from runtime.packed_clips import clips_to_bytes
    from star_edge.engines import load

    recognizer = load(folder / "tiny.star", threads=1)
    clips = [Clip(np.full((2, 15, 3), i + 1.0, np.float32), (2,), f"clip {i}") for i in range(3)]
    labels = np.array([prediction.label for prediction in recognizer(clips)])
    labels[2] = (labels[2] + 1) % 4
    write_pack(recognizer.bundle, folder / "x.star.zip", clips=clips_to_bytes(clips, labels, recognizer.class_names))
    result = star_edge("run", "x.star.zip", "--clips", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["correct"] == 2
    assert [clip["expected"] for clip in document["clips"]] == labels.tolist()
    assert "3 clips, 2 of them right (66.7%)," in star_edge("run", "x.star.zip", "--clips", cwd=folder).stdout
    assert star_edge("run", "tiny.star", "--clips", cwd=folder).returncode == 2


@pytest.mark.parametrize("verb", ["verify", "bench", "calibrate", "analyze", "pack"])
def test_verbs_that_write_into_a_bundle_say_how_to_unpack_it(folder: Path, verb: str) -> None:
    star_edge("pack", cwd=folder)
    refused = star_edge(verb, "tiny.star.zip", cwd=folder)
    assert refused.returncode == 2
    assert "star-edge pack --unpack tiny.star.zip" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--samples", 3), 2, "--samples belongs to --clips"),
        (("--unpack", "--reports"), 2, "--reports belongs to packing"),
        (("--unpack",), 2, "no packed bundle here"),
        (("--unpack", "tiny.star"), 2, "not a packed bundle"),
        (("absent.star",), 2, "not a bundle"),
        (("--out", "absent/x.star.zip"), 2, "no folder"),
        (("--out", "tiny.star"), 2, "--out tiny.star.zip"),
        (("--out", "x.zip"), 2, "--out x.star.zip"),
        (("--clips", "absent"), 2, "absent"),
    ],
)
def test_bad_arguments_leave_nothing(folder: Path, arguments: tuple, code: int, message: str) -> None:
    done = star_edge("pack", *arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in folder.iterdir()] == ["tiny.star"]


def test_clips_of_another_skeleton(folder: Path, tiny_dataset: Path) -> None:
    done = star_edge("pack", "--clips", tiny_dataset, cwd=folder)
    assert done.returncode == 4
    assert "another skeleton" in done.stderr


def test_an_existing_file_is_kept_unless_told(folder: Path) -> None:
    assert star_edge("pack", cwd=folder).returncode == 0
    before = (folder / "tiny.star.zip").read_bytes()
    (folder / "tiny.star.zip").write_bytes(b"mine")
    kept = star_edge("pack", cwd=folder)
    assert kept.returncode == 2
    assert "--force" in kept.stderr
    assert (folder / "tiny.star.zip").read_bytes() == b"mine"
    assert star_edge("pack", "--force", cwd=folder).returncode == 0
    assert (folder / "tiny.star.zip").read_bytes() == before
    (folder / "folder.star.zip").mkdir()
    assert "a folder is in the way" in star_edge("pack", "tiny.star", "--out", "folder.star.zip", "--force", cwd=folder).stderr
