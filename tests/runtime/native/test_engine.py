"""The native engine beside the float64 reference, on odd batches, shapes, precisions and instruction sets; and what it refuses."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import star_edge
from runtime.bundle import Bundle, BundleWriter
from runtime.clip import Clip
from runtime.engines.native import NativeEngine, open_engine, precisions
from runtime.errors import InputError, MismatchError
from runtime.features import compute_features
from runtime.manifest import PRECISIONS
from runtime.native import library
from runtime.pack import write_pack
from runtime.packing import cu_seqlens_of, pack, unpack
from runtime.recognizer import Recognizer
from runtime.streaming import Stream
from runtime.tolerances import TOLERANCES, relative_error

# the library is a part of the installation: without it nothing here can even be collected
_FOUND = tuple(entry.split()[0] for entry in library.instruction_sets(library.load_library()).split(", "))
INSTRUCTION_SETS = tuple(name for name in _FOUND if name != "cuda")  # of the processor

ODD_BATCHES = ([1], [0], [0, 0], [0, 3], [3, 0, 5], [65, 7, 33], [1] * 20)
# an activation half-way between two steps may be rounded either way
INT8_STEP = 2e-2


def ranks(rank: int, layers: int, others: dict[str, int]) -> dict[str, int]:
    """The rank of every linear layer of the encoders, and of others."""
    encoders = [f"layers.{layer}.{branch}" for layer in range(layers) for branch in ("spatial", "temporal")]
    return {f"{path}.{name}": rank for path in encoders for name in ("qkv", "linear1", "linear2")} | others


SHAPES: dict[str, dict[str, Any]] = {
    "dim 12": {"dim": 12},
    "dim 5, one head": {"dim": 5, "heads": 1},
    "head_dim 1": {"dim": 8, "heads": 8},
    "head_dim 2": {"dim": 6, "heads": 3},
    "head_dim 3": {"dim": 9, "heads": 3},
    "head_dim 5": {"dim": 20, "heads": 4},
    "head_dim 12, one head": {"dim": 12, "heads": 1},
    "head_dim 64": {"dim": 64, "heads": 1},
    "STAR-64, one layer": {"dim": 64, "heads": 8, "layers": 1, "hidden": 128},
    "33 joints of two dimensions": {"skeleton": "mediapipe33", "layers": 1},
    "25 joints, 3 channels": {"skeleton": "ntu25", "channels": 3},
    "one class, hidden 1": {"classes": 1, "hidden": 1},
    "joints that see themselves alone": {"edges": tuple((joint, joint) for joint in range(15))},
    "joints that all see each other": {"edges": tuple((i, j) for i in range(15) for j in range(15))},
    "fewer channels": {"widths": {"layers.0.spatial.linear1": 3, "layers.1.temporal.linear1": 1, "head.hidden": 5}},
    "fewer channels of low rank": {
        "widths": {"layers.0.spatial.linear1": 7, "head.hidden": 5},
        "ranks": {"layers.0.spatial.linear1": 2, "layers.0.spatial.linear2": 3, "head.hidden": 2, "head.output": 2},
    },
    "low rank": {"ranks": ranks(16, 2, {"embedding": 3, "head.hidden": 7, "head.output": 2})},
    "low rank of rank 1": {"ranks": ranks(1, 2, {"embedding": 1, "head.hidden": 1, "head.output": 1})},
    "low rank in one layer's queries, keys and values": {"ranks": {"layers.1.temporal.qkv": 5, "layers.0.spatial.qkv": 3}},
    "low rank, STAR-64, one layer": {
        "dim": 64,
        "heads": 8,
        "layers": 1,
        "hidden": 128,
        "ranks": ranks(20, 1, {"head.hidden": 50}),
    },
}


@pytest.fixture
def fresh_library() -> Any:
    """The library is loaded again in this test, and again after it."""
    library.load_library.cache_clear()
    yield
    library.load_library.cache_clear()


def with_config(bundle: Bundle, path: Path, changes: dict[str, Any]) -> Bundle:
    """A copy of a bundle with other fields of its configuration."""
    base = Bundle.open(Path(shutil.copytree(bundle.path, path)))
    model = msgspec.structs.replace(base.manifest.model, config=base.manifest.model.config | changes)
    return BundleWriter(path, base=base).commit(msgspec.structs.replace(base.manifest, model=model))


def check_answers(made: Any, rows: np.ndarray, cu_seqlens: np.ndarray, threads: int) -> None:
    """Of every instruction set and precision; int8 beside the same rounding in float64, whatever that does to a random model."""
    exact, quantised = made.reference(rows, cu_seqlens), made.int8_reference(rows, cu_seqlens)
    for isa, precision in itertools.product(INSTRUCTION_SETS, PRECISIONS):
        logits = open_engine(made.bundle, precision=precision, threads=threads, isa=isa).run(rows, cu_seqlens)
        assert (logits.shape, logits.dtype) == (exact.shape, np.float32)
        if precision == "int8":
            assert relative_error(logits, quantised) <= INT8_STEP, isa
        else:
            assert relative_error(logits, exact) <= TOLERANCES[precision], (isa, precision)


@pytest.mark.parametrize("lengths", ODD_BATCHES, ids=str)
def test_odd_batches_equal_the_reference(small: Any, lengths: list[int]) -> None:
    check_answers(small, *small.batch(*lengths), threads=2)


@pytest.mark.parametrize("shape", SHAPES)
def test_other_shapes_equal_the_reference(make: Callable[..., Any], shape: str) -> None:
    made = make(**SHAPES[shape])
    check_answers(made, *made.batch(9, 1, 20), threads=1)


def test_lower_precisions_are_other_than_fp32(small: Any) -> None:
    """Or else nothing here would show that they run at all."""
    rows, cu_seqlens = small.batch(30)
    exact = open_engine(small.bundle, threads=1).run(rows, cu_seqlens)
    for precision in ("fp16", "bf16", "int8"):
        assert relative_error(open_engine(small.bundle, precision=precision, threads=1).run(rows, cu_seqlens), exact) > 1e-5


def test_two_persons_of_a_clip(small: Any) -> None:
    rng = np.random.default_rng(0)
    clip = Clip.from_persons([rng.normal(size=(n, 15, 3)).astype(np.float32) for n in (11, 6)], "two")
    manifest = small.bundle.manifest
    features = compute_features(clip.joints, np.array([clip.person_lengths]), manifest.skeleton, manifest.features)
    (prediction,) = star_edge.load(small.bundle.path)(clip)
    expected = small.reference(features, cu_seqlens_of([17]))
    assert relative_error(prediction.logits[None], expected) <= TOLERANCES["fp32"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.hypothesis
def test_a_clip_has_the_same_bits_in_any_batch_with_any_threads(small: Any, precision: str) -> None:
    engines = {threads: open_engine(small.bundle, precision=precision, threads=threads) for threads in (1, 2, 8)}
    one_by_one = open_engine(small.bundle, precision=precision, threads=2, mode="per-clip")

    @settings(deadline=None, max_examples=25)
    @given(st.lists(st.integers(0, 150), min_size=1, max_size=7), st.integers(0, 1000))
    def check(lengths: list[int], seed: int) -> None:
        rows, cu_seqlens = small.batch(*lengths, seed=seed)
        clips = unpack(rows, cu_seqlens)
        alone = np.concatenate([engines[1].run(*pack([clip])) for clip in clips])
        order = np.random.default_rng(seed).permutation(len(clips))
        for engine in engines.values():
            np.testing.assert_array_equal(engine.run(rows, cu_seqlens), alone)
            np.testing.assert_array_equal(engine.run(*pack([clips[index] for index in order])), alone[order])
        np.testing.assert_array_equal(one_by_one.run(rows, cu_seqlens), alone)

    check()


@pytest.mark.parametrize("mode", ["packed", "per-clip"])
def test_many_python_threads_on_one_engine(small: Any, mode: Any) -> None:
    engine = open_engine(small.bundle, threads=2, mode=mode)
    batches = [small.batch(n, 2 * n, seed=n) for n in range(1, 31)]
    expected = [engine.run(*batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: engine.run(*batch), batches * 4))
    for one, other in zip(found, expected * 4, strict=True):
        np.testing.assert_array_equal(one, other)
    assert 1 <= len(engine._idle) <= 4


def system_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_contexts_end_with_the_engine(small: Any) -> None:
    gc.collect()  # engines of earlier tests
    before = system_threads()
    engine = open_engine(small.bundle, threads=5)
    engine.run(*small.batch(40))
    assert system_threads() == before + 4
    del engine
    gc.collect()
    assert system_threads() == before


def _answer(engine: NativeEngine, batch: tuple[np.ndarray, np.ndarray], sender: Any) -> None:
    sender.send(engine.run(*batch))


def test_a_forked_child_runs_what_its_parent_opened(small: Any) -> None:
    engine, batch = open_engine(small.bundle, threads=2), small.batch(100, 3)
    expected = engine.run(*batch)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(engine, batch, sender))
    child.start()
    assert receiver.poll(60), "the child hangs"
    np.testing.assert_array_equal(receiver.recv(), expected)
    child.join(60)
    assert child.exitcode == 0
    np.testing.assert_array_equal(engine.run(*batch), expected)


@pytest.mark.hypothesis
def test_a_stream_equals_the_clip_of_its_window(small: Any) -> None:
    recognizer = star_edge.load(small.bundle.path, threads=2)

    @settings(deadline=None, max_examples=15)
    @given(
        st.integers(1, 12),
        st.integers(1, 5),
        st.lists(st.lists(st.integers(1, 3), unique=True), max_size=30),
        st.integers(0, 99),
    )
    def check(window: int, hop: int, frames: list[list[int]], seed: int) -> None:
        rng = np.random.default_rng(seed)
        stream, kept = Stream(recognizer, window, hop), []
        for persons in frames:
            kept.append({person: rng.normal(size=(15, 3)).astype(np.float32) for person in persons})
            result = stream.push(kept[-1].items())
            if result is None or result.prediction is None:
                continue
            tracks: dict[int, list[np.ndarray]] = {}
            for frame in kept[-window:]:
                for person, joints in frame.items():
                    tracks.setdefault(person, []).append(joints)
            clip = Clip.from_persons([np.stack(rows) for rows in tracks.values()], "window")
            np.testing.assert_array_equal(result.prediction.logits, recognizer.logits(clip)[0])

    check()


def test_the_report_says_what_runs(small: Any) -> None:
    stored = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8": "int8"}
    for isa in INSTRUCTION_SETS:
        for precision in PRECISIONS:
            report = open_engine(small.bundle, precision=precision, threads=3, isa=isa).report()
            assert (report.engine, report.precision, report.storage) == ("native", precision, stored[precision])
            assert (report.mode, report.threads) == ("packed", 3)
            assert report.provider.startswith(f"libstar_edge {star_edge.__version__}, {isa}")
            assert report.nodes.keys() == small.bundle.manifest.nodes["fp32"].keys()
            assert report.nodes["layers.1.temporal.linear1"] == report.compute
            assert report.nodes["layers.0.spatial.attention"] == "fp32"
            if precision == "fp16":
                assert report.compute == "fp32"
    chosen = open_engine(small.bundle, precision="int8").report()
    loaded = library.load_library()
    assert chosen.provider == f"libstar_edge {library.version(loaded)}, {library.products(loaded, 'int8')}"
    assert chosen.threads == len(os.sched_getaffinity(0))


def test_the_report_has_both_factors_of_a_layer_of_low_rank(make: Callable[..., Any]) -> None:
    made = make(ranks={"layers.1.spatial.qkv": 4, "embedding": 2})
    nodes = open_engine(made.bundle, precision="int8").report().nodes
    assert nodes.keys() == made.bundle.manifest.nodes["int8"].keys()
    assert (nodes["layers.1.spatial.qkv.first"], nodes["layers.1.spatial.qkv.second"]) == ("int8", "int8")
    assert (nodes["embedding.first"], nodes["embedding.second"]) == ("fp32", "fp32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": {"layers.0.spatial.qkv": 0}}, "1 to 16"),
        ({"ranks": {"layers.0.spatial.qkv": 17}}, "1 to 16"),
        ({"ranks": {"layers.2.spatial.qkv": 4}}, "the path of a linear layer"),
        ({"ranks": {"layers.0.spatial.attention": 4}}, "the path of a linear layer"),
        ({"widths": {"layers.0.spatial.linear2": 4}}, "linear1 of an encoder, or head.hidden"),
        ({"widths": {"head.hidden": -1}}, "1 to 65536"),
        ({"widths": 8}, "an object"),
    ],
)
def test_ranks_and_widths_that_no_layer_can_have(small: Any, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match="configuration cannot be used") as caught:
        open_engine(with_config(small.bundle, tmp_path / "bad.star", changes))
    assert message in str(caught.value.expected)


def test_ranks_and_widths_of_other_weights(small: Any, tmp_path: Path) -> None:
    for index, changes in enumerate(({"ranks": {"layers.0.spatial.qkv": 4}}, {"widths": {"head.hidden": 25}})):
        with pytest.raises(InputError, match=r"lacks a tensor|another type or shape") as caught:
            open_engine(with_config(small.bundle, tmp_path / f"{index}.star", changes))
        assert caught.value.expected in ("F32 [4, 16]", "F32 [25]")


def test_an_ensemble_is_for_onnxruntime(small: Any, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="no ensembles") as caught:
        open_engine(with_config(small.bundle, tmp_path / "several.star", {"experts": 2}))
    assert caught.value.found == "2 experts"
    assert "onnxruntime" in str(caught.value.hint)
    rows, cu_seqlens = small.batch(9)
    one = open_engine(with_config(small.bundle, tmp_path / "one.star", {"experts": 1}), threads=1)
    np.testing.assert_array_equal(one.run(rows, cu_seqlens), open_engine(small.bundle, threads=1).run(rows, cu_seqlens))


def test_mixed_precision_is_the_bundles(small: Any, tmp_path: Path) -> None:
    path = Path(shutil.copytree(small.bundle.path, tmp_path / "mixed.star"))
    base = Bundle.open(path)
    nodes = base.manifest.nodes | {"int8": base.manifest.nodes["int8"] | {"layers.0.spatial.linear2": "fp32"}}
    mixed = BundleWriter(path, base=base).commit(msgspec.structs.replace(base.manifest, nodes=nodes))
    engine = open_engine(mixed, precision="int8", threads=1)
    assert engine.report().nodes["layers.0.spatial.linear2"] == "fp32"
    assert engine.report().nodes["layers.0.spatial.linear1"] == "int8"
    rows, cu_seqlens = small.batch(12)
    whole = open_engine(small.bundle, precision="int8", threads=1).run(rows, cu_seqlens)
    assert (engine.run(rows, cu_seqlens) != whole).any()


def test_a_packed_bundle_answers_as_its_folder(small: Any, tmp_path: Path) -> None:
    packed = write_pack(small.bundle, tmp_path / "x.star.zip").path
    batch = small.batch(8, 2)
    for precision in PRECISIONS:
        found = open_engine(Bundle.open(packed), precision=precision, threads=1).run(*batch)
        np.testing.assert_array_equal(found, open_engine(small.bundle, precision=precision, threads=1).run(*batch))


def test_it_is_the_default_engine_and_bf16_needs_no_model(exported_bundle: Path) -> None:
    recognizer = star_edge.load(exported_bundle, precision="bf16", threads=1)
    assert (recognizer.engine.name, recognizer.engine.precision) == ("native", "bf16")
    assert "bf16" not in recognizer.bundle.manifest.precisions
    assert recognizer.self_test().error <= TOLERANCES["bf16"]


def test_precisions_the_bundle_lacks(star_bundle: Path) -> None:
    for precision, command in (("fp16", "star-edge export --fp16"), ("int8", "star-edge calibrate")):
        with pytest.raises(MismatchError, match=f"no {precision} model") as caught:
            star_edge.load(star_bundle, precision=precision)
        assert caught.value.hint
        assert command in caught.value.hint
    with pytest.raises(MismatchError, match="no bf16 model") as caught:
        star_edge.load(star_bundle, engine="onnxruntime", precision="bf16")
    assert "--engine native" in str(caught.value.hint)


def test_a_model_the_library_does_not_know(tiny_bundle: Path) -> None:
    with pytest.raises(MismatchError, match="cannot run the model 'mean'") as caught:
        star_edge.load(tiny_bundle)
    assert str(tiny_bundle) in str(caught.value.where)
    assert "onnxruntime" in str(caught.value.hint)


def test_a_joint_without_edges_is_refused(small: Any, tmp_path: Path) -> None:
    """As exports refuse it: to attend to nothing has no meaning in a masked softmax."""
    with pytest.raises(InputError, match="configuration cannot be used") as caught:
        open_engine(with_config(small.bundle, tmp_path / "alone.star", {"edges": [[i, i] for i in range(14)]}))
    assert caught.value.found is not None
    assert "joint 14 without an edge" in caught.value.found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": 0}, "no threads"),
        ({"threads": 100_000}, "threads out of range"),
        ({"mode": "padded"}, "unknown mode"),
        ({"isa": "sse2"}, "unknown instruction set"),
        ({"device": "npu"}, "unknown device"),
        ({"device": "cuda", "isa": "avx2"}, "an instruction set is a processor's"),
    ],
)
def test_bad_arguments(small: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_engine(small.bundle, **arguments)


def test_an_instruction_set_of_another_processor(small: Any) -> None:
    absent = next(name for name in ("neon", "avx2") if name not in INSTRUCTION_SETS)
    with pytest.raises(MismatchError, match="lacks the instruction set") as caught:
        open_engine(small.bundle, isa=absent)
    assert INSTRUCTION_SETS[0] in str(caught.value.found)


def test_on_a_gpu_or_refused_without_one(small: Any) -> None:
    """A library without CUDA kernels says how to build one; one with them computes as the processor does, or finds no GPU."""
    if "cuda" not in _FOUND:
        with pytest.raises(MismatchError, match=r"no CUDA kernels|no NVIDIA GPU") as caught:
            open_engine(small.bundle, device="cuda")
        assert caught.value.hint is not None
        return
    rows, cu_seqlens = small.batch(9, 1, 30)
    for precision in precisions(small.bundle.manifest, device="cuda"):
        engine = open_engine(small.bundle, precision=precision, device="cuda")
        expected = open_engine(small.bundle, precision="fp32").run(rows, cu_seqlens)
        assert relative_error(engine.run(rows, cu_seqlens), expected) <= TOLERANCES[precision]
        assert engine.report().provider.startswith(f"libstar_edge {library.version(library.load_library())}, cuda ")


def test_bf16_is_no_precision_of_the_gpu(small: Any) -> None:
    assert set(precisions(small.bundle.manifest)) - set(precisions(small.bundle.manifest, device="cuda")) == {"bf16"}


def test_bad_batches_are_refused(small: Any) -> None:
    engine = open_engine(small.bundle, threads=1)
    rows, cu_seqlens = small.batch(3, 3)
    bad = {
        "descends": (rows, np.array([0, 4, 2, 6], dtype=np.int32)),
        "end at the row count": (rows, np.array([0, 4], dtype=np.int32)),
        "float32": (rows.astype(np.float64), cu_seqlens),
        "wrong joint count": (rows[:, :14], cu_seqlens),
        "wrong channel count": (rows[:, :, :2], cu_seqlens),
        "NaN or infinity": (np.where(rows == rows[4, 2, 1], np.float32("nan"), rows), cu_seqlens),
    }
    for message, batch in bad.items():
        with pytest.raises(InputError, match=message):
            engine.run(*batch)


def test_rows_that_are_not_contiguous(small: Any) -> None:
    rows, cu_seqlens = small.batch(6)
    engine = open_engine(small.bundle, threads=1)
    turned = np.asfortranarray(rows)
    np.testing.assert_array_equal(engine.run(turned, cu_seqlens), engine.run(rows, cu_seqlens))
    np.testing.assert_array_equal(engine.run(np.repeat(rows, 2, 0)[::2], cu_seqlens), engine.run(rows, cu_seqlens))


def test_weights_that_do_not_fit(small: Any, tmp_path: Path) -> None:
    path = Path(shutil.copytree(small.bundle.path, tmp_path / "bad.star"))
    base = Bundle.open(path)
    writer = BundleWriter(path, base=base)
    writer.add("weights.safetensors", b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(InputError, match="lacks a tensor") as caught:
        open_engine(writer.commit(base.manifest))
    assert str(path) in str(caught.value.where)


@pytest.mark.usefixtures("fresh_library")
def test_a_missing_library_names_the_command(small: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("runtime.native.__path__", [str(tmp_path)])
    with pytest.raises(MismatchError, match="make native"):
        open_engine(small.bundle)


@pytest.mark.usefixtures("fresh_library")
def test_a_file_that_is_no_library(small: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libstar_edge.so").write_bytes(b"\x7fELF")
    monkeypatch.setattr("runtime.native.__path__", [str(tmp_path)])
    with pytest.raises(MismatchError, match="cannot be loaded") as caught:
        open_engine(small.bundle)
    assert "make native" in str(caught.value.hint)


@pytest.mark.usefixtures("fresh_library")
@pytest.mark.parametrize(("name", "value"), [("ABI_VERSION", 99), ("_package_version", lambda: "9.9.9")])
def test_a_library_of_another_version(small: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    monkeypatch.setattr(library, name, value)
    with pytest.raises(MismatchError, match="another version") as caught:
        open_engine(small.bundle)
    assert "9" in str(caught.value.expected)


def test_recognizers_share_nothing(make: Callable[..., Any], small: Any) -> None:
    other = make(seed=7)
    pair = [Recognizer(made.bundle, open_engine(made.bundle, threads=1)) for made in (small, other)]
    clips = [np.random.default_rng(n).normal(size=(n, 15, 3)) for n in range(1, 13)]
    expected = [recognizer.logits(clip) for clip in clips for recognizer in pair]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda job: job[0].logits(job[1]), [(recognizer, clip) for clip in clips for recognizer in pair])
        for one, two in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, two)
