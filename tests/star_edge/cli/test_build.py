"""``star-edge build`` on stand-ins for TensorRT and CUDA: the whole flow, what it keeps, and every refusal."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import numpy as np
import onnx
import pytest
from fake_board import ORIN_NANO, FakeBoard
from int8_bundle import make_int8_bundle
from tensorrt_fake import OPS, BuilderFlag, ProfilingVerbosity

from exporters.tensorrt.trtexec import trtexec
from runtime.bundle import Bundle
from runtime.errors import GateError, InputError, MismatchError, MissingDependencyError
from runtime.files import sha256_of
from runtime.manifest import model_file
from runtime.tensorrt import sidecar as sidecar_module
from runtime.tensorrt.buckets import BUCKETS, Bucket
from runtime.tensorrt.sidecar import EngineSidecar, Power
from star_edge.build import build
from star_edge.cli import cli
from star_edge.inspection import inspect_bundle, inspect_engine

ONE = (Bucket(128, 8),)
Run = Callable[..., str]


@pytest.fixture(scope="session")
def calibrated(exported_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_int8_bundle(exported_bundle, tmp_path_factory.mktemp("calibrated") / "x.star", "fp16")


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeBoard:
    return FakeBoard(monkeypatch, tmp_path)


@pytest.fixture
def bundle(calibrated: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """``x.star`` in the working directory."""
    shutil.copytree(calibrated.path, tmp_path / "x.star")
    monkeypatch.chdir(tmp_path)
    return Bundle.open(Path("x.star"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Standard output of the command; errors are raised."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        cli.main(["build", *map(str, arguments)], standalone_mode=False, prog_name="star-edge")
        return capsys.readouterr().out

    return run


def engines(bundle: Bundle) -> list[str]:
    folder = bundle.path / "engines"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_is_built_verified_and_described(board: FakeBoard, bundle: Bundle, run: Run, precision: str) -> None:
    board.expect(bundle, precision)
    printed = run("--board", "orin-nano-8gb", f"--{precision}", "--buckets", "64x4,128x8")
    name = f"10.3.0-sm87-{precision}"
    assert engines(bundle) == [f"{name}.engine", f"{name}.json"]
    made = EngineSidecar.from_bytes((bundle.path / "engines" / f"{name}.json").read_bytes())
    assert (made.name, made.bundle_id, made.precision) == (name, bundle.manifest.bundle_id, precision)
    assert (made.tensorrt, made.cuda, made.driver) == ("10.3.0", "12.6", "12.6")
    assert (made.board, made.gpu.name, made.gpu.sm, made.gpu.multiprocessors) == ("orin-nano-8gb", "Orin", 87, 8)
    assert made.power == Power(mode="25W", jetson_clocks=True)
    assert made.engine_sha256 == sha256_of(bundle.path / "engines" / f"{name}.engine")
    assert made.engine_bytes == (bundle.path / "engines" / f"{name}.engine").stat().st_size
    assert made.profiles == (Bucket(64, 4), Bucket(128, 8))
    assert made.plugin_layers == 6
    assert made.int8_ops == (("StarSegmentedLinearAttention", "StarSparseAttention") if precision == "int8" else ())
    assert {layer.kind for layer in made.layers} == {"", "kgen"}
    assert made.command.split()[0] == "star-edge"
    assert [(check.rows, check.clips, check.golden_clips) for check in made.verification] == [(64, 4, 3), (128, 8, 4)]
    for check in made.verification:
        assert max(check.error, check.long_error) <= check.tolerance
        assert check.error > 0
        assert check.long_error > 0
    assert "2 profiles passed" in printed.replace("\n", " ")
    assert printed.splitlines()[-1].endswith("next: star-edge verify x.star --engine tensorrt")


def test_how_tensorrt_is_asked(board: FakeBoard, bundle: Bundle) -> None:
    """Strongly typed, TF32 off, one size a profile, no functions, timings kept."""
    board.expect(bundle, "fp16")
    build(bundle, precision="fp16", buckets=(Bucket(64, 4), Bucket(128, 8)))
    ((network, config),) = board.trt.built
    assert network._strongly_typed
    assert BuilderFlag.TF32 not in config._flags
    assert config.profiling_verbosity == ProfilingVerbosity.DETAILED
    shapes = [{name: set(sizes) for name, sizes in profile._shapes.items()} for profile in config._profiles]
    assert shapes == [
        {"features": {(64, 15, 9)}, "cu_seqlens": {(5,)}},
        {"features": {(128, 15, 9)}, "cu_seqlens": {(9,)}},
    ]
    assert not onnx.load_model_from_string(network._model).functions
    cache = next(Path(os.environ["XDG_CACHE_HOME"]).rglob("*.cache"))
    assert cache.name == "10.3.0-sm87-8sms-25W.cache"
    assert cache.read_bytes() == b"timings"
    board.restart()
    cache.write_bytes(b"of another GPU")
    build(bundle, precision="fp16", buckets=ONE)
    assert cache.read_bytes() == b"timings"


def test_every_profile_is_run_full_and_by_golden_clips(board: FakeBoard, bundle: Bundle) -> None:
    board.expect(bundle, "fp16")
    build(bundle, precision="fp16", buckets=(Bucket(64, 4), Bucket(512, 16)))
    seen = {features.shape[0]: [] for features, _ in board.trt.ran}
    for features, offsets in board.trt.ran:
        seen[features.shape[0]].append(np.diff(offsets))
    assert seen.keys() == {64, 512}
    assert {64, 50, 30, 1} <= {rows for lengths in seen[64] for rows in lengths.tolist()}
    assert {512, 300, 70, 50, 30, 1} <= {rows for lengths in seen[512] for rows in lengths.tolist()}


def test_plugins_are_compiled_once(board: FakeBoard, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    board.expect(bundle, "fp16")
    for _ in range(2):
        build(bundle, precision="fp16", buckets=ONE)
        board.restart()
    assert board.compiled == 1
    board.trt.__version__ = "10.7.0"
    build(bundle, precision="fp16", buckets=ONE)
    board.restart()
    assert board.compiled == 2
    monkeypatch.setattr("exporters.tensorrt.plugin_library.sources_sha256", lambda: "changed")
    build(bundle, precision="fp16", buckets=ONE)
    assert board.compiled == 3
    assert len(engines(bundle)) == 4  # of both versions


def test_wrong_answers_are_not_kept(board: FakeBoard, bundle: Bundle, run: Run) -> None:
    board.expect(bundle, "fp16")
    board.trt.error = 0.05
    with pytest.raises(GateError, match=r"other answers than fp32, so it is not kept(?s:.*)profile of 128 rows") as caught:
        run("--fp16", "--buckets", "128x8")
    assert "verify" in (caught.value.hint or "")
    assert engines(bundle) == []
    board.restart()
    board.trt.error = 0.05
    with pytest.raises(GateError, match=r"2 of 2 profiles outside(?s:.*)before 10.8 can be wrong with several profiles"):
        run("--fp16", "--buckets", "64x4,128x8")
    board.restart()
    board.trt.error = float("nan")
    with pytest.raises(GateError, match="relative error inf"):
        run("--fp16", "--buckets", "128x8")


def test_a_plugin_that_was_not_taken_fails_the_build(board: FakeBoard, bundle: Bundle, run: Run) -> None:
    board.trt.plugins = OPS[:3]
    with pytest.raises(MismatchError, match=r"no plugin 'StarContextAttention'(?s:.*)found: +StarSegmentedLinear"):
        run("--fp16")
    assert engines(bundle) == []


def test_plugins_are_looked_for_where_the_registry_has_them(board: FakeBoard, bundle: Bundle) -> None:
    board.trt.registers_in_no_namespace = True
    board.expect(bundle, "fp16")
    build(bundle, precision="fp16", buckets=ONE)
    ((network, _),) = board.trt.built
    nodes = (node for node in onnx.load_model_from_string(network._model).graph.node if node.domain == "star_edge")
    named = [{attribute.name: attribute.s for attribute in node.attribute} for node in nodes]
    assert {attributes["plugin_namespace"] for attributes in named} == {b""}


def test_what_tensorrt_says_is_told(board: FakeBoard, bundle: Bundle, run: Run) -> None:
    board.trt.refuse_build = True
    with pytest.raises(GateError, match=r"TensorRT 10.3.0 cannot build the graph(?s:.*)any implementation for node positions"):
        run("--fp16")
    assert engines(bundle) == []


def test_wrong_uses(board: FakeBoard, bundle: Bundle, run: Run, tmp_path: Path) -> None:
    for arguments, kind, message in (
        (("absent.star",), InputError, "not a bundle"),
        (("--board", "orin-nona"), InputError, r"no board 'orin-nona'(?s:.*)did you mean"),
        (("--board", "jetson-xavier-nx"), MismatchError, r"does not run on 'jetson-xavier-nx'(?s:.*)no IPluginV3"),
        (("--board", "agx-orin-64gb"), MismatchError, r"this is another board(?s:.*)found: +orin-nano-8gb"),
        (("--buckets", "64"), InputError, "not a list of buckets"),
        (("--int8-ops", "sprase"), InputError, r"no such op(?s:.*)--int8-ops(?s:.*)sprase"),
        (("--target", "tpu"), click.UsageError, "is not one of"),
        (("--target", "onnxruntime"), click.UsageError, "belongs to --graph-only"),
        (("--target", "tensorrt-rtx", "--board", "t5000"), click.UsageError, "--board changes nothing"),
        (("--graph-only", "o.onnx", "--buckets", "64x1"), click.UsageError, "--buckets changes nothing"),
        (("--print-trtexec", "--graph-only", "o.onnx"), click.UsageError, "stands without --graph-only"),
    ):
        with pytest.raises(kind, match=message):
            run(*arguments)
    shutil.copytree(bundle.path, tmp_path / "y.star")
    with pytest.raises(InputError, match="several bundles here"):
        run()
    shutil.rmtree(bundle.path)
    shutil.rmtree(tmp_path / "y.star")
    with pytest.raises(InputError, match="no bundle here"):
        run()
    assert board.compiled == 0


def test_a_precision_that_the_bundle_lacks(board: FakeBoard, tiny_bundle: Path, run: Run) -> None:
    for precision, hint in (("int8", "star-edge calibrate"), ("fp16", "star-edge export --fp16")):
        with pytest.raises(MismatchError, match=rf"the bundle has no {precision} model(?s:.*){hint}"):
            run(tiny_bundle, f"--{precision}")


def test_machines_that_are_refused(board: FakeBoard, bundle: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    board.detected = msgspec.structs.replace(ORIN_NANO, refused="JetPack 5: its TensorRT 8.5 has no IPluginV3")
    with pytest.raises(MismatchError, match=r"no TensorRT engine on this Jetson(?s:.*)8.5 has no IPluginV3"):
        run("--fp16")
    board.detected = None
    with pytest.raises(MismatchError, match=r"this is not a Jetson(?s:.*)Jetson Orin Nano 8GB(?s:.*)--target tensorrt-rtx"):
        run("--board", "orin-nano-8gb")
    board.detected = msgspec.structs.replace(ORIN_NANO, board="")  # a carrier and module that the table lacks
    with pytest.raises(MismatchError, match=r"another GPU than its name says(?s:.*)sm_87(?s:.*)sm_110"):
        run("--board", "thor-t5000")
    board.trt.__version__ = "10.2.0"
    with pytest.raises(MismatchError, match=r"needs a newer TensorRT(?s:.*)10.3 or newer: JetPack 6.1"):
        run("--fp16")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MismatchError, match=r"star-edge build needs TensorRT's Python module(?s:.*)--system-site-packages"):
        run("--fp16")
    assert engines(bundle) == []


def test_another_gpu_than_a_jetsons(board: FakeBoard, bundle: Bundle) -> None:
    """Without a board's name the engine is of whatever GPU is here."""
    board.detected = None
    board.runtime.attributes.update({75: 9, 76: 0, 16: 132, 18: 0})
    board.driver.name = b"NVIDIA H100"
    board.expect(bundle, "fp16")
    made = build(bundle, precision="fp16", buckets=ONE).sidecar
    assert (made.name, made.board, made.power) == ("10.3.0-sm90-fp16", "", Power())


