"""The tensorrt engine on a stand-in for TensorRT and CUDA: buckets, padding, what is refused, threads, memory."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from fake_board import FakeBoard, rewrite
from hypothesis import given
from hypothesis import strategies as st
from int8_bundle import make_int8_bundle
from tensorrt_fake import CLASSES, FakeCudaRuntime, FakeDriver

from exporters.onnx.parity import onnx_forward
from exporters.tensorrt.graphs import graph_of
from runtime.bundle import Bundle
from runtime.engines.tensorrt import TensorRtEngine, open_engine, precisions
from runtime.errors import InputError, MismatchError
from runtime.packing import cu_seqlens_of
from runtime.tensorrt import cuda as cuda_module
from runtime.tensorrt.buckets import BUCKETS, Bucket, parse_buckets, smallest, split
from runtime.tensorrt.compatibility import CHECKS
from runtime.tensorrt.cuda import _FUNCTIONS, Cuda
from runtime.tensorrt.installation import plugin_path
from runtime.tensorrt.sidecar import EngineSidecar, read_engine
from star_edge.build import build
from star_edge.engines import precisions as precisions_of

SIZES = (Bucket(64, 4), Bucket(128, 8), Bucket(300, 16))


@pytest.fixture(scope="session")
def calibrated(exported_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_int8_bundle(exported_bundle, tmp_path_factory.mktemp("calibrated") / "x.star", "fp16")


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeBoard:
    return FakeBoard(monkeypatch, tmp_path)


@pytest.fixture
def bundle(calibrated: Bundle, tmp_path: Path) -> Bundle:
    """A bundle of one's own, without engines."""
    return Bundle.open(shutil.copytree(calibrated.path, tmp_path / "x.star"))


