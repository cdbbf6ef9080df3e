"""Packing: the same bytes for the same bundle, read without unpacking, and the same files after it."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.archive import LIST, SBOM
from runtime.bundle import Bundle, BundleWriter, is_bundle, write_report
from runtime.clip import Clip
from runtime.errors import InputError, MismatchError
from runtime.features import FeatureRecipe
from runtime.manifest import LOGICAL_NAMES, REQUIRED, Manifest, ModelEntry, Source
from runtime.pack import pack_bytes, unpack, write_pack
from runtime.packed_clips import clips_to_bytes, read_packed_clips
from runtime.readers import read_clips
from star_edge.engines import load
from star_edge.skeletons import NITE15


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def clips(labels: list[int] | None = None) -> bytes:
    """Two clips, the second of two persons with different rows."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(8, 15, 3)).astype(np.float32)
    held = [Clip(rows[:1], (1,), "one"), Clip(rows, (5, 3), "two")]
    return clips_to_bytes(held, np.array(labels or [0, 3]), ("wave", "kick", "bow", "clap"))


@pytest.fixture
def packed(tiny_bundle: Path) -> Path:
    return write_pack(Bundle.open(tiny_bundle), tiny_bundle.parent / "tiny.star.zip", clips=clips()).path


def test_packed_bundle_is_read_like_its_folder(tiny_bundle: Path, packed: Path) -> None:
    before = sorted(packed.parent.iterdir())
    folder, bundle = Bundle.open(tiny_bundle), Bundle.open(str(packed))
    assert bundle.manifest == folder.manifest
    assert {name: bundle.read(name) for name in bundle.manifest.files} == {
        name: folder.read(name) for name in folder.manifest.files
    }
    assert (bundle.golden().logits == folder.golden().logits).all()
    assert bundle.path_of("golden.npz") == packed / "golden.npz"
    with pytest.raises(MismatchError, match=r"no calibration\.json"):
        bundle.calibration_bytes()
    recognizer = load(packed, engine="onnxruntime", threads=1)
    assert recognizer.self_test().clips == 2
    joints = np.random.default_rng(0).normal(size=(6, 15, 3)).astype(np.float32)
    assert (recognizer.logits(joints) == load(tiny_bundle, engine="onnxruntime", threads=1).logits(joints)).all()
    assert recognizer.engine.report().compute == "fp32"
    assert sorted(packed.parent.iterdir()) == before