def test_json_and_progress(board: FakeBoard, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    board.expect(bundle, "fp16")
    cli.main(["build", "--json", "--fp16", "--buckets", "128x8"], standalone_mode=False, prog_name="star-edge")
    written = capsys.readouterr()
    document = json.loads(written.out)
    assert (document["schema"], document["sidecar"]["schema"]) == ("star-edge/build/1", "star-edge/engine/1")
    for step in ("plugins for sm_87 and TensorRT 10.3.0", "engine in fp16, 1 profiles", "answers beside fp32"):
        assert re.search(rf"{step}.*: \d+\.\d s", " ".join(written.err.split())), step


def test_inspect_knows_the_engine(board: FakeBoard, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    board.expect(bundle, "fp16")
    path = Path(build(bundle, precision="fp16", buckets=ONE).engine)
    document = inspect_engine(path)
    assert (document.builder, document.version, document.current) == ("TensorRT", "10.3.0.30", True)
    assert [engine.current for engine in inspect_bundle(bundle.path).engines] == [True]
    capsys.readouterr()
    cli.main(["inspect", str(path)], standalone_mode=False, prog_name="star-edge")
    shown = capsys.readouterr().out
    for word in (
        "this bundle as it is",
        "orin-nano-8gb, Orin, 8 SMs, CUDA 12.6",
        "mode 25W",
        "128x8",
        "6 layers of",
        "of at most 5e-03",
    ):
        assert word in " ".join(shown.split()), word


def test_run_says_what_is_missing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MismatchError, match=r"engine 'tensorrt' needs TensorRT's Python module(?s:.*)nvidia-jetpack"):
        cli.main(["run", "--self-test", "--engine", "tensorrt"], standalone_mode=False, prog_name="star-edge")


def test_bench_says_where_the_engine_is_measured(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"no engine 'tensorrt' to measure on cpu(?s:.*)next: +--device cuda"):
        cli.main(["bench", "--engine", "tensorrt"], standalone_mode=False, prog_name="star-edge")


def test_a_self_test_by_the_engine(board: FakeBoard, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    board.expect(bundle, "fp16")
    build(bundle, precision="fp16", buckets=(Bucket(300, 4),))
    capsys.readouterr()
    cli.main(["run", "--self-test", "--engine", "tensorrt"], standalone_mode=False, prog_name="star-edge")
    assert re.search(r"self-test passed: 5 golden clips.*with tensorrt fp16, TensorRT 10.3.0, Orin, 8 SMs, 6 plugin layers",
                     capsys.readouterr().out)  # fmt: skip


def test_a_second_build_replaces_the_first(board: FakeBoard, bundle: Bundle) -> None:
    board.expect(bundle, "fp16")
    for sizes in (ONE, (Bucket(64, 4),)):
        build(bundle, precision="fp16", buckets=sizes)
        board.restart()
        assert engines(bundle) == ["10.3.0-sm87-fp16.engine", "10.3.0-sm87-fp16.json"]


@pytest.mark.parametrize("at", range(5))
def test_a_killed_build_leaves_one_whole_engine(
    board: FakeBoard, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Killed before each write or rename: the old engine opens, or the new one; the next build clears away what was left."""
    from runtime.engines.tensorrt import open_engine

    board.expect(bundle, "fp16")
    build(bundle, precision="fp16", buckets=ONE)
    board.restart()
    steps = 0

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            nonlocal steps
            steps += 1
            if steps > at:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    def killed_writing(path: Path, data: bytes) -> None:
        path.with_name(f".{path.name}.{2**22 + 1}.0123abcd.tmp").write_bytes(data[:5])  # as if by a process that is gone
        write(path, data)

    write = sidecar_module.write_atomic
    monkeypatch.setattr(sidecar_module, "write_atomic", counted(killed_writing))
    monkeypatch.setattr(sidecar_module, "_finish", counted(sidecar_module._finish))
    if at < 4:
        with pytest.raises(KeyboardInterrupt):
            build(bundle, precision="fp16", buckets=(Bucket(64, 4),))
    else:
        build(bundle, precision="fp16", buckets=(Bucket(64, 4),))
    board.restart()
    opened = open_engine(Bundle.open(bundle.path))
    assert opened.sidecar.profiles == ((Bucket(64, 4),) if at >= 3 else ONE)
    monkeypatch.undo()


def test_what_a_killed_build_left_is_cleared_away(board: FakeBoard, bundle: Bundle) -> None:
    board.expect(bundle, "fp16")
    build(bundle, precision="fp16", buckets=ONE)
    folder = bundle.path / "engines"
    (folder / "10.3.0-sm87-fp16.0123456789abcdef.engine").write_bytes(b"half")
    (folder / f".10.3.0-sm87-fp16.0123456789abcdef.engine.{2**22 + 1}.0123abcd.tmp").write_bytes(b"half")
    (folder / "10.3.0-sm87-int8.engine").write_bytes(b"another's")
    (folder / "10.3.0-sm87-fp16.engine.bak").write_bytes(b"a user's")
    board.restart()
    build(bundle, precision="fp16", buckets=ONE)
    assert engines(bundle) == [
        "10.3.0-sm87-fp16.engine",
        "10.3.0-sm87-fp16.engine.bak",
        "10.3.0-sm87-fp16.json",
        "10.3.0-sm87-int8.engine",
    ]


def test_graphs_are_written(bundle: Bundle, run: Run) -> None:
    printed = run("--int8", "--graph-only", "plugins.onnx")
    model = onnx.load("plugins.onnx")
    assert not model.functions
    assert sum(node.domain == "star_edge" for node in model.graph.node) == 6
    assert "int8 for tensorrt, 6 plugins" in printed.replace("\n", " ")
    document = json.loads(run("--fp16", "--target", "tensorrt-rtx", "--graph-only", "free.onnx", "--json"))
    assert (document["schema"], document["precision"], document["plugins"]) == ("star-edge/build-graph/1", "fp16", 0)
    assert document["sha256"] == sha256_of(Path("free.onnx"))
    assert {node.domain for node in onnx.load("free.onnx").graph.node} == {""}
    run("--fp32", "--target", "onnxruntime", "--graph-only", "bodies.onnx")
    assert Path("bodies.onnx").read_bytes() == bundle.read(model_file("fp32"))
    run("--int8", "--int8-ops", "none", "--graph-only", "float.onnx")
    assert Path("float.onnx").stat().st_size < Path("plugins.onnx").stat().st_size


def test_trtexec_lines(bundle: Bundle, run: Run) -> None:
    lines = run("--fp16", "--print-trtexec").splitlines()
    assert lines[0] == "star-edge build x.star --fp16 --graph-only x.fp16.onnx"
    assert lines[2::2] == ["# TensorRT 10", "# TensorRT 11"]
    for major, line in zip((10, 11), lines[3::2], strict=True):
        program, *options = shlex.split(line)
        assert program == "trtexec"
        assert ("--stronglyTyped" in options) == (major == 10)
        assert not {"--fp16", "--int8", "--best", "--useCudaGraph", "--noCudaGraph"} & {*options}
        named = dict(option.partition("=")[::2] for option in options if not option.startswith("--profile="))
        assert named["--onnx"] == "x.fp16.onnx"
        assert "--sparsity" not in named
        assert named["--dynamicPlugins"].endswith("libstar_edge_trt.so")
        profiles = [options[at : at + 4] for at, option in enumerate(options) if option.startswith("--profile=")]
        assert [profile[0] for profile in profiles] == [f"--profile={index}" for index in range(len(BUCKETS))]
        for bucket, (_, *shapes) in zip(BUCKETS, profiles, strict=True):
            sizes = f"features:{bucket.rows}x15x9,cu_seqlens:{bucket.clips + 1}"
            assert shapes == [f"--{which}Shapes={sizes}" for which in ("min", "opt", "max")]
    assert "# TensorRT 11" not in run("--int8", "--board", "orin-nano-8gb", "--print-trtexec")
    graph = shlex.split(run("--int8", "--int8-ops", "sparse", "--print-trtexec").splitlines()[0])
    assert graph[-2:] == ["--int8-ops", "sparse"]


def test_trtexec_may_use_sparse_tensor_cores_where_weights_have_their_pattern(bundle: Bundle) -> None:
    line = trtexec(10, bundle.manifest, ONE, Path("x.onnx"), Path("x.engine"), Path("p.so"), Path("t.cache"), sparse=True)
    assert "--sparsity=enable" in shlex.split(line)


def test_rtx_builds_what_the_bundle_has(bundle: Bundle, run: Run) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'star-edge[tensorrt-rtx]'")
    document = json.loads(run("--target", "tensorrt-rtx", "--buckets", "64x4,128x8", "--json"))
    assert [built["precision"] for built in document["builds"]] == ["fp32", "fp16", "int8"]
    assert {built["version"] for built in document["builds"]} == {trt.__version__}
    assert [profile["rows"] for profile in document["builds"][0]["profiles"]] == [64, 128]
    assert "not kept" in run("--target", "tensorrt-rtx", "--fp16", "--buckets", "64x4")
    assert engines(bundle) == []


def test_rtx_that_is_not_installed(bundle: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError, match="tensorrt-rtx"):
        run("--target", "tensorrt-rtx")


def test_a_packed_bundle_is_only_read(bundle: Bundle, run: Run) -> None:
    cli.main(["pack", "x.star"], standalone_mode=False, prog_name="star-edge")
    with pytest.raises(InputError, match=r"build needs the folder(?s:.*)pack --unpack"):
        run("x.star.zip")


def test_the_program_ends_with_4_where_nothing_is(bundle: Bundle) -> None:
    done = subprocess.run([sys.executable, "-m", "star_edge", "build", "--fp16"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert "star-edge: star-edge build needs" in done.stderr
