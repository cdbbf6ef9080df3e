"""star-run: its readers, answers, streams and messages are those of the Python runtime."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import star_edge
from runtime.bundle import Bundle
from runtime.clip import pack_clips
from runtime.errors import GateError, InputError, MismatchError
from runtime.pack import pack_bytes
from runtime.readers import read_clips
from runtime.recognizer import Recognizer
from runtime.stream_lines import recognise_lines
from runtime.streaming import Stream
from runtime.tolerances import TOLERANCES, relative_error

JOINTS = 15  # of exported_bundle

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="session")
def star_run() -> Run:
    """(arguments, input=bytes) -> the finished process of star-run: $STAR_RUN, or the one beside this Python."""
    beside = Path(sys.executable).parent / "star-run"
    program = os.environ.get("STAR_RUN") or shutil.which(beside)
    if program is None:
        pytest.skip(f"no star-run at {beside}; build it with pip install, or name it in STAR_RUN")

    def run(*arguments: object, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([program, *map(str, arguments)], input=input, capture_output=True, timeout=120, check=False)

    return run


@pytest.fixture(scope="session")
def recognizer(exported_bundle: Path) -> Recognizer:
    return star_edge.load(exported_bundle, engine="onnxruntime", precision="fp32", threads=1)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips: one row, lost rows and joints, two persons of whom one is there for a while, a long one."""
    rng = np.random.default_rng(0)
    lengths, persons = np.array([1, 9, 14, 70]), np.array([1, 1, 2, 1])
    xyz = rng.normal(size=(lengths.sum(), JOINTS, 3)).astype(np.float32)
    xyz[[2, 5, 10, 11]] = 0
    xyz[3, 4] = 0
    path = tmp_path_factory.mktemp("clips") / "clips.npz"
    np.savez_compressed(path, xyz=xyz, lengths=lengths, persons=persons, names=np.array(["one", "löst", "two", "long"]))
    return path


def document(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assert_as_python(found: list[dict[str, Any]], path: Path, recognizer: Recognizer) -> None:
    clips = read_clips(path)
    predictions = recognizer(clips)
    assert [(clip["clip"], clip["rows"], tuple(clip["persons"]), clip["dropped"]) for clip in found] == [
        (clip.name, len(clip), clip.person_lengths, clip.dropped) for clip in clips
    ]
    expected = np.array([prediction.logits for prediction in predictions])
    assert relative_error(np.array([clip["logits"] for clip in found]), expected) <= TOLERANCES["fp32"]
    assert [clip["name"] for clip in found] == [prediction.name for prediction in predictions]
    assert [clip["confidence"] for clip in found] == pytest.approx([p.confidence for p in predictions], abs=1e-4)


def test_clips_are_recognised_as_in_python(star_run: Run, exported_bundle: Path, clips: Path, recognizer: Recognizer) -> None:
    report = document(star_run(exported_bundle, clips, "--precision", "fp32", "--top", 2, "--json"))
    assert_as_python(report["clips"], clips, recognizer)
    assert [len(clip["top"]) for clip in report["clips"]] == [2] * 4
    assert report["bundle_id"] == recognizer.bundle.manifest.bundle_id
    assert report["engine"]["nodes"].keys() == recognizer.bundle.manifest.nodes["fp32"].keys()


def test_documents_have_the_fields_of_star_edge_run(star_run: Run, exported_bundle: Path, clips: Path) -> None:
    from star_edge.cli.run import ClipResult, RunReport

    report = document(star_run(exported_bundle, clips, "--json"))
    assert list(report) == list(RunReport.__struct_fields__)
    assert list(report["clips"][0]) == list(ClipResult.__struct_fields__)


def test_a_clip_gives_the_same_bits_alone_and_with_any_threads(star_run: Run, exported_bundle: Path, clips: Path) -> None:
    one = document(star_run(exported_bundle, clips, "--threads", 1, "--json"))
    several = document(star_run(exported_bundle, clips, clips, "--threads", 3, "--json"))
    logits = [clip["logits"] for clip in one["clips"]]
    assert [clip["logits"] for clip in several["clips"]] == logits * 2


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "neon"])
def test_every_instruction_set_passes_the_self_test(star_run: Run, exported_bundle: Path, isa: str) -> None:
    if isa not in star_run("--version").stdout.decode():
        pytest.skip(f"this processor, or this build, has no {isa}")
    report = document(star_run(exported_bundle, "--self-test", "--isa", isa, "--precision", "fp32", "--json"))
    assert report["self_test"]["clips"] == 5
    assert report["self_test"]["error"] <= report["self_test"]["tolerance"] == TOLERANCES["fp32"]