def test_same_input_gives_the_same_bytes(tiny_bundle: Path, packed: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    for path in tiny_bundle.iterdir():
        os.utime(path, (0, 0))
    assert pack_bytes(bundle, clips=clips()) == packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert not archive.testzip()


def test_unpacking_gives_the_same_files(tiny_bundle: Path, packed: Path) -> None:
    out = unpack(packed, tiny_bundle.parent / "again.star").path
    assert contents(out) == contents(tiny_bundle) | {"clips.npz": clips()}
    write_pack(Bundle.open(out), packed.with_name("again.star.zip"), clips=clips())
    assert packed.with_name("again.star.zip").read_bytes() == packed.read_bytes()


names = st.lists(st.sampled_from([name for name in LOGICAL_NAMES if name not in REQUIRED]), unique=True)


@given(others=names, data=st.data())
def test_any_bundle_comes_back(tmp_path_factory: pytest.TempPathFactory, others: list[str], data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("any")
    writer = BundleWriter(folder / "any.star")
    for name in [*REQUIRED, *others]:
        writer.add(name, data.draw(st.binary(max_size=200), label=name))
    text = st.text(min_size=1, max_size=8)
    manifest = Manifest(
        star_edge_version="0.1.0",
        model=ModelEntry("none", {}),
        skeleton=NITE15,
        features=FeatureRecipe(channels=3),
        class_names=tuple(data.draw(st.lists(text, min_size=1, max_size=4), label="classes")),
        default_precision="fp32",
        source=Source(terms=data.draw(text, label="terms")),
    )
    bundle = writer.commit(manifest)
    write_pack(bundle, folder / "any.star.zip")
    assert contents(unpack(folder / "any.star.zip", folder / "back.star").path) == contents(folder / "any.star")


def test_reports_are_packed_when_asked_for_and_current(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    write_report(bundle, "verify", json.dumps({"bundle_id": bundle.manifest.bundle_id}).encode())
    (tiny_bundle / "reports" / "bench.json").write_text('{"bundle_id": "other"}')
    (tiny_bundle / "reports" / "report.html").write_text("not JSON")
    out = tiny_bundle.parent / "tiny.star.zip"
    assert write_pack(bundle, out).reports() == []
    made = write_pack(bundle, out, reports=True)
    assert [(report.name, report.current) for report in made.reports()] == [("verify", True)]
    assert made.sidecar("reports/verify.json") == (tiny_bundle / "reports" / "verify.json").read_bytes()
    assert made.sidecar("reports/bench.json") is None
    unpack(out, tiny_bundle.parent / "back.star")
    assert [path.name for path in (tiny_bundle.parent / "back.star" / "reports").iterdir()] == ["verify.json"]


def test_packed_bundle_is_not_written_to(packed: Path, tiny_bundle: Path) -> None:
    bundle, before = Bundle.open(packed), packed.read_bytes()
    for write in (
        lambda: write_report(bundle, "verify", b"{}"),
        lambda: BundleWriter(packed, base=bundle),
        lambda: pack_bytes(bundle),
    ):
        with pytest.raises(InputError, match="needs the folder") as caught:
            write()
        assert caught.value.hint == f"star-edge pack --unpack {packed}"
    assert packed.read_bytes() == before


def test_unpacking_where_something_is(packed: Path, tiny_bundle: Path) -> None:
    before = contents(tiny_bundle)
    with pytest.raises(InputError, match="in the way"):
        unpack(packed, tiny_bundle)
    assert contents(tiny_bundle) == before
    with pytest.raises(InputError, match="no folder"):
        unpack(packed, packed.parent / "absent" / "x.star")
    with pytest.raises(InputError, match="not a packed bundle"):
        unpack(tiny_bundle, packed.parent / "x.star")


@pytest.mark.parametrize("fail_at", range(1, 6))
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failed_unpacking_leaves_nothing(
    packed: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int, failure: BaseException
) -> None:
    before, original, calls = sorted(packed.parent.iterdir()), os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2 * fail_at - 1:  # of a file; after it comes its folder
            raise failure
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(type(failure)):
        unpack(packed, packed.parent / "new.star")
    assert sorted(packed.parent.iterdir()) == before


def test_a_file_changed_since_opening_is_not_packed(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    path = tiny_bundle / "manifest.json"
    path.write_text(path.read_text().replace('"bias": true', '"bias": false'))
    with pytest.raises(MismatchError):
        pack_bytes(bundle)


def test_reserved_names(tiny_bundle: Path) -> None:
    path = tiny_bundle / "manifest.json"
    path.write_text(path.read_text().replace('"path": "golden.npz"', '"path": "clips.npz"'))
    (tiny_bundle / "golden.npz").rename(tiny_bundle / "clips.npz")
    with pytest.raises(InputError, match="reserved name"):
        pack_bytes(Bundle.open(tiny_bundle))


def test_what_is_meant_as_a_bundle(tmp_path: Path) -> None:
    assert is_bundle(tmp_path / "x.star.zip")
    assert not is_bundle(tmp_path / "x.zip")
    with pytest.raises(InputError, match="not a bundle"):
        Bundle.open(tmp_path / "x.star.zip")


def test_clips_come_back_as_they_were(packed: Path, tiny_bundle: Path) -> None:
    found = read_packed_clips(Bundle.open(packed))
    assert found.labels.tolist() == [0, 3]
    assert [(clip.name, clip.person_lengths) for clip in found.clips] == [("one", (1,)), ("two", (5, 3))]
    rows = np.random.default_rng(5).normal(size=(8, 15, 3)).astype(np.float32)
    assert (found.clips[1].joints == rows).all()
    (tiny_bundle.parent / "c.npz").write_bytes(clips())
    again = read_clips(tiny_bundle.parent / "c.npz")
    assert all((a.joints == b.joints).all() for a, b in zip(again, found.clips, strict=True))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "no clips"),
        (b"zip?", "cannot read the .npz file"),
        (clips([0, 4]), "other classes"),
        (clips([-1, 0]), "other classes"),
    ],
)
def test_clips_that_cannot_be_used(tiny_bundle: Path, data: bytes | None, message: str) -> None:
    out = tiny_bundle.parent / "x.star.zip"
    bundle = write_pack(Bundle.open(tiny_bundle), out, clips=data)
    with pytest.raises(InputError, match=message) as caught:
        read_packed_clips(bundle)
    assert (caught.value.where or "").startswith(str(out))


def test_bill_of_materials(tiny_bundle: Path) -> None:
    import hashlib

    import msgspec

    base = Bundle.open(tiny_bundle)
    manifest = msgspec.structs.replace(
        base.manifest, created_by={"star-edge": "0.1.0", "torch": "2.9"}, source=Source(data_name="set", terms="research only")
    )
    bundle = BundleWriter(tiny_bundle, base=base).commit(manifest)
    with zipfile.ZipFile(io.BytesIO(pack_bytes(bundle, clips=clips()))) as archive:
        document, held = json.loads(archive.read(SBOM)), {name: archive.read(name) for name in archive.namelist()}
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert document["serialNumber"].startswith("urn:uuid:")
    hashes = {entry["name"]: entry["hashes"] for entry in document["components"]}
    assert sorted(hashes) == sorted(held.keys() - {SBOM, LIST, "manifest.json"})
    for name, listed in hashes.items():
        assert listed == [{"alg": "SHA-256", "content": hashlib.sha256(held[name]).hexdigest()}]
    tools = {tool["name"]: tool["version"] for tool in document["metadata"]["tools"]["components"]}
    assert tools == {"star-edge": "0.1.0", "torch": "2.9"}
    properties = {entry["name"]: entry["value"] for entry in document["metadata"]["component"]["properties"]}
    assert properties["star-edge:training-data-terms"] == "research only"
    references = {entry["bom-ref"] for entry in document["components"]}
    assert set(document["dependencies"][0]["dependsOn"]) == references
