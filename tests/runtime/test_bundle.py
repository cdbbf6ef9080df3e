"""Bundles: what is refused on reading, and that no failure while writing hurts the old one."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from runtime.bundle import Bundle, BundleWriter, write_report
from runtime.errors import InputError, MismatchError, StarEdgeError
from runtime.manifest import Manifest

NO_PROCESS = 2**22 + 1  # above the largest number that Linux gives to a process


def edit(bundle: Path, **changes: Any) -> None:
    """Change fields of the manifest and give it the id that fits, as a careful forger would."""
    path = bundle / "manifest.json"
    document = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps(document))
    manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    path.write_text(json.dumps(document | {"bundle_id": manifest.identity()}))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_round_trip(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert bundle.manifest.precisions == ("fp32",)
    assert bundle.class_names == ("wave", "kick", "bow", "clap")
    assert sorted(contents(tiny_bundle)) == ["golden.npz", "manifest.json", "model.fp32.onnx", "weights.safetensors"]
    golden = bundle.golden()
    assert golden.names == ("one row", "two persons")
    assert golden.tolerances["int8"] == 0.1
    assert golden.joints.dtype == np.float32
    assert golden.cu_seqlens.dtype == np.int32
    assert bundle.read("weights.safetensors") == bundle.path_of("weights.safetensors").read_bytes()


def test_same_content_gives_the_same_bytes(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    writer = BundleWriter(tmp_path / "again.star")
    for name in bundle.manifest.files:
        writer.add(name, bundle.read(name))
    writer.commit(bundle.manifest)
    assert contents(tmp_path / "again.star") == contents(tiny_bundle)


def test_id_covers_what_can_change_an_answer_only(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    manifest = bundle.manifest

    def with_file(name: str) -> Manifest:
        entry = msgspec.structs.replace(manifest.files[name], sha256="0" * 64)
        return msgspec.structs.replace(manifest, files=manifest.files | {name: entry})

    assert with_file("golden.npz").identity() == manifest.bundle_id
    assert msgspec.structs.replace(manifest, created_by={"torch": "9"}).identity() == manifest.bundle_id
    for changed in (
        with_file("model.fp32.onnx"),
        with_file("weights.safetensors"),
        msgspec.structs.replace(manifest, class_names=("a", "b", "c", "d")),
        msgspec.structs.replace(manifest, features=msgspec.structs.replace(manifest.features, centre="none")),
    ):
        assert changed.identity() != manifest.bundle_id
    write_report(bundle, "verify", json.dumps({"bundle_id": manifest.bundle_id}).encode())
    assert Bundle.open(tiny_bundle).manifest.bundle_id == manifest.bundle_id


@pytest.mark.parametrize("name", ["model.fp32.onnx", "weights.safetensors", "golden.npz"])
@pytest.mark.parametrize("damage", ["changed byte", "truncated", "missing"])
def test_damaged_file_is_named_with_the_next_step(tiny_bundle: Path, name: str, damage: str) -> None:
    path = tiny_bundle / name
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[:-1])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(MismatchError) as caught:
        Bundle.open(tiny_bundle)
    assert caught.value.where == str(path)
    assert caught.value.found
    assert caught.value.expected
    assert "star-edge export" in (caught.value.hint or "")
    assert caught.value.exit_code == 4


def test_changed_byte_after_opening_is_found_on_reading(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    path = tiny_bundle / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    with pytest.raises(MismatchError):
        bundle.read("weights.safetensors")
    assert Bundle.open(tiny_bundle, verify=False).manifest == bundle.manifest


@pytest.mark.parametrize(
    "text",
    ["", "not json", '{"schema": 1}', "[]", "\udcff", '{"schema": "star-edge/bundle/1"', "[" * 100_000, '{"schema":"x/1"}'],
    ids=["empty", "text", "number", "list", "not utf-8", "cut", "deep", "other kind"],
)
def test_manifest_that_is_no_manifest(tiny_bundle: Path, text: str) -> None:
    (tiny_bundle / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        Bundle.open(tiny_bundle)
    assert "manifest.json" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("class_names", "wave"),
        ("class_names", []),
        ("class_names", None),
        ("default_precision", "int4"),
        ("default_precision", "fp16"),
        ("files", {}),
        ("files", {"model.fp32.onnx": {"path": "model.fp32.onnx", "bytes": "many", "sha256": ""}}),
        ("features", {"channels": 5, "centre": "root"}),
        ("skeleton", {"name": "x", "joints": ["a", "b"], "bones": [[0, 1], [1, 0]], "root": 0}),
    ],
)
def test_manifest_with_wrong_content(tiny_bundle: Path, field: str, value: object) -> None:
    path = tiny_bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {field: value}))
    with pytest.raises(InputError) as caught:
        Bundle.open(tiny_bundle)
    assert caught.value.exit_code == 2


def test_deeply_nested_config_is_refused(tiny_bundle: Path) -> None:
    path = tiny_bundle / "manifest.json"
    nested = '{"a":' * 100_000 + "1" + "}" * 100_000
    path.write_text(path.read_text().replace('"config": {', '"config": {"x":' + nested + ",", 1))
    with pytest.raises(InputError):
        Bundle.open(tiny_bundle)


def test_edited_manifest_does_not_fit_its_id(tiny_bundle: Path) -> None:
    path = tiny_bundle / "manifest.json"
    path.write_text(path.read_text().replace('"wave"', '"salute"'))
    with pytest.raises(MismatchError, match="changed after it was written"):
        Bundle.open(tiny_bundle)


def test_newer_schema_asks_for_an_upgrade_and_is_not_overwritten(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    edit(tiny_bundle, schema="star-edge/bundle/2")
    before = contents(tiny_bundle)
    with pytest.raises(MismatchError) as caught:
        Bundle.open(tiny_bundle)
    assert "bundle/2" in (caught.value.found or "")
    assert "upgrade" in (caught.value.hint or "")
    writer = BundleWriter(tiny_bundle)
    for name in bundle.manifest.files:
        writer.add(name, b"other")
    with pytest.raises(MismatchError, match="newer"):
        writer.commit(bundle.manifest)
    assert contents(tiny_bundle) == before


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "C:x", ".hidden", "x\x00", "a\n"])
def test_paths_outside_the_bundle_are_refused(tiny_bundle: Path, path: str) -> None:
    files_field = json.loads((tiny_bundle / "manifest.json").read_bytes())["files"]
    files_field["golden.npz"]["path"] = path
    edit(tiny_bundle, files=files_field)
    with pytest.raises(InputError, match="points outside"):
        Bundle.open(tiny_bundle)


@pytest.mark.parametrize("what", ["nothing", "file", "folder"])
def test_what_is_no_bundle(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.star"
    if what == "file":
        path.write_bytes(b"zip?")
    elif what == "folder":
        path.mkdir()
    with pytest.raises(InputError, match="not a bundle"):
        Bundle.open(path)


def test_missing_precision_names_the_command_that_makes_it(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert bundle.precision() == bundle.precision("fp32") == "fp32"
    for precision, command in (("fp16", "star-edge export --fp16"), ("int8", "star-edge calibrate")):
        with pytest.raises(MismatchError) as caught:
            bundle.precision(precision)
        assert command in (caught.value.hint or "")
    with pytest.raises(MismatchError, match=r"no calibration\.json"):
        bundle.calibration_bytes()


def test_report_of_another_bundle_is_refused(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(MismatchError, match="not made from this bundle"):
        write_report(bundle, "verify", b'{"bundle_id": "other"}')
    assert not (tiny_bundle / "reports").exists()


def update(path: Path, content: bytes) -> Bundle:
    """Add or change an int8 model and drop nothing; stands for any command that rewrites a bundle."""
    bundle = Bundle.open(path)
    writer = BundleWriter(path, base=bundle)
    writer.add("model.int8.onnx", content)
    return writer.commit(msgspec.structs.replace(bundle.manifest, default_precision="int8"))


def test_names_stay_plain_when_free_and_the_manifest_maps_the_rest(tiny_bundle: Path) -> None:
    assert update(tiny_bundle, b"one").path_of("model.int8.onnx").name == "model.int8.onnx"
    assert update(tiny_bundle, b"one").path_of("model.int8.onnx").name == "model.int8.onnx"
    name = update(tiny_bundle, b"two").path_of("model.int8.onnx").name
    assert name.startswith("model.int8.")
    assert len(name) == len("model.int8.01234567.onnx")
    assert not (tiny_bundle / "model.int8.onnx").exists()
    assert update(tiny_bundle, b"three").path_of("model.int8.onnx").name == "model.int8.onnx"
    assert [path.name for path in tiny_bundle.glob("model.int8*")] == ["model.int8.onnx"]
    assert Bundle.open(tiny_bundle).read("model.int8.onnx") == b"three"


def test_removed_file_is_gone_after_the_commit(tiny_bundle: Path) -> None:
    bundle = update(tiny_bundle, b"one")
    writer = BundleWriter(tiny_bundle, base=bundle)
    writer.remove("model.int8.onnx")
    writer.commit(msgspec.structs.replace(bundle.manifest, default_precision="fp32"))
    assert Bundle.open(tiny_bundle).manifest.precisions == ("fp32",)
    assert not (tiny_bundle / "model.int8.onnx").exists()


def test_incomplete_bundle_is_not_written(tmp_path: Path, tiny_bundle: Path) -> None:
    writer = BundleWriter(tmp_path / "new.star")
    writer.add("model.fp32.onnx", b"model")
    with pytest.raises(InputError, match="incomplete"):
        writer.commit(Bundle.open(tiny_bundle).manifest)
    assert not (tmp_path / "new.star").exists()


def test_files_of_the_user_stay(tiny_bundle: Path) -> None:
    (tiny_bundle / "notes.txt").write_text("mine")
    (tiny_bundle / "model.int8.0123abcd.onnx").write_text("left by a killed command")
    (tiny_bundle / f".model.int8.onnx.{NO_PROCESS}.0123abcd.tmp").write_text("so was this")
    update(tiny_bundle, b"one")
    assert (tiny_bundle / "notes.txt").read_text() == "mine"
    assert not list(tiny_bundle.glob("*0123abcd*"))
    assert not list(tiny_bundle.glob(".*"))


def test_bundle_changed_by_another_command_meanwhile(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    update(tiny_bundle, b"theirs")
    writer = BundleWriter(tiny_bundle, base=bundle)
    writer.add("model.int8.onnx", b"ours")
    with pytest.raises(MismatchError, match="meanwhile"):
        writer.commit(bundle.manifest)
    assert Bundle.open(tiny_bundle).read("model.int8.onnx") == b"theirs"


def test_opening_while_a_command_commits(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update(tiny_bundle, b"old")
    check = Bundle._check_file

    def commit_before_the_first_check(self: Bundle, name: str, verify: bool) -> None:
        monkeypatch.setattr(Bundle, "_check_file", check)
        update(tiny_bundle, b"new")
        check(self, name, verify)

    monkeypatch.setattr(Bundle, "_check_file", commit_before_the_first_check)
    assert Bundle.open(tiny_bundle).read("model.int8.onnx") == b"new"


STEPS = ((os, "fsync"), (Path, "replace"))


def count_steps(monkeypatch: pytest.MonkeyPatch, fail_at: int, fail: Any) -> list[str]:
    """Call ``fail`` instead of the n-th write or rename; returns the list that records the steps."""
    steps: list[str] = []
    for owner, name in STEPS:
        original = getattr(owner, name)

        def step(*args: Any, name: str = name, original: Any = original) -> Any:
            steps.append(name)
            if len(steps) == fail_at:
                fail()
            return original(*args)

        monkeypatch.setattr(owner, name, step)
    return steps


def full_disk() -> None:
    raise OSError(28, "No space left on device")


def interrupt() -> None:
    raise KeyboardInterrupt


def rewrite_all(path: Path) -> None:
    """A second export over the bundle: every file changes."""
    bundle = Bundle.open(path)
    writer = BundleWriter(path)
    for name in bundle.manifest.files:
        writer.add(name, bundle.read(name) + b"\0")
    writer.commit(bundle.manifest)


@pytest.mark.parametrize("failure", [full_disk, interrupt])
@pytest.mark.parametrize("fail_at", range(1, 13))
def test_failure_at_any_step_leaves_a_whole_bundle(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int, failure: Any
) -> None:
    before = contents(tiny_bundle)
    with monkeypatch.context() as patch:
        steps = count_steps(patch, fail_at, failure)
        with contextlib.suppress(OSError, KeyboardInterrupt):
            rewrite_all(tiny_bundle)
    bundle = Bundle.open(tiny_bundle)
    folder_flush = fail_at % 3 == 0 and failure is full_disk  # after the rename, and not every file system has it
    if folder_flush or fail_at == 12:  # the manifest is in place
        assert bundle.read("weights.safetensors").endswith(b"\0")
        assert len(steps) == 12, "three files and the manifest, each flushed, renamed and its folder flushed"
    else:
        assert contents(tiny_bundle) == before


@pytest.mark.parametrize("fail_at", range(1, 14))
def test_kill_at_any_step_leaves_a_whole_bundle(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int) -> None:
    before = Bundle.open(tiny_bundle)
    child = os.fork()
    if child == 0:
        count_steps(monkeypatch, fail_at, lambda: os._exit(9))
        rewrite_all(tiny_bundle)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == (9 if fail_at <= 12 else 0)
    after = Bundle.open(tiny_bundle)
    assert (after.manifest == before.manifest) == (fail_at <= 11)
    rewrite_all(tiny_bundle)  # the next command cleans up
    assert len(contents(tiny_bundle)) == 4


@pytest.mark.parametrize("fail_at", range(1, 9))
def test_failed_first_export_leaves_no_folder(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int) -> None:
    bundle = Bundle.open(tiny_bundle)
    writer = BundleWriter(tiny_bundle.parent / "first.star")
    for name in bundle.manifest.files:
        writer.add(name, bundle.read(name))
    with monkeypatch.context() as patch:
        count_steps(patch, fail_at, interrupt)
        with pytest.raises(KeyboardInterrupt):
            writer.commit(bundle.manifest)
    assert not (tiny_bundle.parent / "first.star").exists()
    assert not list(tiny_bundle.parent.glob(".*"))


@pytest.mark.parametrize("fail_at", range(1, 13))
def test_killed_first_export_leaves_no_bundle_and_the_next_one_cleans_up(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    bundle, path = Bundle.open(tiny_bundle), tiny_bundle.parent / "first.star"
    writer = BundleWriter(path)
    for name in bundle.manifest.files:
        writer.add(name, bundle.read(name))
    child = os.fork()
    if child == 0:
        count_steps(monkeypatch, fail_at, lambda: os._exit(9))
        writer.commit(bundle.manifest)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not path.exists()
    writer.commit(bundle.manifest)
    assert contents(path) == contents(tiny_bundle)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["first.star", "tiny.star"]


def test_first_export_into_an_empty_folder_behind_a_link(tiny_bundle: Path) -> None:
    (tiny_bundle.parent / "empty").mkdir()
    (tiny_bundle.parent / "link.star").symlink_to("empty")
    bundle, writer = Bundle.open(tiny_bundle), BundleWriter(tiny_bundle.parent / "link.star")
    for name in bundle.manifest.files:
        writer.add(name, bundle.read(name))
    writer.commit(bundle.manifest)
    assert contents(tiny_bundle.parent / "empty") == contents(tiny_bundle)


@pytest.mark.parametrize("cut", [0, 10, 200, -30])
def test_golden_that_is_cut_is_refused(tiny_bundle: Path, cut: int) -> None:
    from runtime.golden import Golden

    data = (tiny_bundle / "golden.npz").read_bytes()
    with pytest.raises(StarEdgeError):
        Golden.from_bytes(data[:cut])
