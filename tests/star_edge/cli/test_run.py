"""``star-edge run`` through the real entry point: answers, documents, exit codes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

import star_edge
from runtime.bundle import Bundle, BundleWriter
from star_edge.cli import main

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def run(*arguments: object, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "star_edge", "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, input=stdin, env=ENVIRONMENT, check=False)


@pytest.fixture
def folder(star_bundle: Path) -> Path:
    """Working directory with one bundle, a good clip and bad ones."""
    where = star_bundle.parent
    rng = np.random.default_rng(3)
    good = rng.normal(size=(6, 15, 3)).astype(np.float32)
    np.save(where / "good.npy", good)
    np.save(where / "joints.npy", good[:, :14])
    np.save(where / "nan.npy", np.where(good == good[1, 2, 0], np.float32("nan"), good))
    np.savez(where / "many.npz", xyz=good, lengths=np.array([1, 5], dtype=np.int32), names=np.array(["one", "five"]))
    return where


def test_bundle_is_optional_and_clips_come_in_several_forms(folder: Path) -> None:
    result = run("good.npy", "many.npz", "--json", "--threads", 1, cwd=folder)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["schema"] == "star-edge/run/1"
    assert [(clip["file"], clip["clip"], clip["rows"]) for clip in document["clips"]] == [
        ("good.npy", "good", 6),
        ("many.npz", "one", 1),
        ("many.npz", "five", 5),
    ]
    recognizer = star_edge.load(folder / "tiny.star", threads=1)
    expected = recognizer([folder / "good.npy", folder / "many.npz"])
    for clip, prediction in zip(document["clips"], expected, strict=True):
        assert clip["name"] == clip["top"][0]["name"] == prediction.name
        assert clip["logits"] == pytest.approx(prediction.logits.tolist())
    assert document["engine"]["engine"] == "native"
    assert document["bundle_id"] == recognizer.bundle.manifest.bundle_id


def test_table_names_class_confidence_and_next_step(folder: Path) -> None:
    result = run("tiny.star", "good.npy", cwd=folder)
    assert result.returncode == 0, result.stderr
    prediction = star_edge.load(folder / "tiny.star")(folder / "good.npy")[0]
    assert prediction.name in result.stdout
    assert f"{prediction.confidence:.1%}" in result.stdout
    last = result.stdout.splitlines()[-1]
    assert re.search(r"recognised with native fp32, libstar_edge \S+, (portable|avx2|avx512|neon)", last)
    assert "next: star-edge verify tiny.star" in last


def test_self_test(folder: Path) -> None:
    result = run("--self-test", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["self_test"]["clips"] == len(Bundle.open(folder / "tiny.star").golden().names)


def frames(count: int) -> str:
    rng = np.random.default_rng(0)
    lines = [{"t": t / 30, "persons": [{"id": 1, "joints": rng.normal(size=(15, 3)).tolist()}]} for t in range(count)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_stream_from_standard_input(folder: Path) -> None:
    result = run("--stream", "-", "--window", 8, "--hop", 4, cwd=folder, stdin=frames(13))
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["frame"], line["rows"]) for line in lines] == [(4, 4), (8, 8), (12, 8)]
    assert "3 results from 13 frames" in result.stderr
    assert run("--stream", "-", "--quiet", cwd=folder, stdin=frames(1)).stderr == ""


def test_stream_answers_before_its_input_ends(folder: Path) -> None:
    command = [sys.executable, "-m", "star_edge", "run", "--stream", "-", "--hop", "2"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=ENVIRONMENT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(frames(2))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["frame"] == 2
        process.stdin.close()
    assert process.returncode == 0


Refusal = Callable[..., tuple[int, str]]


@pytest.fixture
def refusal(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Exit code and message of a command that must fail, in this process: a new one costs half a second."""

    def refuse(*arguments: object) -> tuple[int, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["star-edge", "run", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        written = capsys.readouterr()
        assert written.out == ""
        assert isinstance(caught.value.code, int)
        return caught.value.code, written.err

    return refuse


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "say what to recognise"),
        (("good.npy", "--self-test"), 2, "choose one thing"),
        (("good.npy", "--hop", 3), 2, "belong to a stream"),
        (("absent.skeleton",), 2, "no such file"),
        (("joints.npy",), 2, "wrong joint count"),
        (("good.npy", "nan.npy"), 2, "NaN or infinity"),
        (("absent.star", "good.npy"), 2, "not a bundle"),
        (("good.npy", "--precision", "fp16"), 4, "no fp16 model"),
        (("good.npy", "--precision", "fp8"), 2, "Invalid value"),
        (("good.npy", "--engine", "tensorrt-rtx"), 2, "Invalid value"),
        (("good.npy", "--engine", "onnxruntime", "--device", "cuda"), 2, "does not compute on the device 'cuda'"),
        (("--stream", "absent.jsonl"), 2, "no such file"),
    ],
)
def test_bad_arguments(refusal: Refusal, arguments: tuple, code: int, message: str) -> None:
    found, written = refusal(*arguments)
    assert found == code
    assert message in written


