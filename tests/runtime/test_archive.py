"""Packed bundles that are damaged or made to harm: each is refused, and says what, where, found, expected and what to do."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import archive
from runtime.archive import LIST, Archive
from runtime.bundle import Bundle
from runtime.errors import InputError, MismatchError, StarEdgeError
from runtime.pack import pack_bytes, unpack

REGULAR, LINK, FOLDER = 0o100644 << 16, 0o120777 << 16, 0o040755 << 16


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def listed(members: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    """The members with a list that fits them, as a careful forger would make it."""
    document = json.loads(members[LIST]) | changes
    files = {name: data for name, data in members.items() if name != LIST}
    document["files"] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    }
    return members | {LIST: json.dumps(document).encode()}


def zipped(members: dict[str, bytes], attributes: int = REGULAR, method: int = zipfile.ZIP_STORED, **special: int) -> bytes:
    """An archive; ``special`` gives single members other attributes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = special.get(name, attributes)
            packed.writestr(entry, data, compress_type=method)
    return buffer.getvalue()


@pytest.fixture
def packed(tiny_bundle: Path) -> bytes:
    return pack_bytes(Bundle.open(tiny_bundle))


@pytest.fixture
def members(packed: bytes) -> dict[str, bytes]:
    return members_of(packed)


Refusal = Callable[..., StarEdgeError]


@pytest.fixture
def refused(tmp_path: Path) -> Refusal:
    """The error with which an archive is refused; also by unpacking, which leaves nothing."""

    def refuse(data: bytes, kind: type[StarEdgeError] = InputError) -> StarEdgeError:
        folder = tmp_path / "refused"
        folder.mkdir(exist_ok=True)
        path = folder / "x.star.zip"
        path.write_bytes(data)
        with pytest.raises(kind) as caught:
            Bundle.open(path)
        error = caught.value
        assert type(error) is kind
        assert error.where
        assert error.where.startswith(str(path))
        assert error.found
        assert error.expected
        assert error.hint
        with pytest.raises(kind):
            unpack(path, folder / "out.star")
        assert [entry.name for entry in folder.iterdir()] == ["x.star.zip"]
        return error

    return refuse


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "reports/../../evil", "a\\b", "..\\evil", "C:evil", "C:\\evil", ".hidden", "reports/.hidden", "a/b/c",
     "..", "x\n", "é", "reports/"],
)  # fmt: skip
def test_a_path_that_could_leave_the_folder(members: dict[str, bytes], refused: Refusal, name: str) -> None:
    assert "not a plain file name" in refused(zipped(listed(members | {name: b"evil"}))).what


def test_a_name_that_ends_early(members: dict[str, bytes], refused: Refusal) -> None:
    data = zipped(listed(members | {"evil.X.onnx": b"evil"})).replace(b"evil.X", b"evil.\0")
    assert "not a plain file name" in refused(data).what


@pytest.mark.parametrize(("attributes", "what"), [(LINK, "a link"), (FOLDER, "no file"), (0o010644 << 16, "no file")])
def test_an_entry_that_is_no_regular_file(members: dict[str, bytes], refused: Refusal, attributes: int, what: str) -> None:
    error = refused(zipped(members, **{"golden.npz": attributes}))
    assert what in error.what
    assert "golden.npz" in (error.found or "")


