"""Every verb that opens a bundle, packed or not, compares it with its hashes, sizes and versions before it does anything."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import star_edge
from runtime.bundle import Bundle
from runtime.errors import StarEdgeError
from runtime.pack import write_pack
from star_edge.cli import main

VERBS = ("run BUNDLE --self-test", "inspect BUNDLE", "verify BUNDLE", "bench BUNDLE", "calibrate BUNDLE", "analyze BUNDLE",
         "pack BUNDLE --out x.star.zip", "report BUNDLE")  # fmt: skip
PACKED_VERBS = ("run BUNDLE --self-test", "run BUNDLE --clips", "inspect BUNDLE", "pack --unpack BUNDLE --out out.star")


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _manifest(bundle: Path, change: Callable[[dict], None]) -> None:
    path = bundle / "manifest.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


# damage -> what does it to a folder, the file that is named, the exit code
DAMAGES: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "truncated": (lambda b: (b / "model.fp32.onnx").write_bytes((b / "model.fp32.onnx").read_bytes()[:-1]), "model.fp32.onnx", 4),
    "one flipped bit": (lambda b: (b / "weights.safetensors").write_bytes(_flip((b / "weights.safetensors").read_bytes(), 9)),
                        "weights.safetensors", 4),
    "newer schema": (lambda b: _manifest(b, lambda m: m.update(schema="star-edge/bundle/2")), "manifest.json", 4),
    "missing file": (lambda b: (b / "golden.npz").unlink(), "golden.npz", 4),
    "file of an unknown name": (lambda b: _manifest(b, lambda m: m["files"].update({"x.so": m["files"]["golden.npz"]})), "x.so", 2),
}  # fmt: skip


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[[str], tuple[int, str]]:
    """Runs a command in the folder of the bundle: exit code and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["star-edge", *command.split()])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", DAMAGES)
def test_folder(star_bundle: Path, call: Callable[[str], tuple[int, str]], damage: str) -> None:
    make, file, expected = DAMAGES[damage]
    make(star_bundle)
    before = contents(star_bundle.parent)
    for verb in VERBS:
        code, error = call(verb.replace("BUNDLE", "tiny.star"))
        assert (code, file in error, "Traceback" in error) == (expected, True, False), f"{verb}: {error}"
    assert contents(star_bundle.parent) == before
    with pytest.raises(StarEdgeError, match=file.replace(".", r"\.")):
        star_edge.load(star_bundle)


def test_other_files_in_the_folder_are_neither_read_nor_in_the_way(
    star_bundle: Path, call: Callable[[str], tuple[int, str]]
) -> None:
    for name in ("notes.txt", "model.fp16.onnx", "clips.npz", "packed.json"):
        (star_bundle / name).write_bytes(b"not ours")
    assert Bundle.open(star_bundle).manifest.precisions == ("fp32",)
    assert call("run tiny.star --self-test") == (0, "")
    assert call("pack tiny.star --out x.star.zip")[0] == 0
    with zipfile.ZipFile(star_bundle.parent / "x.star.zip") as packed:
        assert "notes.txt" not in packed.namelist()
        assert json.loads(packed.read("packed.json"))["schema"] == "star-edge/packed/1"


def _rezipped(data: bytes, change: Callable[[dict[str, bytes]], object]) -> bytes:
    """The archive with other members."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    change(members)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    return out.getvalue()


def _newer(members: dict[str, bytes]) -> None:
    members["packed.json"] = members["packed.json"].replace(b"star-edge/packed/1", b"star-edge/packed/2")


PACKED_DAMAGES: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "truncated": (lambda data: data[:-1], 2),
    "one flipped bit": (lambda data: _flip(data, data.index(b"weights.safetensors") + 60), 2),
    "newer schema": (lambda data: _rezipped(data, _newer), 4),
    "missing file": (lambda data: _rezipped(data, lambda members: members.pop("golden.npz")), 4),
    "a file more": (lambda data: _rezipped(data, lambda members: members.update({"x.so": b""})), 2),
}


@pytest.mark.parametrize("damage", PACKED_DAMAGES)
def test_packed(star_bundle: Path, call: Callable[[str], tuple[int, str]], damage: str) -> None:
    make, expected = PACKED_DAMAGES[damage]
    path = write_pack(Bundle.open(star_bundle), star_bundle.parent / "tiny.star.zip").path
    path.write_bytes(make(path.read_bytes()))
    before = contents(star_bundle.parent)
    for verb in PACKED_VERBS:
        code, error = call(verb.replace("BUNDLE", path.name))
        assert (code, path.name in error, "Traceback" in error) == (expected, True, False), f"{verb}: {error}"
    assert contents(star_bundle.parent) == before
    with pytest.raises(StarEdgeError):
        star_edge.load(path)
