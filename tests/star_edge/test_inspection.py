"""Documents of ``star-edge inspect``."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from runtime.bundle import Bundle, BundleWriter, write_report
from runtime.calibration_table import CalibrationTable
from runtime.errors import InputError, MismatchError
from star_edge import inspection
from star_edge.inspection import inspect


def test_models_have_the_parameters_of_the_paper() -> None:
    pytest.importorskip("torch")
    document = inspect("models")
    assert isinstance(document, inspection.ModelsDocument)
    assert {model.name: model.parameters for model in document.models} == {
        "star-64": 426_494,
        "star-128": 1_262_462,
        "st-gcn": 3_098_832,
        "st-gcn++": 1_403_144,
        "shift-gcn": 690_291,
        "ctr-gcn": 1_446_672,
        "step-catformer": 417_977_435,
        "aagcn": 3_781_668,
        "dg-stgcn": 1_701_032,
        "hyperformer": 2_729_194,
        "s-tr": 3_074_826,
        "t-tr": 1_768_358,
        "st-tr": 4_843_124,
    }


def test_skeletons() -> None:
    document = inspect("skeletons")
    assert isinstance(document, inspection.SkeletonsDocument)
    assert {entry.layout.name: entry.edges for entry in document.skeletons}["ntu25"] == 187


def test_bundle(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    write_report(bundle, "bench", json.dumps({"bundle_id": bundle.manifest.bundle_id}).encode())
    table = CalibrationTable(
        method="max", samples=1, requested_samples=9, clips=("a",), weights_sha256="0" * 64, ranges={"embedding.in": 1.0}
    )
    writer = BundleWriter(tiny_bundle, base=bundle)
    writer.add("calibration.json", table.to_bytes())
    bundle = writer.commit(bundle.manifest)
    write_report(bundle, "verify", json.dumps({"bundle_id": bundle.manifest.bundle_id}).encode())
    (tiny_bundle / "reports" / "broken.json").write_text("{")
    document = inspect(str(tiny_bundle))
    assert isinstance(document, inspection.BundleDocument)
    assert document.manifest == bundle.manifest
    assert document.precisions == ("fp32",)
    assert document.calibration == inspection.CalibrationSummary("max", 1, 9, 1)
    assert {report.name: report.current for report in document.reports} == {"bench": False, "broken": False, "verify": True}


ENGINE = b"ftrt" + bytes(20) + bytes([10, 13, 3, 9]) + b"plan"


@pytest.fixture
def engine(tiny_bundle: Path) -> Path:
    path = tiny_bundle / "engines" / "10.13-87-fp32.engine"
    path.parent.mkdir()
    path.write_bytes(ENGINE)
    return path


@pytest.mark.parametrize(
    ("sidecar", "current"), [("own", True), ("other", False), (None, False), ("{", False), ("[" * 9999, False)]
)
def test_engine_in_a_bundle(tiny_bundle: Path, engine: Path, sidecar: str | None, current: bool) -> None:
    if sidecar is not None:
        text = {"own": json.dumps({"bundle_id": Bundle.open(tiny_bundle).manifest.bundle_id}), "other": '{"bundle_id": "x"}'}
        engine.with_suffix(".json").write_text(text.get(sidecar, sidecar))
    document = inspect(str(engine))
    assert isinstance(document, inspection.EngineDocument)
    assert (document.builder, document.version, document.bytes) == ("TensorRT", "10.13.3.9", len(ENGINE))
    assert document.current == current
    assert bool(document.sidecar) == (sidecar in ("own", "other"))
    bundle = inspect(str(tiny_bundle))
    assert isinstance(bundle, inspection.BundleDocument)
    assert bundle.engines == (document,)


def test_engine_of_tensorrt_rtx(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'star-edge[tensorrt-rtx]'")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    layer = network.add_unary(network.add_input("x", trt.float32, (3,)), trt.UnaryOperation.NEG)
    network.mark_output(layer.get_output(0))
    path = tmp_path / "x.plan"
    path.write_bytes(builder.build_serialized_network(network, builder.create_builder_config()))
    document = inspect(str(path))
    assert isinstance(document, inspection.EngineDocument)
    assert (document.builder, document.version, document.current) == ("TensorRT-RTX", trt.__version__, None)


def test_lowering_of_a_bundle(exported_bundle: Path) -> None:
    document = inspect(str(exported_bundle))
    assert isinstance(document, inspection.BundleDocument)
    assert set(document.lowerings) == {"fp32", "fp16"}
    assert document.lowerings["fp16"]["layers.0.spatial.norm1"] == "float32 island"
    assert document.lowerings["fp32"]["context"].startswith("function body of ")


def test_what_native_runs_here(exported_bundle: Path, tiny_bundle: Path) -> None:
    document = inspect(str(exported_bundle))
    assert isinstance(document, inspection.BundleDocument)
    assert [report.precision for report in document.native] == ["fp32", "fp16", "bf16"]
    assert all(report.nodes["layers.0.spatial.qkv"] == report.compute for report in document.native)
    assert document.refused == ""
    unknown = inspect(str(tiny_bundle))
    assert isinstance(unknown, inspection.BundleDocument)
    assert (unknown.native, unknown.refused) == ((), "this version cannot run the model 'mean'")


def test_damaged_bundle_is_no_document(tiny_bundle: Path) -> None:
    (tiny_bundle / "golden.npz").write_bytes(b"")
    with pytest.raises(MismatchError, match=r"golden\.npz"):
        inspect(str(tiny_bundle))


def test_onnx(tiny_bundle: Path) -> None:
    document = inspect(str(tiny_bundle / "model.fp32.onnx"))
    assert isinstance(document, inspection.OnnxDocument)
    assert document.operators["MatMul"] == 2
    assert (document.quantize, document.dequantize, document.functions) == (0, 0, {})
    assert document.inputs[0] == inspection.Port("features", "float", ("F", 15, 3))
    assert document.outputs == (inspection.Port("logits", "float", ("B", 4)),)
    assert document.initializers["float"] == 45 * 4 + 4 + 1
    assert (document.ir_version, document.opsets) == (10, {"ai.onnx": 20})


def test_recording(tmp_path: Path) -> None:
    array = np.ones((4, 15, 3), dtype=np.float32)
    array[1] = 0
    np.save(tmp_path / "a.npy", array)
    document = inspect(str(tmp_path / "a.npy"))
    assert isinstance(document, inspection.ClipsDocument)
    assert document.clips == (inspection.ClipSummary("a", 3, 15, (3,), 1),)


def test_real_recordings_with_two_persons(real_data: Path) -> None:
    (path,) = (real_data / "ntu_samples").glob("*A050.skeleton")
    document = inspect(str(path))
    assert isinstance(document, inspection.ClipsDocument)
    assert len(document.clips[0].persons) == 2
    assert document.clips[0].joints == 25


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.onnx", None, "nothing to inspect"),
        ("absent", None, "nothing to inspect"),
        ("a.txt", b"", "unknown kind of file"),
        ("a.onnx", b"", "not an ONNX file"),
        ("a.onnx", b"\xff\xff not a model", "not an ONNX file"),
        ("a.engine", ENGINE[:27], "not an engine"),
        ("a.plan", b"plan" * 9, "not an engine"),
        ("a.pt", b"not a checkpoint", "checkpoint cannot be read|needs pickle|only pickle"),
        ("a.npy", b"no", "cannot read"),
    ],
)
def test_what_cannot_be_inspected(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        inspect(str(tmp_path / name))


def test_documents_are_tagged_and_read_back(tiny_bundle: Path) -> None:
    document = inspect(str(tiny_bundle))
    data = msgspec.json.encode(document)
    assert json.loads(data)["kind"] == "bundle"
    assert json.loads(data)["schema"] == "star-edge/inspect/1"
    assert msgspec.json.decode(data, type=inspection.BundleDocument) == document