def test_attributes_of_other_systems_are_no_reason_to_refuse(members: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "x.star.zip").write_bytes(zipped(members, attributes=0, method=zipfile.ZIP_DEFLATED))
    Bundle.open(tmp_path / "x.star.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["golden.npz", "Golden.npz"])
def test_a_name_twice(members: dict[str, bytes], refused: Refusal, name: str) -> None:
    """Also where only the case differs: on some systems one would overwrite the other."""
    buffer = io.BytesIO(zipped(members))
    with zipfile.ZipFile(buffer, "a") as packed:
        packed.writestr(zipfile.ZipInfo(name), b"other")
    assert refused(buffer.getvalue()).found == "golden.npz"


def test_a_file_that_the_list_does_not_name(members: dict[str, bytes], refused: Refusal) -> None:
    assert refused(zipped(members | {"setup.py": b"evil"})).found == "setup.py"


@pytest.mark.parametrize("name", ["setup.py", "reports/run.sh", "reports/golden.npz"])
def test_a_file_that_the_manifest_does_not_name(members: dict[str, bytes], refused: Refusal, name: str) -> None:
    error = refused(zipped(listed(members | {name: b"evil"})))
    assert "not in the manifest" in error.what
    assert error.found == name


@pytest.mark.parametrize("name", ["golden.npz", "manifest.json", "sbom.cdx.json"])
def test_a_listed_file_that_is_missing(members: dict[str, bytes], refused: Refusal, name: str) -> None:
    del members[name]
    assert name in (refused(zipped(members), MismatchError).expected or "")


def test_a_file_of_the_manifest_that_is_missing(members: dict[str, bytes], refused: Refusal) -> None:
    del members["golden.npz"]
    assert "golden.npz" in refused(zipped(listed(members)), MismatchError).what


@pytest.mark.parametrize("name", [LIST, "manifest.json"])
def test_an_archive_that_is_no_bundle(members: dict[str, bytes], refused: Refusal, name: str) -> None:
    others = {other: data for other, data in members.items() if other != name}
    data = zipped(others) if name == LIST else zipped(listed(others))
    assert "not a bundle" in refused(data).what


@pytest.mark.parametrize("flag", [0x1, 0x40, 0x2000])
def test_encryption(packed: bytes, refused: Refusal, flag: int) -> None:
    data = bytearray(packed)
    with zipfile.ZipFile(io.BytesIO(packed)) as whole:
        struct.pack_into("<H", data, whole.start_dir + 8, flag)
    struct.pack_into("<H", data, 6, flag)
    assert "encrypted" in refused(bytes(data)).what


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression(members: dict[str, bytes], refused: Refusal, method: int) -> None:
    assert "unknown way" in refused(zipped(members, method=method)).what


def test_bomb_with_an_honest_directory(members: dict[str, bytes], refused: Refusal) -> None:
    bomb = listed(members | {"clips.npz": bytes(20 << 20)})
    assert "too large" in refused(zipped(bomb, method=zipfile.ZIP_DEFLATED)).what


def test_bomb_that_hides_its_size(members: dict[str, bytes], refused: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers claim a few bytes, the compressed stream unfolds to many: no more are unfolded than the list allows."""
    members = listed(members | {"clips.npz": b"tiny"})
    data = bytearray(zipped(members | {"clips.npz": bytes(50 << 20)}, method=zipfile.ZIP_DEFLATED))
    for signature, size, name in ((b"PK\x03\x04", 22, 30), (b"PK\x01\x02", 24, 46)):
        at = next(
            i for i in range(len(data)) if data[i : i + 4] == signature and data[i + name : i + name + 9] == b"clips.npz"
        )
        struct.pack_into("<I", data, at + size, 4)
    taken = []
    original = zipfile.ZipExtFile.read

    def read(self: zipfile.ZipExtFile, n: int = -1) -> bytes:
        taken.append(len(part := original(self, n)))
        return part

    monkeypatch.setattr(zipfile.ZipExtFile, "read", read)
    assert "damaged" in refused(bytes(data)).what
    assert max(taken) < 1 << 20


def test_size_that_is_not_the_listed_one(members: dict[str, bytes], refused: Refusal) -> None:
    error = refused(zipped(members | {"golden.npz": members["golden.npz"] + b"\0"}), MismatchError)
    assert error.found == f"{len(members['golden.npz']) + 1} bytes"


def test_content_that_is_not_the_listed_one(members: dict[str, bytes], refused: Refusal) -> None:
    changed = bytes([members["golden.npz"][0] ^ 1]) + members["golden.npz"][1:]
    assert "golden.npz" in refused(zipped(members | {"golden.npz": changed}), MismatchError).what


def test_content_that_is_not_the_manifests(members: dict[str, bytes], refused: Refusal) -> None:
    changed = bytes([members["golden.npz"][0] ^ 1]) + members["golden.npz"][1:]
    assert "golden.npz" in refused(zipped(listed(members | {"golden.npz": changed})), MismatchError).what


def test_list_of_another_bundle(members: dict[str, bytes], refused: Refusal) -> None:
    assert "different bundles" in refused(zipped(listed(members, bundle_id="0" * 64)), MismatchError).what


def test_newer_schemas(members: dict[str, bytes], refused: Refusal) -> None:
    newer = refused(zipped(listed(members, schema="star-edge/packed/2")), MismatchError)
    assert newer.hint == "pip install --upgrade star-edge"
    manifest = members["manifest.json"].replace(b"star-edge/bundle/1", b"star-edge/bundle/2")
    newer = refused(zipped(listed(members | {"manifest.json": manifest})), MismatchError)
    assert newer.found == "star-edge/bundle/2"


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"schema": "star-edge/packed/1"}', b"\xff", b"[" * 100_000])
def test_list_that_is_none(members: dict[str, bytes], tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.star.zip").write_bytes(zipped(members | {LIST: text}))
    with pytest.raises(InputError, match=r"packed\.json"):
        Bundle.open(tmp_path / "x.star.zip")


def test_limits(members: dict[str, bytes], refused: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    many = listed(members | {f"reports/r{i}.json": b"" for i in range(300)})
    assert "too many files" in refused(zipped(many)).what
    monkeypatch.setitem(archive._LIMITS, "manifest.json", 100)
    assert "manifest.json is too large" in refused(zipped(members)).what
    monkeypatch.setitem(archive._LIMITS, LIST, 100)
    assert "larger than it may be" in refused(zipped(members)).what


def test_entries_that_share_their_bytes(members: dict[str, bytes], refused: Refusal) -> None:
    """Each directory entry points at one local header: a bomb of the kind that overlaps."""
    data = bytearray(zipped(members))
    entries = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02"]
    (first,) = struct.unpack_from("<I", data, entries[0] + 42)
    struct.pack_into("<I", data, entries[1] + 42, first)
    assert refused(bytes(data)).what in ("entries of the archive overlap", "the packed bundle is damaged or truncated")


@pytest.mark.parametrize(
    "data", [b"", b"zip?", b"PK", b"PK\x05\x06" + bytes(18)], ids=["empty", "text", "two bytes", "no entries"]
)
def test_what_is_no_packed_bundle(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.star.zip").write_bytes(data)
    with pytest.raises(InputError) as caught:
        Bundle.open(tmp_path / "x.star.zip")
    assert caught.value.hint


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated(packed: bytes, refused: Refusal, share: float) -> None:
    error = refused(packed[: int(len(packed) * share)]) if share else refused(packed[:-1])
    assert "damaged or truncated" in error.what


def with_changed_model(packed: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(packed)) as whole:
        begin = whole.getinfo("model.fp32.onnx").header_offset
    data = bytearray(packed)
    data[begin + 100] ^= 1
    return bytes(data)


def test_wrong_crc(packed: bytes, refused: Refusal) -> None:
    error = refused(with_changed_model(packed))
    assert "CRC" in (error.found or "")


def test_a_member_that_changes_after_opening(packed: bytes, members: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "x.star.zip"
    path.write_bytes(packed)
    bundle = Bundle.open(path)
    path.write_bytes(zipped(members | {"weights.safetensors": bytes(len(members["weights.safetensors"]))}))
    with pytest.raises(MismatchError):
        bundle.read("weights.safetensors")
    path.write_bytes(zipped({"other": b""}))
    with pytest.raises(InputError):
        bundle.read("weights.safetensors")


def test_without_verifying_only_the_directory_is_read(packed: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.star.zip").write_bytes(with_changed_model(packed))
    bundle = Bundle.open(tmp_path / "x.star.zip", verify=False)
    with pytest.raises(InputError):
        bundle.read("model.fp32.onnx")
    assert "golden.npz" in Archive.open(tmp_path / "x.star.zip")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A folder to write damaged archives into, and a whole one of a bundle that no engine could run."""
    from runtime.bundle import BundleWriter
    from runtime.features import FeatureRecipe
    from runtime.manifest import Manifest, ModelEntry
    from star_edge.skeletons import get_skeleton

    folder = tmp_path_factory.mktemp("damaged")
    writer = BundleWriter(folder / "x.star")
    for name in ("model.fp32.onnx", "weights.safetensors", "golden.npz"):
        writer.add(name, name.encode() * 20)
    manifest = Manifest(
        star_edge_version="0.1.0",
        model=ModelEntry("none", {}),
        skeleton=get_skeleton("nite15"),
        features=FeatureRecipe(channels=3),
        class_names=("a", "b"),
        default_precision="fp32",
    )
    return folder, pack_bytes(writer.commit(manifest))


@settings(max_examples=300)
@given(st.data())
def test_no_damage_gives_another_bundle(whole: tuple[Path, bytes], data: st.DataObject) -> None:
    """Whatever bytes are overwritten, cut out or put in: the same bundle, or an error of ours."""
    folder, good = whole
    start = data.draw(st.integers(0, len(good)), label="start")
    removed = data.draw(st.integers(0, min(40, len(good) - start)), label="removed")
    put = data.draw(st.binary(min_size=removed, max_size=removed) | st.binary(max_size=40), label="put")
    path = folder / "x.star.zip"
    path.write_bytes(good[:start] + put + good[start + removed :])
    try:
        bundle = Bundle.open(path)
        found = {entry.path: bundle.read(name) for name, entry in bundle.manifest.files.items()}
    except (InputError, MismatchError):
        return
    expected = members_of(good)
    assert found == {name: expected[name] for name in found}
    assert bundle.archive is not None
    assert bundle.archive.read("manifest.json") == expected["manifest.json"]
    assert sorted(bundle.archive.names) == sorted(expected.keys() - {LIST})