@pytest.fixture(scope="session")
def prototype(calibrated: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle that has an fp16 engine, and the cache of the board that built it."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as monkeypatch:
        board, bundle = FakeBoard(monkeypatch, folder), Bundle.open(shutil.copytree(calibrated.path, folder / "x.star"))
        board.expect(bundle, "fp16")
        build(bundle, precision="fp16", buckets=SIZES)
    return folder


@pytest.fixture
def built(prototype: Path, board: FakeBoard, bundle: Bundle, tmp_path: Path) -> Path:
    """The sidecar of an fp16 engine in the bundle."""
    board.expect(bundle, "fp16")
    shutil.copytree(prototype / "cache", tmp_path / "cache")
    shutil.copytree(prototype / "x.star" / "engines", bundle.path / "engines")
    return bundle.path / "engines" / "10.3.0-sm87-fp16.json"


def batch(bundle: Bundle, *rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    manifest = bundle.manifest
    shape = (sum(rows), manifest.skeleton.num_joints, manifest.features.channels)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32), cu_seqlens_of(rows)


def test_buckets_of_each_size_are_named_and_read() -> None:
    assert parse_buckets(",".join(map(str, BUCKETS))) == BUCKETS
    assert parse_buckets(" 300x1, 64x4,300x1") == (Bucket(64, 4), Bucket(300, 1))
    for wrong in ("", "64", "64x", "x4", "0x4", "64x0", "64x4;128x8", "64x4,", "-1x2"):
        with pytest.raises(InputError, match="not a list of buckets"):
            parse_buckets(wrong)


def test_the_smallest_bucket_that_holds_a_batch() -> None:
    assert [smallest(SIZES, rows, clips) for rows, clips in ((0, 1), (64, 4), (65, 1), (1, 5), (300, 16))] == [0, 0, 1, 1, 2]
    assert smallest(SIZES, 301, 1) is None
    assert smallest(SIZES, 1, 17) is None


@given(rows=st.lists(st.integers(0, 300), min_size=1, max_size=40))
def test_a_batch_is_split_in_order_and_whole(rows: list[int]) -> None:
    offsets = cu_seqlens_of(rows)
    parts = list(split(SIZES, offsets))
    assert [part.first for part in parts] == [0, *(part.last for part in parts[:-1])]
    assert parts[-1].last == len(rows)
    for first, last, bucket in parts:
        assert smallest(SIZES, sum(rows[first:last]), last - first) == bucket
    for left, right in zip(parts, parts[1:], strict=False):  # no two could have been one more clip and one
        assert smallest(SIZES, sum(rows[left.first : right.first + 1]), right.first + 1 - left.first) is None


def test_a_clip_that_no_bucket_holds_is_named() -> None:
    with pytest.raises(
        InputError, match=r"longer than the engine's largest bucket(?s:.*)clip 1(?s:.*)301 rows(?s:.*)at most 300"
    ):
        list(split(SIZES, cu_seqlens_of([5, 301, 7])))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_answers_are_those_of_onnx_runtime(board: FakeBoard, bundle: Bundle, precision: str) -> None:
    board.expect(bundle, precision)
    build(bundle, precision=precision, buckets=SIZES)
    board.restart()
    engine = open_engine(bundle, precision=precision)
    reference = onnx_forward(graph_of(bundle, precision, "onnxruntime").SerializeToString())
    for rows in ((1,), (64,), (60, 4, 1), (100, 80, 60, 40, 30, 20, 300, 1), (0,), (5, 0, 7), (0, 0, 0), tuple([3] * 40)):
        features, offsets = batch(bundle, *rows, 1)  # the last clip, because a graph needs a row
        expected = reference(features, offsets)[:-1]
        logits = engine.run(features[:-1], offsets[:-1])
        assert (logits.shape, logits.dtype) == (expected.shape, np.float32)
        tolerance = 1e-5 if precision == "fp32" else 5e-3  # of int8 too: what differs is a level here and there
        np.testing.assert_allclose(logits, expected, atol=tolerance * np.abs(expected).max(), err_msg=str(rows))


def test_padding_is_rows_of_zeros_and_empty_clips(board: FakeBoard, bundle: Bundle, built: Path) -> None:
    engine = open_engine(bundle, precision="fp16")
    long, short = batch(bundle, 50, 10), batch(bundle, 7, seed=1)
    engine.run(*long)
    engine.run(*short)
    (features, offsets) = board.trt.ran[-1]
    assert features.shape[0] == 64
    np.testing.assert_array_equal(features[:7], short[0])
    assert not features[7:].any()  # nothing of the longer batch is left
    np.testing.assert_array_equal(offsets, [0, 7, 7, 7, 7])


def test_answers_do_not_depend_on_what_ran_before(board: FakeBoard, bundle: Bundle, built: Path) -> None:
    engine = open_engine(bundle, precision="fp16")
    first = batch(bundle, 30, 3)
    before = engine.run(*first)
    for rows in ((64,), (1, 1, 1, 1), (120, 5)):
        engine.run(*batch(bundle, *rows, seed=2))
    np.testing.assert_array_equal(engine.run(*first), before)


def test_each_bucket_is_recorded_once_and_replayed(board: FakeBoard, bundle: Bundle, built: Path) -> None:
    engine = open_engine(bundle, precision="fp16")
    launched = board.runtime.launches
    for _ in range(3):
        engine.run(*batch(bundle, 10))
    engine.run(*batch(bundle, 100))
    assert board.runtime.launches == launched + 4
    assert len(board.runtime.held["executable"]) == 2
    assert engine.device_seconds() == pytest.approx(1.5e-3)
    engine.run(*batch(bundle, 200, 300))  # two launches, one after the other
    assert engine.device_seconds() == pytest.approx(3e-3)


@pytest.mark.parametrize("integrated", [True, False], ids=["shared memory", "memory of its own"])
def test_memory_is_copied_only_where_there_are_two(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Bundle, integrated: bool
) -> None:
    board = FakeBoard(monkeypatch, tmp_path, integrated=integrated)
    board.expect(bundle, "fp16")
    build(bundle, precision="fp16", buckets=SIZES)
    engine, given_batch = open_engine(bundle), batch(bundle, 20)
    logits, copies = engine.run(*given_batch), board.runtime.copies
    np.testing.assert_array_equal(engine.run(*given_batch), logits)
    assert board.runtime.copies - copies == (0 if integrated else 3)
    assert bool(board.runtime.held.get("device")) == (not integrated)


def test_everything_is_given_back(board: FakeBoard, bundle: Bundle, built: Path) -> None:
    engine = open_engine(bundle)
    engine.run(*batch(bundle, 200, 300))
    engine.run(*batch(bundle, 5))
    assert len(board.runtime.held["stream"]) == 2
    del engine
    gc.collect()
    assert not any(board.runtime.held.values())


@pytest.mark.parametrize("function", ["cudaEventCreate", "cudaHostAlloc", "cudaMalloc", "cudaStreamSynchronize",
                                      "cudaStreamEndCapture", "cudaGraphInstantiate"])  # fmt: skip
def test_what_cannot_be_made_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, prototype: Path, bundle: Bundle, built: Path, tmp_path: Path, function: str
) -> None:
    board = FakeBoard(monkeypatch, tmp_path, integrated=False)
    board.expect(bundle, "fp16")
    rewrite(built, gpu=msgspec.json.decode(built.read_bytes())["gpu"] | {"integrated": False})
    engine = open_engine(bundle)
    board.runtime.failing = {function}
    with pytest.raises(MismatchError, match="CUDA failed"):
        engine.run(*batch(bundle, 5))
    assert not any(held for kind, held in board.runtime.held.items() if kind != "graph")
    board.runtime.failing = set()
    assert np.isfinite(engine.run(*batch(bundle, 5))).all()