def test_an_engine_of_tensorrt_is_run_by_a_build_that_can(star_run: Run, exported_bundle: Path) -> None:
    done = star_run(exported_bundle, "--self-test", "--isa", "tensorrt", "--precision", "fp32")
    assert done.returncode == 4
    # what is lacking first: this library's part for it, TensorRT, a GPU, or the engine
    assert re.search(
        rb"STAR_EDGE_TENSORRT=ON|TensorRT cannot be loaded|no GPU that CUDA can use|no TensorRT engine in fp32", done.stderr
    )


def test_the_last_line_says_what_ran(star_run: Run, exported_bundle: Path, clips: Path) -> None:
    lines = (
        star_run(exported_bundle, clips, "--precision", "fp32", "--isa", "portable", "--threads", 1)
        .stdout.decode()
        .splitlines()
    )
    assert len(lines) == 6
    assert lines[-1].startswith("4 clips recognised with native fp32, libstar_edge ")
    assert "portable" in lines[-1]
    assert ", 1 thread; next: " in lines[-1]


def test_a_packed_bundle_answers_like_its_folder(star_run: Run, exported_bundle: Path, clips: Path, tmp_path: Path) -> None:
    packed = tmp_path / "random.star.zip"
    packed.write_bytes(pack_bytes(Bundle.open(exported_bundle)))
    folder, file = (document(star_run(bundle, clips, "--json")) for bundle in (exported_bundle, packed))
    assert file["clips"] == folder["clips"]
    assert document(star_run(packed, "--self-test", "--json"))["self_test"]["clips"] == 5


@pytest.mark.parametrize("at", [0.02, 0.5, 0.98])
def test_a_packed_bundle_that_is_cut_or_changed_is_refused(
    star_run: Run, exported_bundle: Path, clips: Path, tmp_path: Path, at: float
) -> None:
    packed = tmp_path / "random.star.zip"
    whole = pack_bytes(Bundle.open(exported_bundle))
    packed.write_bytes(whole[: int(at * len(whole))])
    assert star_run(packed, clips).returncode == 2
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entry = archive.getinfo("weights.safetensors")
    middle = entry.header_offset + entry.compress_size // 2
    packed.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert star_run(packed, clips).returncode == 2


def frames(count: int) -> bytes:
    """JSON lines: nobody, one, two and newcomers in turn, at times with somebody who is lost."""
    rng = np.random.default_rng(1)
    lines = []
    for t in range(count):
        seen: list[list[Any]] = [[], [1], [1, "two"], ["two", 7 + t]]
        persons = [{"id": i, "joints": rng.normal(size=(JOINTS, 3)).round(3).tolist()} for i in seen[t % 4]]
        if t % 5 == 0:
            persons.append({"id": "lost", "joints": [[0, 0, 0]] * JOINTS})
        lines.append(json.dumps({"t": t / 8, "persons": persons} if t % 3 else {"persons": persons}))
    return "\n".join(lines).encode()


