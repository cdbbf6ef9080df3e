"""verify_bundle and the verb, with engines whose errors are planted."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from runtime.bundle import Bundle, BundleWriter
from runtime.clip import Clip
from runtime.engine import EngineReport
from runtime.engines.onnxruntime import open_engine
from runtime.errors import InputError, MismatchError
from runtime.manifest import Source
from runtime.pack import unpack, write_pack
from runtime.packed_clips import clips_to_bytes
from runtime.readers.ntu import Recording
from star_edge.cli import main
from star_edge.data.splits import TEST, TRAIN, Split
from star_edge.data.writer import DatasetWriter, SetInfo
from star_edge.training.batches import featurise
from star_edge.verification import verify, verify_bundle

CLIPS = 120


class PlantedEngine:
    """The bundle's own fp32 answers, changed."""

    def __init__(self, bundle, name, precision, compute, change):
        self.name, self.precision, self.compute, self.change = name, precision, compute, change
        self.inner = open_engine(bundle, precision="fp32", threads=1)

    def run(self, features, cu_seqlens):
        return self.change(self.inner.run(features, cu_seqlens).copy())

    def report(self):
        return EngineReport(
            engine=self.name,
            precision=self.precision,
            storage=self.precision,
            compute=self.compute,
            provider="planted 1.0",
            mode="per-clip",
            threads=1,
        )


@pytest.fixture
def planted(monkeypatch):
    """Dictionary (engine, precision) -> change of the logits; engines named in it answer with that error."""
    changes = {}

    def open_planted(bundle, name, *, precision=None, threads=None, mode=None, device=None):
        compute = "fp32" if name == "native" and precision == "fp16" else precision
        return PlantedEngine(bundle, name, precision, compute, changes.get((name, precision), lambda logits: logits))

    monkeypatch.setattr(verify, "open_engine", open_planted)
    return changes


def write_dataset(path: Path, bundle: Bundle, **changes: object) -> Path:
    """A dataset of 1 to 300 rows a clip; the last clip trains, the others test. Labels are the model's own answers for all but 20."""
    manifest = bundle.manifest
    rng = np.random.default_rng(1)
    info = SetInfo("tiny", "made by a test", "free", manifest.skeleton, manifest.class_names, 30.0)
    info = msgspec.structs.replace(info, **changes)
    engine = open_engine(bundle, precision="fp32", threads=1)
    from runtime.features import compute_features

    with DatasetWriter(path, info.skeleton.num_joints, "by hand") as writer:
        assert not list(writer.replay([]))
        for i in range(CLIPS + 1):
            rows = 300 if i == 7 else 1 + i % 40
            joints = rng.normal(size=(rows, info.skeleton.num_joints, 3)).astype(np.float32)
            label = 0
            if info.skeleton.num_joints == manifest.skeleton.num_joints:
                features = compute_features(joints, np.array([[rows]]), manifest.skeleton, manifest.features)
                label = int(engine.run(features, np.array([0, rows], dtype=np.int32)).argmax())
            label = (label + (i < 20)) % len(info.class_names)
            recording = Recording(Clip(joints, (rows,), f"clip {i}"), rows, 1)
            writer.keep(recording, f"clip {i}", label, 1, (0, 0), stored=False)
        assignment = np.array([TEST] * CLIPS + [TRAIN], dtype=np.int8)
        writer.commit(info, {"own": Split(assignment, "by hand"), "other": Split(assignment, "by hand")}, "own", [], 0, 0)
    return path


@pytest.fixture
def bundle(tiny_bundle) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture
def data(bundle, tmp_path) -> Path:
    return write_dataset(tmp_path / "clips", bundle)


def test_the_right_answers_pass_and_the_report_is_in_the_bundle(bundle, data, planted):
    planted["native", "int8"] = lambda logits: logits + np.float32(0.01)
    report = verify_bundle(bundle, data, precisions=["fp32", "int8"])
    assert report.passed
    assert (report.split, report.part, report.samples, report.available) == ("own", "test", CLIPS, CLIPS)
    fp32, int8 = report.results
    assert fp32.top1 == fp32.reference_top1 == pytest.approx((CLIPS - 20) / CLIPS)
    assert (fp32.agreement, fp32.lost, fp32.gained, fp32.max_abs_err) == (1.0, 0, 0, 0.0)
    assert int8.max_abs_err == pytest.approx(0.01, rel=1e-2)
    assert int8.split == "own/test"
    assert sum(bucket.samples for bucket in fp32.buckets) == CLIPS
    assert all(bucket.verdict == "insufficient" for bucket in fp32.buckets)
    written = (bundle.path / "reports" / "verify.json").read_bytes()
    assert msgspec.json.decode(written, type=type(report)) == report
    assert report.bundle_id == bundle.manifest.bundle_id
    answers = json.loads((bundle.path / "reports" / "predictions.json").read_bytes())
    assert (answers["bundle_id"], answers["data_sha256"]) == (report.bundle_id, report.data_sha256)
    assert [(row["engine"], row["precision"]) for row in answers["answers"]] == [
        ("torch", "fp32"), ("native", "fp32"), ("native", "int8")
    ]  # fmt: skip
    for row, result in zip(answers["answers"][1:], report.results, strict=True):
        right = sum(a == b for a, b in zip(row["classes"], answers["labels"], strict=True))
        assert right / len(answers["clips"]) == result.top1