def test_a_failure_is_told_and_does_not_stay(board: FakeBoard, bundle: Bundle, built: Path) -> None:
    engine = open_engine(bundle)
    given_batch = batch(bundle, 5)
    logits = engine.run(*given_batch)
    board.runtime.failing = {"cudaGraphLaunch"}
    with pytest.raises(MismatchError, match=r"CUDA failed(?s:.*)cudaGraphLaunch(?s:.*)out of memory \(2\)"):
        engine.run(*given_batch)
    board.runtime.failing = set()
    np.testing.assert_array_equal(engine.run(*given_batch), logits)
    board.runtime.failing = {"cudaMalloc", "cudaHostAlloc"}
    with pytest.raises(MismatchError, match="CUDA failed"):
        engine.run(*batch(bundle, 100))


def test_threads_share_an_engine(board: FakeBoard, bundle: Bundle, built: Path) -> None:
    engine = open_engine(bundle)
    batches = [batch(bundle, 10 + index, 3, seed=index) for index in range(8)]
    expected = [engine.run(*given_batch) for given_batch in batches]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(5):
            if not np.array_equal(engine.run(*batches[index]), expected[index]) or engine.device_seconds() <= 0:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_clips_alone_are_answered_as_together(board: FakeBoard, bundle: Bundle, built: Path) -> None:
    packed, alone = open_engine(bundle), open_engine(bundle, mode="per-clip")
    given_batch = batch(bundle, 20, 30, 1)
    np.testing.assert_allclose(packed.run(*given_batch), alone.run(*given_batch), atol=1e-2)
    assert (packed.report().mode, alone.report().mode) == ("packed", "per-clip")
    with pytest.raises(InputError, match="unknown mode"):
        open_engine(bundle, mode="both")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="wrong joint count"):
        packed.run(given_batch[0][:, :3], given_batch[1])


def test_report_says_what_runs(board: FakeBoard, bundle: Bundle) -> None:
    board.expect(bundle, "int8")
    build(bundle, precision="int8", buckets=SIZES[:1])
    report = open_engine(bundle, precision="int8").report()
    assert (report.engine, report.precision, report.storage, report.compute) == ("tensorrt", "int8", "int8", "int8")
    assert report.provider == "TensorRT 10.3.0, Orin, 8 SMs, 6 plugin layers"
    assert report.nodes["layers.0.spatial.attention"] == "plugin, int8"
    assert report.nodes["context"] == "plugin, fp16"
    assert report.nodes["layers.0.spatial.qkv"] == "int8"
    assert report.nodes["layers.0.spatial.norm1"] == "fp32"


def test_what_is_built_is_what_is_compared(board: FakeBoard, bundle: Bundle) -> None:
    assert precisions(bundle.manifest) == ("fp32", "fp16", "int8")
    assert precisions_of(bundle, "tensorrt") == ("fp32", "fp16", "int8")  # so that the error of each says how to build it
    board.expect(bundle, "fp16")
    build(bundle, precision="fp16", buckets=SIZES[:1])
    assert precisions_of(bundle, "tensorrt") == ("fp16",)
    assert precisions_of(bundle, "onnxruntime") == ("fp32", "fp16", "int8")


def library() -> Path:
    """The only plugin library that was compiled."""
    (found,) = plugin_path("x").parents[1].glob("*/*.so")
    return found


class Refusal(NamedTuple):
    """What is changed, and what the error says of it."""

    change: Callable[[FakeBoard, Path], object]
    reason: str
    found: str
    expected: str


