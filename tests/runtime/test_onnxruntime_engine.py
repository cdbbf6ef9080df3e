"""The onnxruntime engine on a hand-made model: modes, odd batches, refusals."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from runtime.bundle import Bundle, BundleWriter
from runtime.engines.onnxruntime import OnnxRuntimeEngine, open_engine, session_options
from runtime.errors import InputError, MismatchError
from runtime.packing import cu_seqlens_of, pack, unpack


def features(lengths: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(sum(lengths), 15, 3)).astype(np.float32), cu_seqlens_of(lengths)


def with_model(path: Path, model: bytes) -> Bundle:
    bundle = Bundle.open(path)
    writer = BundleWriter(path, base=bundle)
    writer.add("model.fp32.onnx", model)
    return writer.commit(bundle.manifest)


@pytest.fixture
def engines(tiny_bundle: Path) -> tuple[OnnxRuntimeEngine, OnnxRuntimeEngine]:
    bundle = Bundle.open(tiny_bundle)
    return open_engine(bundle, threads=1, mode="per-clip"), open_engine(bundle, threads=1, mode="packed")


@pytest.mark.parametrize(
    "lengths", [[1], [5], [3, 1, 7], [0], [0, 0], [0, 4], [4, 0, 2], [2, 0], [1] * 64], ids=lambda lengths: f"{lengths[:4]}"
)
def test_modes_agree_on_odd_batches(engines: tuple[OnnxRuntimeEngine, OnnxRuntimeEngine], lengths: list[int]) -> None:
    rows, cu_seqlens = features(lengths)
    per_clip, packed = (engine.run(rows, cu_seqlens) for engine in engines)
    assert per_clip.shape == packed.shape == (len(lengths), 4)
    assert per_clip.dtype == packed.dtype == np.float32
    np.testing.assert_allclose(per_clip, packed, rtol=1e-5, atol=1e-5)


@pytest.mark.hypothesis
def test_a_clip_does_not_depend_on_its_batch(tiny_bundle: Path) -> None:
    engine = open_engine(Bundle.open(tiny_bundle), threads=1)

    @settings(deadline=None, max_examples=25)
    @given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.randoms())
    def check(lengths: list[int], random: object) -> None:
        rows, cu_seqlens = features(lengths)
        clips = unpack(rows, cu_seqlens)
        order = sorted(range(len(clips)), key=lambda _: random.random())  # type: ignore[attr-defined]
        shuffled = engine.run(*pack([clips[i] for i in order]))
        np.testing.assert_array_equal(shuffled, engine.run(rows, cu_seqlens)[order])

    check()


def test_many_threads_on_one_engine(engines: tuple[OnnxRuntimeEngine, OnnxRuntimeEngine]) -> None:
    batches = [features([n, 2 * n], seed=n) for n in range(1, 21)]
    for engine in engines:
        expected = [engine.run(*batch) for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda batch, engine=engine: engine.run(*batch), batches))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_bad_batches_are_refused(engines: tuple[OnnxRuntimeEngine, OnnxRuntimeEngine]) -> None:
    engine = engines[0]
    rows, cu_seqlens = features([3, 3])
    bad = {
        "descends": (rows, np.array([0, 4, 2, 6], dtype=np.int32)),
        "end at the row count": (rows, np.array([0, 4], dtype=np.int32)),
        "start at 0": (rows, np.array([1, 6], dtype=np.int32)),
        "no clips": (rows[:0], np.array([0], dtype=np.int32)),
        "int32": (rows, cu_seqlens.astype(np.int64)),
        "float32": (rows.astype(np.float64), cu_seqlens),
        "wrong joint count": (rows[:, :14], cu_seqlens),
        "wrong channel count": (rows[:, :, :2], cu_seqlens),
        "NaN or infinity": (np.where(rows == rows[4, 2, 1], np.float32("nan"), rows), cu_seqlens),
    }
    for message, batch in bad.items():
        with pytest.raises(InputError, match=message):
            engine.run(*batch)


def test_report_tells_what_is_executed(tiny_bundle: Path) -> None:
    report = open_engine(Bundle.open(tiny_bundle), threads=2).report()
    assert (report.engine, report.precision, report.storage, report.compute) == ("onnxruntime", "fp32", "fp32", "fp32")
    assert report.provider.endswith("CPUExecutionProvider")
    assert (report.mode, report.threads) == ("per-clip", 2)
    assert report.nodes == {"head.output": "fp32"}


def test_fp16_model_is_reported_as_computed_in_fp32(tiny_bundle: Path) -> None:
    """ONNX Runtime's CPU provider has no fp16 products: it casts and computes in fp32, and the report must say so."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    bundle = Bundle.open(tiny_bundle)
    model = onnx.load_from_string(bundle.read("model.fp32.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name in ("weight", "bias"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    product, add = model.graph.node[-2:]
    product.input[0], add.output[0] = "mean16", "logits16"
    model.graph.node.insert(len(model.graph.node) - 2, helper.make_node("Cast", ["mean"], ["mean16"], to=TensorProto.FLOAT16))
    model.graph.node.append(helper.make_node("Cast", ["logits16"], ["logits"], to=TensorProto.FLOAT))
    onnx.checker.check_model(model, full_check=True)
    writer = BundleWriter(tiny_bundle, base=bundle)
    writer.add("model.fp16.onnx", model.SerializeToString())
    nodes = bundle.manifest.nodes | {"fp16": {"head.output": "fp16"}}
    half = writer.commit(msgspec.structs.replace(bundle.manifest, nodes=nodes))
    engine = open_engine(half, precision="fp16", threads=1)
    report = engine.report()
    assert (report.precision, report.storage, report.compute) == ("fp16", "fp16", "fp32")
    assert report.nodes == {"head.output": "fp32"}
    batch = features([4])
    difference = engine.run(*batch) - open_engine(half, precision="fp32", threads=1).run(*batch)
    assert 0 < np.abs(difference).max() < 1e-2


def test_another_number_of_classes_than_the_manifest(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    writer = BundleWriter(tiny_bundle, base=bundle)
    three = writer.commit(msgspec.structs.replace(bundle.manifest, class_names=("a", "b", "c")))
    with pytest.raises(MismatchError, match="number of classes") as caught:
        open_engine(three)
    assert (caught.value.found, caught.value.expected) == ("4", "3")


def test_model_that_onnxruntime_cannot_open(tiny_bundle: Path) -> None:
    with pytest.raises(MismatchError, match="cannot open the model"):
        open_engine(with_model(tiny_bundle, b"not a model"))


def test_model_with_other_inputs(tiny_bundle: Path) -> None:
    import onnx

    model = onnx.load_from_string(Bundle.open(tiny_bundle).read("model.fp32.onnx"))
    model.graph.output[0].name = model.graph.node[-1].output[0] = "scores_out"
    with pytest.raises(MismatchError, match="other inputs or outputs"):
        open_engine(with_model(tiny_bundle, model.SerializeToString()))


def test_absent_provider_is_an_error_and_not_replaced(tiny_bundle: Path) -> None:
    with pytest.raises(MismatchError, match="has no CUDAExecutionProvider"):
        open_engine(Bundle.open(tiny_bundle), provider="CUDAExecutionProvider")


@pytest.mark.parametrize(("arguments", "message"), [({"threads": 0}, "no threads"), ({"mode": "padded"}, "unknown mode")])
def test_bad_arguments(tiny_bundle: Path, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_engine(Bundle.open(tiny_bundle), **arguments)


def test_missing_onnxruntime_names_the_extra(tiny_bundle: Path) -> None:
    code = (
        "import sys, json; sys.modules['onnxruntime'] = None\n"
        "from runtime.bundle import Bundle\nfrom runtime.engines.onnxruntime import open_engine\n"
        "from runtime.errors import MissingDependencyError\n"
        f"bundle = Bundle.open({str(tiny_bundle)!r})\n"
        "try:\n    open_engine(bundle)\nexcept MissingDependencyError as error:\n    print(json.dumps(error.hint))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(found) == "pip install 'star-edge[onnx]'"


def test_sums_of_the_largest_int8_products_are_exact():
    """Without VNNI, ONNX Runtime's default overflows here; with it, only the option itself can be looked at."""
    rows, inner, columns, largest = 4, 64, 32, 127
    constants = {"scale": np.float32(1), "zero": np.int8(0), "weight": np.full((inner, columns), largest, dtype=np.int8)}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["stored"]),
            helper.make_node("DequantizeLinear", ["stored", "scale", "zero"], ["left"]),
            helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["right"]),
            helper.make_node("MatMul", ["left", "right"], ["y"]),
        ],
        "largest",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = session_options(threads=1)
    assert options.get_session_config_entry("session.x64quantprecision") == "1"
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"x": np.full((rows, inner), largest, dtype=np.float32)})
    assert (sums == inner * largest * largest).all()