def test_fp16_that_computes_in_fp32_is_decided_by_the_rounding_reference(bundle, data, planted):
    def overflow(logits):
        logits[:, 0] = np.inf
        return logits

    planted["torch", "fp16"] = overflow
    report = verify_bundle(bundle, data, precisions=["fp16"])
    assert [(r.engine, r.compute, r.decides, r.passed) for r in report.results] == [
        ("native", "fp32", False, True),
        ("torch", "fp16", True, False),
    ]
    assert not report.passed
    assert report.results[1].not_finite == CLIPS
    assert report.results[1].max_abs_err is None


def test_the_default_engine_is_compared_in_all_it_computes(exported_bundle, tmp_path, monkeypatch):
    path = Path(shutil.copytree(exported_bundle, tmp_path / "own.star"))
    data = write_dataset(tmp_path / "clips", Bundle.open(path))
    options = ["--data", data, "--threads", 1, "--samples", 30]
    assert run_verb(monkeypatch, path, *options) == 0
    rows = json.loads((path / "reports" / "verify.json").read_bytes())["results"]
    native = {row["precision"]: row for row in rows if row["engine"] == "native"}
    assert native.keys() == {"fp32", "fp16", "bf16"}
    assert native["fp32"]["decides"]
    assert native["fp16"]["compute"] == "fp32"
    # a precision that this processor computes in another one is decided by the reference that rounds
    assert [row["precision"] for row in rows if row["engine"] == "torch"] == [
        precision for precision in ("fp16", "bf16") if not native[precision]["decides"]
    ]
    assert run_verb(monkeypatch, path, *options, "--precision", "bf16") == 0
    assert run_verb(monkeypatch, path, *options, "--precision", "bf16", "--engine", "onnxruntime") == 4


def test_a_wrong_engine_misses_the_gate(bundle, data, planted):
    planted["native", "int8"] = lambda logits: np.roll(logits, 1, axis=1)
    (result,) = verify_bundle(bundle, data, precisions=["int8"]).results
    assert not result.passed
    assert result.lost == CLIPS - 20
    assert result.gained == 20  # their labels are the model's answers plus one
    assert result.relative_accuracy == pytest.approx(20 / (CLIPS - 20))


def test_samples_are_drawn_by_seed(bundle, data, planted):
    first = verify_bundle(bundle, data, samples=30, seed=3)
    assert (first.samples, first.available, first.seed) == (30, CLIPS, 3)
    assert verify_bundle(bundle, data, samples=30, seed=3) == first
    drawn = [verify_bundle(bundle, data, samples=30, seed=seed).results[0].top1 for seed in range(6)]
    assert len(set(drawn)) > 1


def test_split_and_part_can_be_chosen(bundle, data, planted):
    report = verify_bundle(bundle, data, split="other", part="train")
    assert (report.split, report.part, report.samples) == ("other", "train", 1)
    with pytest.raises(InputError, match="no clips to compare"):
        verify_bundle(bundle, data, part="val")


def with_source(bundle: Bundle, **source: str) -> Bundle:
    writer = BundleWriter(bundle.path, bundle)
    return writer.commit(msgspec.structs.replace(bundle.manifest, source=Source(**source)))


def test_the_training_source_is_the_default(bundle, data, planted):
    with pytest.raises(InputError, match="trained on is not here") as raised:
        verify_bundle(bundle)
    assert "--data" in raised.value.hint
    bundle = with_source(bundle, data=str(data), split="other")
    assert verify_bundle(bundle).split == "other"
    bundle = with_source(bundle, data=str(data), data_sha256="0" * 64)
    with pytest.raises(MismatchError, match="data changed"):
        verify_bundle(bundle)
    assert verify_bundle(bundle, data).passed  # said on purpose
    bundle = with_source(bundle, data=str(data.parent / "gone"))
    with pytest.raises(InputError, match="gone"):
        verify_bundle(bundle)


def test_data_of_other_classes_or_joints_is_refused(bundle, tmp_path, planted):
    from star_edge.skeletons import get_skeleton

    classes = write_dataset(tmp_path / "classes", bundle, class_names=("wave", "kick", "jump", "clap"))
    with pytest.raises(MismatchError, match="'jump', not 'bow'"):
        verify_bundle(bundle, classes)
    fewer = write_dataset(tmp_path / "fewer", bundle, class_names=("wave", "kick"))
    with pytest.raises(MismatchError, match="2 classes"):
        verify_bundle(bundle, fewer)
    joints = write_dataset(tmp_path / "joints", bundle, skeleton=get_skeleton("ntu25"))
    with pytest.raises(MismatchError, match="another skeleton"):
        verify_bundle(bundle, joints)