REFUSALS = {
    "precision": Refusal(
        lambda board, path: rewrite(path, precision="int8"), "the engine is of another precision", "fp16 here", "int8"
    ),
    "bundle": Refusal(
        lambda board, path: rewrite(path, bundle_id="f" * 64),
        "the bundle was changed after the engine was built",
        "here",
        "ffff",
    ),
    "engine file": Refusal(
        lambda board, path: path.with_suffix(".engine").write_bytes(b"!"),
        "the engine's file is not the one that was built",
        hashlib.sha256(b"!").hexdigest(),
        "",
    ),
    "TensorRT": Refusal(
        lambda board, path: setattr(board.trt, "__version__", "10.7.0"),
        "the engine was built by another TensorRT",
        "TensorRT 10.7.0 here",
        "TensorRT 10.3.0",
    ),
    "SM": Refusal(
        lambda board, path: board.runtime.attributes.update({75: 11, 76: 0}),
        "the engine was built for another GPU",
        "sm_110 here",
        "sm_87",
    ),
    "multiprocessors": Refusal(
        lambda board, path: board.runtime.attributes.update({16: 4}),
        "the engine was built on another GPU, or in a power mode with other multiprocessors",
        "Orin, 4 SMs here",
        "Orin, 8 SMs",
    ),
    "name": Refusal(
        lambda board, path: setattr(board.driver, "name", b"Thor"),
        "the engine was built on another GPU, or in a power mode with other multiprocessors",
        "Thor, 8 SMs here",
        "Orin, 8 SMs",
    ),
    "plugin": Refusal(
        lambda board, path: library().write_bytes(b"other"),
        "the engine's plugins are not here as it was built with them",
        hashlib.sha256(b"other").hexdigest(),
        hashlib.sha256(b"a library for sm_87").hexdigest(),
    ),
    "no plugin": Refusal(
        lambda board, path: library().unlink(),
        "the engine's plugins are not here as it was built with them",
        "no plugin library here",
        "",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_engine_that_does_not_belong_here_is_refused(board: FakeBoard, bundle: Bundle, built: Path, case: str) -> None:
    open_engine(bundle)
    board.restart()
    refusal = REFUSALS[case]
    refusal.change(board, built)
    with pytest.raises(MismatchError) as caught:
        open_engine(bundle)
    error = caught.value
    assert (error.what, error.where) == (refusal.reason, str(built))
    assert refusal.found in (error.found or "")
    assert refusal.expected in (error.expected or "")
    assert (error.hint or "").startswith(f"star-edge build {bundle.path} --fp16")


def test_every_check_is_tested() -> None:
    assert {refusal.reason for refusal in REFUSALS.values()} == {check.reason for check in CHECKS}


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (b"{", InputError, "star-edge/engine"),
        (b'{"schema": "star-edge/bench/1"}', InputError, "another kind"),
        (b'{"schema": "star-edge/engine/2"}', MismatchError, "written by a newer star-edge"),
        (b'{"schema": "star-edge/engine/1"}', InputError, "cannot read the engine's description"),
    ],
)
def test_a_damaged_description(board: FakeBoard, bundle: Bundle, built: Path, text: bytes, kind: type, message: str) -> None:
    built.write_bytes(text)
    with pytest.raises(kind, match=message):
        open_engine(bundle)


@pytest.mark.parametrize("key", ["../../../../tmp/evil", "", "0123456789ABCDEF"])
def test_a_description_names_nothing_elsewhere(board: FakeBoard, built: Path, bundle: Bundle, key: str) -> None:
    document = msgspec.json.decode(built.read_bytes())
    rewrite(built, plugin=document["plugin"] | {"key": key})
    with pytest.raises(InputError, match="contradicts itself"):
        open_engine(bundle)
    rewrite(built, plugin=document["plugin"], engine_sha256="/../../x".ljust(64, "0"))
    with pytest.raises(InputError, match="contradicts itself"):
        open_engine(bundle)


@pytest.mark.parametrize("sizes", [[], [(128, 8), (64, 4)], [(64, 4), (64, 4)], [(0, 4)], [(64, 0)]], ids=str)
def test_a_description_of_impossible_profiles(
    board: FakeBoard, built: Path, bundle: Bundle, sizes: list[tuple[int, int]]
) -> None:
    rewrite(built, profiles=[{"rows": rows, "clips": clips} for rows, clips in sizes])
    with pytest.raises(InputError, match="contradicts itself"):
        open_engine(bundle)