@pytest.mark.parametrize(("window", "hop"), [(8, 3), (1, 1), (40, 10)])
def test_a_stream_is_recognised_as_in_python(
    star_run: Run, exported_bundle: Path, recognizer: Recognizer, window: int, hop: int
) -> None:
    lines = frames(60)
    done = star_run(exported_bundle, "--stream", "-", "--window", window, "--hop", hop, "--precision", "fp32", input=lines)
    assert done.returncode == 0, done.stderr
    expected = list(recognise_lines(io.BytesIO(lines), Stream(recognizer, window, hop), "standard input"))
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for line, result in zip(found, expected, strict=True):
        assert list(line) == list(result.__struct_fields__)
        assert (line["t"], line["frame"], line["rows"]) == (result.t, result.frame, result.rows)
        assert (tuple(line["persons"]), line["label"], line["name"]) == (result.persons, result.label, result.name)
        assert line["confidence"] == (None if result.confidence is None else pytest.approx(result.confidence, abs=1e-4))


@pytest.mark.parametrize(
    "line",
    [
        b"no json",
        b'{"persons": 3}',
        b'{"persons": [{"id": 1}]}',
        b'{"persons": [{"id": 1.5, "joints": []}]}',
        b'{"persons": [{"id": 1, "joints": [[1, 2]]}]}',
        b'{"persons": [{"id": 1, "joints": [[1, 2, 3]]}]}',
        b'{"persons": [{"id": "a", "joints": [%s]}]}' % b",".join([b"[1e39,0,0]"] * JOINTS),
        b'{"persons": [%s]}' % b",".join([b'{"id": 3, "joints": [%s]}' % b",".join([b"[1,2,3]"] * JOINTS)] * 2),
        b"[" * 100_000,
        b" " * (4 << 20),
    ],
)
def test_a_bad_line_is_named_as_in_python(star_run: Run, exported_bundle: Path, recognizer: Recognizer, line: bytes) -> None:
    lines = frames(1) + b"\n\n" + line + b"\n"
    done = star_run(exported_bundle, "--stream", "-", input=lines)
    with pytest.raises(InputError) as caught:
        list(recognise_lines(io.BytesIO(lines), Stream(recognizer, 4, 2), "standard input"))
    said, expected = done.stderr.decode().splitlines(), f"star-run: {caught.value}".splitlines()
    assert done.returncode == 2
    assert said[0].split(": ")[:2] == expected[0].split(": ")[:2]
    assert said[1] == expected[1]


def test_an_answer_that_is_not_finite_is_no_result(star_run: Run, exported_bundle: Path, recognizer: Recognizer) -> None:
    person = b'{"persons": [{"id": 1, "joints": [%s]}]}\n'
    lines = person % b",".join([b"[1e38,-1e38,1e38]", b"[0,0,1]"] * (JOINTS // 2) + [b"[0,1,0]"] * (JOINTS % 2))
    done = star_run(exported_bundle, "--stream", "-", "--window", 1, "--hop", 1, input=lines)
    with pytest.raises(GateError, match="not finite"):
        list(recognise_lines(io.BytesIO(lines), Stream(recognizer, 1, 1), "standard input"))
    assert done.returncode == 3
    assert not done.stdout
    assert b"not finite" in done.stderr


def damaged_npz(**changes: Any) -> bytes:
    arrays = {
        "xyz": np.ones((11, JOINTS, 3), dtype=np.float32),
        "lengths": np.array([4, 1, 6]),
        "persons": np.array([1, 1, 2]),
        "names": np.array(["a", "b", "c"]),
    } | changes
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value for name, value in arrays.items() if value is not None})
    return buffer.getvalue()


def lost(row: int) -> np.ndarray:
    xyz = np.ones((11, JOINTS, 3), dtype=np.float32)
    xyz[row] = 0
    return xyz