def changed_byte(bundle: Path) -> None:
    data = bytearray((bundle / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (bundle / "weights.safetensors").write_bytes(data)


def truncated_file(bundle: Path) -> None:
    data = (bundle / "golden.npz").read_bytes()
    (bundle / "golden.npz").write_bytes(data[: len(data) // 2])


def missing_file(bundle: Path) -> None:
    (bundle / "model.fp32.onnx").unlink()


def manifest_is_no_json(bundle: Path) -> None:
    (bundle / "manifest.json").write_bytes((bundle / "manifest.json").read_bytes()[:-20])


def manifest_with_wrong_types(bundle: Path) -> None:
    edit(bundle, class_names=3)


def newer_schema(bundle: Path) -> None:
    edit(bundle, schema="star-edge/bundle/9")


def path_outside_the_bundle(bundle: Path) -> None:
    entry = {"path": "../tiny.star/golden.npz", "bytes": 1, "sha256": "0" * 64}
    edit(bundle, files=json.loads((bundle / "manifest.json").read_bytes())["files"] | {"golden.npz": entry})


def edit(bundle: Path, **changes: object) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def one_class_too_many(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    manifest = msgspec.structs.replace(opened.manifest, class_names=(*opened.class_names, "jump"))
    BundleWriter(bundle, base=opened).commit(manifest)


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        (changed_byte, 4, "weights.safetensors"),
        (truncated_file, 4, "golden.npz"),
        (missing_file, 4, "model.fp32.onnx"),
        (manifest_is_no_json, 2, "manifest.json"),
        (manifest_with_wrong_types, 2, "class_names"),
        (newer_schema, 4, "pip install --upgrade star-edge"),
        (path_outside_the_bundle, 2, "points outside the bundle"),
        (one_class_too_many, 4, "does not fit the bundle"),
    ],
)
def test_damaged_bundle(folder: Path, refusal: Refusal, damage: Callable[[Path], None], code: int, message: str) -> None:
    damage(folder / "tiny.star")
    found, written = refusal("good.npy")
    assert found == code
    assert message in written
    assert "expected:" in written or "next:" in written


def test_malformed_line(folder: Path) -> None:
    result = run("--stream", "-", "--hop", 1, cwd=folder, stdin=frames(1) + "oops\n")
    assert result.returncode == 2
    assert len(result.stdout.splitlines()) == 1
    assert "standard input, line 2" in result.stderr


def test_failed_self_test(folder: Path, refusal: Refusal) -> None:
    bundle = Bundle.open(folder / "tiny.star")
    golden = bundle.golden()
    golden.logits[0, 0] += 1
    writer = BundleWriter(folder / "tiny.star", base=bundle)
    writer.add("golden.npz", golden.to_bytes())
    writer.commit(bundle.manifest)
    found, written = refusal("--self-test")
    assert found == 3
    assert "golden clips give other logits" in written


def test_two_bundles_here_must_be_told_apart(folder: Path, refusal: Refusal) -> None:
    (folder / "other.star").mkdir()
    found, written = refusal("good.npy")
    assert found == 2
    assert "other.star, tiny.star" in written
    assert run("tiny.star", "good.npy", cwd=folder).returncode == 0