def test_a_missing_engine(board: FakeBoard, bundle: Bundle, built: Path) -> None:
    with pytest.raises(MismatchError, match=r"no TensorRT engine in int8(?s:.*)10.3.0-sm87-fp16.engine(?s:.*)--int8"):
        open_engine(bundle, precision="int8")
    built.with_suffix(".engine").unlink()
    with pytest.raises(MismatchError, match=r"file is missing"):
        open_engine(bundle)


def test_an_engine_under_another_name_is_judged_by_what_it_is(board: FakeBoard, bundle: Bundle, built: Path) -> None:
    for suffix in (".json", ".engine"):
        built.with_suffix(suffix).rename(built.with_name(f"a-copy-fp16{suffix}"))
    assert open_engine(bundle).sidecar.precision == "fp16"


def test_what_tensorrt_refuses_is_told(board: FakeBoard, bundle: Bundle, built: Path) -> None:
    plan = built.with_suffix(".engine")
    plan.write_bytes(b"not a plan")
    rewrite(built, engine_sha256=hashlib.sha256(b"not a plan").hexdigest())
    with pytest.raises(MismatchError, match=r"cannot load the engine(?s:.*)Magic tag does not match"):
        open_engine(bundle)
    board.restart()
    board.trt.refuse_plugins = True
    with pytest.raises(MismatchError, match=r"cannot load the plugins(?s:.*)already registered"):
        open_engine(bundle)


def test_an_engine_of_other_sizes_is_not_run(board: FakeBoard, bundle: Bundle, built: Path) -> None:
    sidecar = EngineSidecar.from_bytes(built.read_bytes())
    wrong = msgspec.structs.replace(sidecar, profiles=(Bucket(64, 4), Bucket(128, 8), Bucket(301, 16)))
    plan = read_engine(built, sidecar)
    with pytest.raises(MismatchError, match="other tensors than its description says"):
        TensorRtEngine(bundle.manifest, wrong, plan, trt=board.trt, cuda=Cuda(board.runtime, board.driver), mode="packed")


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MismatchError, match=r"'tensorrt' needs TensorRT's Python module(?s:.*)nvidia-jetpack") as caught:
        open_engine(bundle)
    assert caught.value.exit_code == 4


def test_an_old_tensorrt(board: FakeBoard, bundle: Bundle) -> None:
    board.trt.__version__ = "8.6.2"
    with pytest.raises(MismatchError, match=r"newer TensorRT(?s:.*)8.6.2, which has no IPluginV3(?s:.*)JetPack 6.1"):
        open_engine(bundle)


def test_without_a_gpu() -> None:
    with pytest.raises(MismatchError, match=r"no GPU that CUDA can use(?s:.*)no CUDA-capable device is detected \(100\)"):
        Cuda(FakeCudaRuntime(devices=0), FakeDriver())


def test_cuda_tells_what_the_gpu_is() -> None:
    cuda = Cuda(FakeCudaRuntime(sm=110, multiprocessors=20, integrated=True), FakeDriver(b"Thor"))
    assert (cuda.gpu.name, cuda.gpu.sm, cuda.gpu.multiprocessors, cuda.gpu.integrated) == ("Thor", 110, 20, True)
    assert (cuda.runtime, cuda.driver) == ("12.6", "12.6")


def test_the_real_library_has_every_function() -> None:
    try:
        library = cuda_module._load(cuda_module._NAMES, "CUDA")
    except MismatchError as error:
        pytest.skip(f"no libcudart: {error.found}")
    assert [name for name in (*_FUNCTIONS, "cudaGetErrorString") if not hasattr(library, name)] == []
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(MismatchError, match="no GPU that CUDA can use"):
            Cuda(library, FakeDriver())


def test_the_stand_in_has_tensorrts_names() -> None:
    """Every public name of its classes is one of the real module's, which shares the interface."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'star-edge[tensorrt-rtx]'")
    # what TensorRT 11 and RTX no longer have
    gone = {("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"), ("BuilderFlag", "FP16"), ("BuilderFlag", "INT8")}
    for kind in CLASSES:
        real = getattr(trt, kind.__name__)
        names = {name for name in vars(kind) if not name.startswith("_")} - {"from_bytes", "to_bytes"}
        missing = {name for name in names if not hasattr(real, name)} - {
            name for owner, name in gone if owner == kind.__name__
        }
        assert not missing, kind.__name__
