"""``verify --layers``: every module beside the reference, the first bad one, the case to look at again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from runtime.bundle import Bundle, BundleWriter
from runtime.errors import GateError, InputError, MismatchError
from runtime.packing import cu_seqlens_of
from star_edge.cli.verify import command
from star_edge.verification.layers import Case, _Compared, compare_layers, difference
from star_edge.verification.taps import open_tap


@pytest.fixture
def bundle(exported_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_bundle, tmp_path / "random.star"))


@pytest.fixture
def case(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).normal(0, 0.4, (9, 15, 9)).astype(np.float32)
    path = tmp_path / "case.npz"
    path.write_bytes(Case("made up", rows).to_bytes())
    return path


@pytest.fixture
def small_recordings(bundle: Path, tmp_path: Path) -> Path:
    """Six clips of the bundle's layout and classes; subjects 5 and 6 test."""
    manifest = Bundle.open(bundle).manifest
    lengths = np.array([4, 7, 1, 9, 3, 12])
    path = tmp_path / "clips.npz"
    np.savez(
        path,
        xyz=np.random.default_rng(1).normal(0, 0.5, (lengths.sum(), 15, 3)).astype(np.float32),
        lengths=lengths,
        labels=np.arange(6) % len(manifest.class_names),
        subjects=np.arange(1, 7),
        class_names=np.array(manifest.class_names),
        edges=np.array(manifest.skeleton.bones),
    )
    return path


def spoil(path: Path, initializer: str, change: float) -> None:
    """Change one weight of the fp32 graph by a factor; the manifest's hash follows."""
    bundle = Bundle.open(path)
    model = onnx.load_model_from_string(bundle.read("model.fp32.onnx"))
    tensor = next(entry for entry in model.graph.initializer if entry.name == initializer)
    tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) * change).astype(np.float32), initializer))
    writer = BundleWriter(bundle.path, bundle)
    writer.add("model.fp32.onnx", model.SerializeToString())
    writer.commit(bundle.manifest)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_an_engine_that_shows_its_logits_alone_is_refused(bundle: Path, case: Path):
    with pytest.raises(InputError, match="the native engine does not show") as caught:
        compare_layers(bundle, engine="native", case=case)
    assert caught.value.hint == "--engine onnxruntime"
    assert not (bundle / "reports").exists()


@pytest.mark.parametrize(
    ("engine", "precision"), [("onnxruntime", "fp32"), ("onnxruntime", "fp16"), ("torch", "fp16"), ("torch", "bf16")]
)
def test_a_sound_bundle_has_no_bad_module(bundle: Path, case: Path, engine: str, precision: str):
    report = compare_layers(bundle, engine=engine, precision=precision, case=case)
    assert report.first_bad is None
    assert (report.clip, report.rows, report.reference) == ("made up", 9, "torch fp32")
    modules = [layer.module for layer in report.layers]
    assert modules[0] == "input_norm"
    assert modules[-1] == "head.output"
    assert len(set(modules)) == len(modules)
    assert {"layers.0.spatial.qkv", "layers.1.temporal.attention", "layers.1", "context"} <= set(modules)
    for layer in report.layers:
        assert layer.cosine == pytest.approx(1, abs=1e-4)
        assert layer.relative_err is not None
        assert layer.relative_err < (1e-4 if precision == "fp32" else 2e-2)


@pytest.mark.parametrize("bisect", [False, True])
@pytest.mark.parametrize("module", ["embedding", "layers.0.temporal.linear2", "layers.1.spatial.qkv", "head.output"])
def test_the_first_bad_module_is_the_one_that_was_spoiled(bundle: Path, case: Path, module: str, bisect: bool):
    spoil(bundle, f"{module}.weight", 1.5)
    report = compare_layers(bundle, precision="fp32", case=case, bisect=bisect)
    assert report.first_bad == module
    if bisect:
        assert len(report.layers) <= 8  # of 45: seven halvings and the logits


def test_bisection_of_a_sound_bundle_looks_at_the_logits_alone(bundle: Path, case: Path):
    report = compare_layers(bundle, precision="fp32", case=case, bisect=True)
    assert ([layer.module for layer in report.layers], report.first_bad) == (["head.output"], None)