def run_verb(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["star-edge", "verify", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_verb_prints_one_document_and_exits_by_the_gate(bundle, data, planted, monkeypatch, capsys):
    assert run_verb(monkeypatch, bundle.path, "--data", data, "--json") == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["schema"] == "star-edge/verify/1"
    fields = (
        "engine precision split samples top1 reference_top1 agreement lost gained max_abs_err relative_accuracy buckets passed"
    )
    assert set(fields.split()) <= document["results"][0].keys()
    assert {"frames", "samples", "agreement", "max_abs_err", "verdict"} <= document["results"][0]["buckets"][0].keys()
    last = shown.err.strip().splitlines()[-1]
    assert last.startswith("gates passed on 120 test clips")
    assert last.endswith(f"next: star-edge bench {bundle.path}")

    planted["native", "fp32"] = lambda logits: -logits
    assert run_verb(monkeypatch, bundle.path, "--data", data) == 3
    shown = capsys.readouterr()
    assert "MISSED" in shown.out
    assert "the accuracy gate is missed" in shown.err
    assert run_verb(monkeypatch, bundle.path, "--data", data.parent / "nothing") == 2
    assert run_verb(monkeypatch, bundle.path, "--data", data, "--split", "unknown") == 2


@pytest.fixture
def sent(bundle, tmp_path) -> Path:
    """A packed bundle with five clips, two persons in one; all but one label are the model's own answer."""
    rng = np.random.default_rng(2)
    clips = [Clip(rng.normal(size=(9 + i, 15, 3)).astype(np.float32), (9 + i,), f"sent {i}") for i in range(4)]
    clips.append(Clip(rng.normal(size=(8, 15, 3)).astype(np.float32), (5, 3), "two"))
    engine = open_engine(bundle, precision="fp32", threads=1)
    labels = np.array([engine.run(*featurise([clip], *layout(bundle)))[0].argmax() for clip in clips])
    labels[3] = (labels[3] + 1) % 4
    packed = tmp_path / "sent.star.zip"
    write_pack(bundle, packed, clips=clips_to_bytes(clips, labels, bundle.class_names))
    return packed


def layout(bundle):
    return bundle.manifest.skeleton, bundle.manifest.features


def test_a_packed_bundle_is_compared_on_the_clips_sent_along(sent, planted, tmp_path):
    before = sent.read_bytes()
    report = verify_bundle(sent, precisions=["fp32"])
    assert (report.data, report.split, report.part, report.samples, report.available) == (
        "packed clips",
        "packed",
        "test",
        5,
        5,
    )
    assert report.results[0].top1 == report.results[0].reference_top1 == pytest.approx(4 / 5)
    assert report.passed
    planted["native", "fp32"] = lambda logits: -logits
    assert not verify_bundle(sent, precisions=["fp32"]).passed
    assert sent.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sent.star.zip", "tiny.star"]


def test_an_unpacked_bundle_uses_them_when_told(sent, planted, tmp_path):
    folder = unpack(sent, tmp_path / "board.star").path
    with pytest.raises(InputError, match="the data the model was trained on is not here"):
        verify_bundle(folder)
    report = verify_bundle(folder, own_clips=True, precisions=["fp32"], samples=3)
    assert (report.samples, report.available) == (3, 5)
    answers = json.loads((folder / "reports" / "predictions.json").read_bytes())
    assert set(answers["clips"]) < {"sent 0", "sent 1", "sent 2", "sent 3", "two"}
    assert json.loads((folder / "reports" / "verify.json").read_bytes())["split"] == "packed"


def test_a_bundle_without_clips_says_how_to_get_them(bundle, planted, tmp_path):
    with pytest.raises(InputError, match=r"star-edge pack --clips"):
        verify_bundle(bundle, own_clips=True)
    packed = write_pack(bundle, tmp_path / "bare.star.zip")
    with pytest.raises(InputError, match=r"star-edge pack --unpack"):
        verify_bundle(packed)


def test_the_verb_on_a_packed_bundle(sent, data, planted, monkeypatch, capsys):
    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["star-edge", "verify", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    assert run(sent, "--precision", "fp32") == 0
    assert "gates passed on 5 test clips" in capsys.readouterr().out.replace("\n", " ")
    assert run(sent, "--clips", "--precision", "fp32", "--json") == 0
    assert json.loads(capsys.readouterr().out)["split"] == "packed"
    for options in (("--split", "own"), ("--part", "val")):
        assert run(sent, *options) == 2
        assert f"{options[0]} chooses clips" in " ".join(capsys.readouterr().err.split())
    for options in (("--data", data), ("--split", "own"), ("--layers",)):
        assert run(sent, "--clips", *options) == 2
    assert run(sent, "--data", data) == 2
    assert "star-edge pack --unpack" in capsys.readouterr().err
