"""Checkpoint to bundle: what is in it, what is refused, and that an old bundle survives."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from runtime.bundle import Bundle
from runtime.errors import GateError, InputError, MismatchError
from runtime.features import compute_features
from runtime.files import sha256_of
from runtime.manifest import WEIGHTS
from runtime.tolerances import TOLERANCES
from star_edge.engines import load
from star_edge.export import export_checkpoint, many_clips
from star_edge.models import naive
from star_edge.models.config import PaddedConfig, manifest_fields
from star_edge.models.registry import config_of
from star_edge.training.checkpoint import load_checkpoint, save_checkpoint


def contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


def changed(checkpoint: Path, folder: Path, **scales: float) -> Path:
    """A copy of a checkpoint with tensors (``__`` for the dots) multiplied."""
    content = load_checkpoint(checkpoint)
    for name, factor in scales.items():
        content.state_dict[name.replace("__", ".")] *= factor
    path = folder / "changed.pt"
    save_checkpoint(content, path)
    return path


def test_bundle_is_complete_and_traceable(exported_bundle, random_checkpoint):
    from safetensors.numpy import load as load_tensors

    bundle, checkpoint = Bundle.open(exported_bundle), load_checkpoint(random_checkpoint)
    manifest = bundle.manifest
    assert manifest.precisions == ("fp32", "fp16")
    assert manifest.default_precision == "fp16"
    assert manifest.class_names == tuple("abcde")
    assert (manifest.skeleton, manifest.features) == (checkpoint.skeleton, checkpoint.features)
    assert manifest.source.checkpoint_sha256 == sha256_of(random_checkpoint)
    assert manifest.source.metrics == {"val_top1": 0.2}
    assert {op.name for op in manifest.ops} >= {"StarSparseAttention", "StarSegmentedLinearAttention"}
    assert manifest.nodes["fp16"]["layers.0.spatial.qkv"] == "fp16"
    assert manifest.nodes["fp16"]["layers.0.spatial.norm1"] == "fp32"
    weights = load_tensors(bundle.read(WEIGHTS))
    assert weights.keys() == checkpoint.state_dict.keys()
    for name, tensor in checkpoint.state_dict.items():
        np.testing.assert_array_equal(weights[name], tensor.numpy())


def test_readers_that_count_fields_are_not_told_of_widths_where_there_are_none(exported_bundle, random_checkpoint, tmp_path):
    config = load_checkpoint(random_checkpoint).model.config
    written = Bundle.open(exported_bundle).manifest
    assert "widths" not in written.model.config
    assert config_of(Bundle.open(exported_bundle)) == config
    narrow = msgspec.structs.replace(config, widths={"head.hidden": 3})
    assert manifest_fields(narrow) == {**manifest_fields(config), "widths": {"head.hidden": 3}}


def test_golden_logits_are_those_of_the_naive_reference(exported_bundle, random_checkpoint):
    golden, checkpoint = Bundle.open(exported_bundle).golden(), load_checkpoint(random_checkpoint)
    features = compute_features(golden.joints, golden.person_lengths, checkpoint.skeleton, checkpoint.features)
    short = [i for i, name in enumerate(golden.names) if name != "longest"]
    weights = {name: tensor.numpy() for name, tensor in checkpoint.state_dict.items()}
    for index in short:
        rows = features[golden.cu_seqlens[index] : golden.cu_seqlens[index + 1]]
        logits = naive.star(checkpoint.model.config, weights, rows, np.array([0, len(rows)]))
        np.testing.assert_allclose(golden.logits[index], logits[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("engine", ["native", "onnxruntime", "torch"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_engine_passes_the_golden_clips(exported_bundle, engine, precision):
    assert load(exported_bundle, engine, precision=precision, threads=1).self_test().error <= TOLERANCES[precision]


def test_same_checkpoint_gives_the_same_bundle(random_checkpoint, exported_bundle, tmp_path):
    report = export_checkpoint(random_checkpoint, tmp_path / "again.star", fp16=True)
    assert contents(tmp_path / "again.star") == contents(exported_bundle)
    assert report.passed
    assert {(result.engine, result.precision) for result in report.parity} == {
        ("onnxruntime", "fp32"), ("rounding reference", "fp16"), ("onnxruntime", "fp16")}  # fmt: skip
    assert {result.case for result in report.parity} == {
        "1 frame", "1 clip", "64 clips", "empty segment", "2 persons", "all-zero frames", "5,000 frames"}  # fmt: skip


def test_a_planted_overflow_fails_the_fp16_gate_and_the_old_bundle_stays(random_checkpoint, tmp_path):
    out = tmp_path / "model.star"
    export_checkpoint(random_checkpoint, out)
    before = contents(out)
    planted = changed(
        random_checkpoint, tmp_path, layers__0__spatial__linear1__weight=4e4, layers__0__spatial__linear2__weight=1 / 4e4
    )
    with pytest.raises(GateError, match=r"layers\.0\.spatial\.linear1 exceeds 65504") as error:
        export_checkpoint(planted, out, fp16=True, force=True)
    assert error.value.exit_code == 3
    assert contents(out) == before
    export_checkpoint(planted, out, force=True)
    assert Bundle.open(out).manifest.source.checkpoint_sha256 == sha256_of(planted)


def test_a_wrong_graph_fails_the_parity_gate(random_checkpoint, tmp_path, monkeypatch):
    import star_edge.export as export

    def wrong(config, weights, precision):
        return original(config, {**weights, "head.output.bias": weights["head.output.bias"] + 1e-3}, precision)

    original = export.build_model
    monkeypatch.setattr(export, "build_model", wrong)
    with pytest.raises(GateError, match="fp32 model gives other answers"):
        export_checkpoint(random_checkpoint, tmp_path / "model.star")
    assert not (tmp_path / "model.star").exists()


def test_targets(random_checkpoint, exported_bundle, tmp_path):
    before = contents(exported_bundle)
    with pytest.raises(InputError, match=r"(?s)the bundle exists.*--force"):
        export_checkpoint(random_checkpoint, exported_bundle)
    assert contents(exported_bundle) == before
    (tmp_path / "notes.star").write_text("mine")
    with pytest.raises(InputError, match="no bundle is in the way"):
        export_checkpoint(random_checkpoint, tmp_path / "notes.star", force=True)
    assert (tmp_path / "notes.star").read_text() == "mine"
    with pytest.raises(InputError, match="no folder"):
        export_checkpoint(random_checkpoint, tmp_path / "nowhere" / "model.star")


def write_truncated(content: bytes, path: Path) -> None:
    path.write_bytes(content[: len(content) // 2])


def write_pickle(content: bytes, path: Path) -> None:
    torch.save({"schema": "star-edge/checkpoint/1", "model": Path("x")}, path)


def edit(**fields: object):
    def write(content: bytes, path: Path) -> None:
        path.write_bytes(content)
        torch.save({**torch.load(path, weights_only=True), **fields}, path)

    return write


def write_nan(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    loaded = torch.load(path, weights_only=True)
    loaded["state_dict"]["head.output.bias"][0] = float("nan")
    torch.save(loaded, path)


def write_wrong_shape(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    loaded = torch.load(path, weights_only=True)
    loaded["state_dict"]["head.output.bias"] = torch.zeros(6)
    torch.save(loaded, path)


@pytest.mark.parametrize(
    ("write", "error", "match"),
    [
        (lambda content, path: None, InputError, "no such checkpoint"),
        (lambda content, path: path.write_bytes(b""), InputError, "cannot be read"),
        (write_truncated, InputError, "cannot be read"),
        (write_pickle, InputError, "only pickle could load"),
        (edit(schema="another/1"), InputError, "not a star-edge checkpoint"),
        (edit(schema="star-edge/checkpoint/2"), MismatchError, "newer star-edge"),
        (edit(class_names=["a", "b"]), InputError, "contradicts itself"),
        (write_nan, InputError, r"head\.output\.bias.*NaN"),
        (write_wrong_shape, InputError, r"head\.output\.bias.*does not fit"),
    ],
    ids=["absent", "empty", "truncated", "pickle", "other schema", "newer schema", "classes", "NaN", "shape"],
)
def test_bad_checkpoints_leave_nothing_behind(random_checkpoint, tmp_path, write, error, match):
    path = tmp_path / "bad.pt"
    write(random_checkpoint.read_bytes(), path)
    with pytest.raises(error, match=match) as raised:
        export_checkpoint(path, tmp_path / "bad.star", fp16=True)
    assert raised.value.exit_code in (2, 4)
    assert not (tmp_path / "bad.star").exists()


def test_logits_that_are_not_finite_in_fp32_are_refused(random_checkpoint, tmp_path):
    planted = changed(random_checkpoint, tmp_path, head__hidden__weight=1e30, head__output__weight=1e30)
    with pytest.raises(InputError, match="fp32 logits are not finite"):
        export_checkpoint(planted, tmp_path / "model.star")


def test_report_is_a_typed_document(random_checkpoint, tmp_path):
    report = export_checkpoint(random_checkpoint, tmp_path / "model.star")
    document = msgspec.json.decode(msgspec.json.encode(report))
    assert document["schema"] == "star-edge/export/1"
    assert document["precisions"] == ["fp32"]
    assert document["bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "model.star").iterdir() if path.name != "manifest.json"
    )


def test_a_padded_model_of_many_frames_is_compared_on_fewer_clips():
    config = PaddedConfig(joints=3, channels=4, classes=2, bones=((1, 0), (2, 0)), root=0, persons=2, frames=300)
    assert [many_clips(msgspec.structs.replace(config, frames=frames)) for frames in (10, 64, 300, 5000)] == [64, 46, 10, 2]