def test_few_outputs_are_held_at_once(bundle: Path, case: Path):
    rows = Case.read(case).features
    opened = Bundle.open(bundle)
    reference, contender = (open_tap(opened, engine, "fp32", 1) for engine in ("torch", "onnxruntime"))
    most: list[int] = []

    class Counted:
        name, modules = contender.name, staticmethod(contender.modules)

        def outputs(self, modules, features, cu_seqlens):
            most.append(len(modules))
            return contender.outputs(modules, features, cu_seqlens)

    layers = list(_Compared(reference, Counted(), rows, cu_seqlens_of([len(rows)]), 1e-5).all())
    assert max(most) == 8
    assert sum(most) == len(layers)


def test_the_clip_furthest_apart_is_taken_and_can_be_looked_at_again(bundle: Path, small_recordings: Path):
    found = run(bundle, "--layers", "--data", small_recordings, "--precision", "fp16", "--json", "--threads", 1)
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert report["schema"] == "star-edge/layers/1"
    assert json.loads((bundle / "reports" / "layers.json").read_text()) == report
    again = run(bundle, "--layers", "--case", report["case"], "--precision", "fp16", "--json", "--threads", 1)
    assert json.loads(again.stdout)["layers"] == report["layers"]
    assert json.loads(again.stdout)["clip"] == report["clip"] != ""


def test_a_bad_module_ends_with_exit_code_3_and_the_command_to_repeat(bundle: Path, case: Path):
    spoil(bundle, "layers.1.spatial.qkv.weight", 2.0)
    result = run(bundle, "--layers", "--case", case, "--precision", "fp32")
    assert isinstance(result.exception, GateError)
    assert result.exception.what == "onnxruntime fp32 leaves the reference at 'layers.1.spatial.qkv'"
    assert "--case" in (result.exception.hint or "")
    assert "BAD" in result.output


def test_differences():
    reference = np.array([3.0, 4.0])
    half = difference("m", np.array([3.0, 4.5]), reference, 0.05)
    assert (half.max_abs_err, half.bad) == (0.5, True)
    assert half.relative_err == pytest.approx(0.125)
    assert half.sqnr_db == pytest.approx(20)
    assert not difference("m", np.array([3.0, 4.5]), reference, 0.11).bad
    exact = difference("m", reference, reference, 0.0)
    assert (exact.sqnr_db, exact.bad, exact.cosine) == (None, False, pytest.approx(1))
    assert difference("m", np.array([np.nan, 4.0]), reference, 1.0).bad
    assert difference("m", np.zeros(3), reference, 1.0).bad, "another shape"
    assert not difference("m", np.zeros(2), np.zeros(2), 0.1).bad
    assert difference("m", np.ones(2), np.zeros(2), 0.1).bad


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_a_damaged_case_is_refused(bundle: Path, tmp_path: Path, content: bytes):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read the case"):
        compare_layers(bundle, precision="fp32", case=path)


def test_a_case_of_another_skeleton_is_refused(bundle: Path, tmp_path: Path):
    path = tmp_path / "other.npz"
    path.write_bytes(Case("other", np.zeros((4, 25, 9), np.float32)).to_bytes())
    with pytest.raises(InputError):
        compare_layers(bundle, precision="fp32", case=path)


def test_options_that_belong_to_layers(bundle: Path):
    assert "--bisect belongs to --layers" in run(bundle, "--bisect").output
    assert "--case belongs to --layers" in run(bundle, "--case", "x.npz").output


def test_nothing_else_chooses_clips_beside_a_case(bundle: Path, case: Path):
    result = run(bundle, "--layers", "--case", case, "--split", "xsub")
    assert result.exit_code == 2
    assert "--split chooses clips" in result.output


@pytest.mark.parametrize("bisect", [False, True])
def test_a_precision_that_the_engine_does_not_compute_is_refused(bundle: Path, case: Path, bisect: bool):
    opened = Bundle.open(bundle)
    writer = BundleWriter(bundle, opened)
    writer.add("model.int8.onnx", opened.read("model.fp32.onnx"))
    writer.commit(opened.manifest)
    with pytest.raises(MismatchError, match="does not compute int8"):
        compare_layers(bundle, engine="torch", precision="int8", case=case, bisect=bisect)