BODY = b"7 0 1 1 1 1 0 0.1 -0.2 2\n25\n" + b"0.1 0.2 3.4 1 2 3 4 0 0 0 0 2\n" * 25
BAD_FILES = {
    "a.npz": [
        damaged_npz(xyz=None),
        damaged_npz(xyz=np.zeros((11, 5), dtype=np.float32)),
        damaged_npz(xyz=np.zeros((11, 5, 2), dtype=np.float64)),
        damaged_npz(xyz=np.zeros((11, 5, 3), dtype=np.int16)),
        damaged_npz(xyz=np.full((11, JOINTS, 3), np.nan, dtype=np.float16)),
        damaged_npz(xyz=np.full((11, JOINTS, 3), 1e300)),
        damaged_npz(lengths=np.array([4, 1, 7])),
        damaged_npz(lengths=np.array([-1, 6, 6], dtype=np.int8)),
        damaged_npz(lengths=np.array([], dtype=np.uint32)),
        damaged_npz(lengths=np.array([4.0, 1.0, 6.0])),
        damaged_npz(persons=np.array([1, 1, 4])),
        damaged_npz(persons=np.array([1, 0, 2])),
        damaged_npz(persons=np.array([1, 1])),
        damaged_npz(names=np.array(["a", "b"])),
        damaged_npz(names=np.array([1, 2, 3])),
        damaged_npz(xyz=lost(4)),
    ],
    "S001C001P001R001A001.skeleton": [
        b"",
        b"0\n",
        b"x\n",
        b"2\n0\n0\n",
        b"9999999999\n0\n",
        b"1\n1\n" + BODY + b"more\n",
        b"1\n1\n" + BODY[:-4],
        b"1\n1\n" + BODY[:-30],
        b"1\n1\n" + BODY.replace(b"25", b"24", 1),
        b"1\n1\n" + BODY.replace(b"7", b"seven", 1),
        b"1\n1\n" + BODY.replace(b"3.4", b"nan", 1),
        b"1\n1\n" + BODY.replace(b"3.4", b"\xff\xfe" * 40, 1),
        b"1\n2\n" + BODY * 2,
    ],
    "a.txt": [b"text"],
}


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, files in BAD_FILES.items() for data in files])
def test_a_bad_file_is_refused_in_the_words_of_python(
    star_run: Run, exported_bundle: Path, tmp_path: Path, name: str, data: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_clips(path)
    done = star_run(exported_bundle, path)
    said, expected = done.stderr.decode(), caught.value
    assert done.returncode == 2
    assert said.startswith(f"star-run: {expected.what}\n  where:    {expected.where}\n  found:    {expected.found}\n"), said
    if name != "a.txt":
        assert said.rstrip("\n") == f"star-run: {expected}"


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x05\x06" + b"\0" * 18, damaged_npz()[:-30], damaged_npz(x=np.array([{}]))])
def test_an_archive_that_is_none_is_refused(star_run: Run, exported_bundle: Path, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(data)
    with pytest.raises(InputError):
        read_clips(path)
    done = star_run(exported_bundle, path)
    assert done.returncode == 2
    assert done.stderr.decode().startswith("star-run: ")


def test_real_recordings_are_read_as_in_python(
    star_run: Run, real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = ntu_bundle(tmp_path_factory.mktemp("ntu"))
    files = sorted((real_data / "ntu_samples").glob("*.skeleton"))
    assert files
    found = document(star_run(bundle, *files, "--json"))["clips"]
    recognizer = star_edge.load(bundle, engine="onnxruntime", threads=1)
    for file, clip in zip(files, found, strict=True):
        assert_as_python([clip], file, recognizer)


def ntu_bundle(folder: Path) -> Path:
    """Bundle of a small STAR on ``ntu25`` with random weights."""
    from runtime.features import FeatureRecipe
    from star_edge.export import export_checkpoint
    from star_edge.models.registry import star_config
    from star_edge.models.star import Star
    from star_edge.skeletons import NTU25
    from star_edge.training.checkpoint import Checkpoint, DataEntry, ModelEntry, save_checkpoint

    config = star_config("star-64", NTU25, channels=9, classes=5, dim=16, heads=4, layers=2, hidden=24)
    checkpoint = Checkpoint(
        model=ModelEntry("star-64", config),
        state_dict=Star(config).state_dict(),
        skeleton=NTU25,
        features=FeatureRecipe(),
        class_names=tuple("abcde"),
        data=DataEntry(source="unknown", name="random", split="none"),
        metrics={},
    )
    save_checkpoint(checkpoint, folder / "ntu.pt")
    export_checkpoint(folder / "ntu.pt", folder / "ntu.star")
    return folder / "ntu.star"


def test_figures_of_repeated_runs(star_run: Run, exported_bundle: Path, clips: Path) -> None:
    report = document(star_run(exported_bundle, clips, "--bench=1", "--json"))
    joints, cu_seqlens, _ = pack_clips(read_clips(clips))
    figures = report["bench"]
    assert (figures["clips"], figures["frames"]) == (len(cu_seqlens) - 1, len(joints))
    assert 0 < figures["median_ms"] <= figures["p90_ms"] <= figures["p99_ms"]
    assert figures["clips_per_s"] == pytest.approx(1e3 * figures["clips"] / figures["median_ms"])
    assert 0 < figures["peak_rss_mb"] < 64


def test_profile_of_repeated_runs(star_run: Run, exported_bundle: Path, clips: Path) -> None:
    report = document(star_run(exported_bundle, clips, "--bench=1", "--profile", "--json"))
    shares = list(report["profile"].values())
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    assert report["profile"]["sparse attention"] > 0
    table = star_run(exported_bundle, clips, "--bench=1", "--profile").stdout.decode()
    assert all(stage in table for stage in report["profile"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "say what to recognise"),
        (("--self-test", "--profile"), 2, "--bench"),
        (("--stream", "-", "--self-test"), 2, "choose one thing to do"),
        (("--self-test", "--bench"), 2, "--bench repeats clips"),
        (("--self-test", "--window", 3), 2, "--stream"),
        (("--precision", "fp64", "--self-test"), 2, "fp64"),
        (("--precision", "int8", "--self-test"), 4, "int8"),
        (("--threads", 0, "--self-test"), 2, "--threads"),
        (("/nowhere.npz",), 2, "no such file"),
        (("--stream", "/nowhere.jsonl"), 2, "no such file"),
    ],
)
def test_arguments_that_cannot_be_used(
    star_run: Run, exported_bundle: Path, arguments: tuple[object, ...], code: int, words: str
) -> None:
    done = star_run(exported_bundle, *arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    assert words in done.stderr.decode()


def test_a_changed_bundle_is_refused(star_run: Run, exported_bundle: Path, clips: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "x.star"
    shutil.copytree(exported_bundle, bundle)
    golden = bundle / "golden.npz"
    golden.write_bytes(golden.read_bytes().replace(b"\1", b"\2", 1))
    assert star_run(bundle, clips).returncode == 0  # which needs no golden clips
    done = star_run(bundle, "--self-test")
    with pytest.raises(MismatchError) as caught:
        Bundle.open(bundle)
    assert done.returncode == caught.value.exit_code
    assert f"star-run: {caught.value.what}\n  where:    {golden}\n" in done.stderr.decode()
    assert star_run(tmp_path / "none.star", clips).returncode == 2


def test_a_clip_of_another_skeleton_is_refused(star_run: Run, exported_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", xyz=np.ones((3, 25, 3), dtype=np.float32))
    done = star_run(exported_bundle, tmp_path / "x.npz")
    assert done.returncode == 2
    assert "wrong joint count\n  where:    x/0\n  found:    25 joints of 3 numbers" in done.stderr.decode()


def test_version_names_the_instruction_sets(star_run: Run) -> None:
    done = star_run("--version")
    assert done.returncode == 0
    assert done.stdout.decode().startswith(f"star-run {star_edge.__version__}, ")
    assert "portable" in done.stdout.decode()
