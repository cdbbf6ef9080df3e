"""From a bundle to a TensorRT engine on the board it will run on: plugins, engine, proof, and only then the files."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np

import boards
from runtime.bundle import Bundle
from runtime.errors import GateError, MismatchError
from runtime.features import compute_features
from runtime.files import write_atomic
from runtime.manifest import model_file
from runtime.packing import cu_seqlens_of, pack, unpack
from runtime.tensorrt.buckets import BUCKETS, Bucket, split
from runtime.tensorrt.cuda import Cuda, open_cuda
from runtime.tensorrt.installation import cache_folder, import_tensorrt, load_plugins, plugin_path, version, version_numbers
from runtime.tensorrt.sidecar import EngineSidecar, Gpu, Power, ProfileCheck, write_engine
from runtime.tolerances import relative_error
from star_edge import __version__
from star_edge.bench.jetson import read_jetson
from star_edge.engines import open_engine

if TYPE_CHECKING:
    from exporters.tensorrt.builder import Built
    from exporters.tensorrt.graphs import Target
    from exporters.tensorrt.rtx import RtxBuild
    from runtime.engines.tensorrt import TensorRtEngine

# what is being done -> a context to do it in
Step = Callable[[str], AbstractContextManager[Any]]
_PURPOSE = "star-edge build"
_ONE_PROFILE_BUG = (10, 8)  # TensorRT's issue 4250, fixed there: wrong answers with several profiles


class BuildReport(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that was built, verified and stored; ``star-edge build --json`` prints it."""

    bundle: str
    engine: str
    sidecar: EngineSidecar
    schema: str = "star-edge/build/1"


def build(
    bundle: Bundle | str | Path,
    *,
    board: str | None = None,
    precision: str | None = None,
    buckets: Sequence[Bucket] = BUCKETS,
    int8_ops: Collection[str] | None = None,
    include: Path | None = None,
    step: Step = nullcontext,
    command: str = "star_edge.build.build",
) -> BuildReport:
    """Build, verify and store the engine of a precision for the GPU that is here.

    Args:
        bundle: an opened bundle or its folder.
        board: name of the board that this must be (``star-edge boards``); None: whatever it is.
        precision: ``fp32``, ``fp16`` or ``int8``; default: the bundle's default one.
        buckets: sizes to build for, ascending.
        int8_ops: ops whose plugins take and give int8 in an int8 engine; None: the attentions.
        include: folder of TensorRT's headers; None: where JetPack and Debian put them.
        step: wraps each part of the work, for progress.
        command: to record.

    Raises MismatchError (another board, no TensorRT, GPU, compiler or headers, a precision the bundle lacks), GateError (refused
    by TensorRT, plugins not taken, or answers outside the tolerance: then nothing is stored), InputError (no such board).
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    bundle.require_folder("build")
    precision = bundle.precision(precision)
    detected = _require_board(board)
    trt, cuda = import_tensorrt(_PURPOSE), open_cuda()
    _require_gpu(board, cuda.gpu)
    from exporters.tensorrt.builder import build_engine, creators, layers_of
    from exporters.tensorrt.graphs import graph_of, int8_ops_of
    from exporters.tensorrt.plugin_library import ensure_plugins

    found = version(trt)
    with step(f"plugins for sm_{cuda.gpu.sm} and TensorRT {found}"):
        plugin = ensure_plugins(cuda.gpu.sm, found, include)
        load_plugins(trt, plugin_path(plugin.key))
    model = graph_of(bundle, precision, "tensorrt", int8_ops, creators(trt))
    power = _power()
    timing_cache = _timing_cache(found, cuda.gpu, power)
    with step(f"engine in {precision}, {len(buckets)} profiles"):
        known = timing_cache.read_bytes() if timing_cache.is_file() else b""
        built = build_engine(trt, model, buckets, known)
    timing_cache.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(timing_cache, built.timing_cache)
    draft = EngineSidecar(
        star_edge_version=__version__,
        bundle_id=bundle.manifest.bundle_id,
        precision=precision,
        tensorrt=found,
        cuda=cuda.runtime,
        driver=cuda.driver,
        gpu=cuda.gpu,
        board=detected.board if detected is not None else "",
        power=power,
        plugin=plugin,
        int8_ops=int8_ops_of(model),
        sparse_products=built.sparse_products,
        graph_sha256=hashlib.sha256(model.SerializeToString()).hexdigest(),
        engine_sha256=hashlib.sha256(built.plan).hexdigest(),
        engine_bytes=len(built.plan),
        profiles=tuple(buckets),
        plugin_layers=built.plugin_layers,
        layers=layers_of(trt, built.plan),
        build_seconds=built.seconds,
        verification=(),
        command=command,
    )
    with step("answers beside fp32, profile by profile"):
        verification = _verify(bundle, draft, built, trt, cuda)
    sidecar = msgspec.structs.replace(draft, verification=verification)
    path = write_engine(bundle, built.plan, sidecar)
    return BuildReport(bundle=str(bundle.path), engine=str(path), sidecar=sidecar)


def _require_board(name: str | None) -> boards.Detected | None:
    """The Jetson that this is, None elsewhere; raise where it is refused, or is not the board that was named."""
    wanted = None if name is None else boards.load(name)
    found = boards.detect()
    if found is not None and found.refused:
        raise MismatchError(
            "star-edge builds no TensorRT engine on this Jetson",
            where=found.model,
            found=found.refused,
            expected="JetPack 6.1 or newer on an Orin or Thor",
            hint="star-edge boards",
        )
    if wanted is None:
        return found
    if found is None:
        raise MismatchError(
            "this is not a Jetson",
            found="no device tree of one",
            expected=wanted.title,
            hint="build on the board; here: star-edge build --target tensorrt-rtx, or --graph-only OUT.onnx",
        )
    if found.board and found.board != wanted.name:
        raise MismatchError(
            "this is another board",
            where=found.model,
            found=found.board,
            expected=wanted.name,
            hint=f"star-edge build --board {found.board}",
        )
    return found


def _require_gpu(name: str | None, gpu: Gpu) -> None:
    if name is not None and boards.load(name).sm != gpu.sm:
        raise MismatchError(
            "this board has another GPU than its name says",
            found=f"sm_{gpu.sm}, {gpu.name}",
            expected=f"sm_{boards.load(name).sm} of {boards.load(name).title}",
            hint="star-edge boards",
        )


def _power() -> Power:
    state = read_jetson()
    if state is None:
        return Power()
    clock = state.gpu_clocks[0] if state.gpu_clocks else None
    return Power(
        mode=state.power_mode,
        gpu_mhz=clock.mhz if clock else None,
        gpu_max_mhz=clock.max_mhz if clock else None,
        jetson_clocks=state.jetson_clocks,
    )


def _timing_cache(tensorrt: str, gpu: Gpu, power: Power) -> Path:
    """Where timings are kept: those of one TensorRT, GPU and power mode."""
    words = (tensorrt, f"sm{gpu.sm}", f"{gpu.multiprocessors}sms", *((power.mode,) if power.mode else ()))
    return cache_folder() / "timing" / f"{'-'.join(words)}.cache"


def _verify(bundle: Bundle, draft: EngineSidecar, built: Built, trt: Any, cuda: Cuda) -> tuple[ProfileCheck, ...]:
    """Run every profile; GateError where one is outside the tolerance."""
    from runtime.engines.tensorrt import TensorRtEngine

    engine = TensorRtEngine(bundle.manifest, draft, built.plan, trt=trt, cuda=cuda, mode="packed")
    checks = tuple(_check_profile(bundle, engine, index) for index in range(len(draft.profiles)))
    failed = [check for check in checks if not max(check.error, check.long_error) <= check.tolerance]
    if failed:
        worst = max(failed, key=lambda check: max(check.error, check.long_error))
        several = len(checks) > 1 and version_numbers(draft.tensorrt) < _ONE_PROFILE_BUG
        raise GateError(
            f"the {draft.precision} engine gives other answers than fp32, so it is not kept",
            where=f"profile of {worst.rows} rows and {worst.clips} clips",
            found=f"relative error {worst.error:.2e} on golden clips, {worst.long_error:.2e} on a clip of {worst.rows} rows; "
            f"{len(failed)} of {len(checks)} profiles outside",
            expected=f"at most {worst.tolerance:.0e}",
            hint=f"TensorRT before 10.8 can be wrong with several profiles: star-edge build --buckets {worst.rows}x{worst.clips}"
            if several
            else "star-edge verify --layers, or another precision",
        )
    return checks


def _check_profile(bundle: Bundle, engine: TensorRtEngine, index: int) -> ProfileCheck:
    """One profile: every golden clip that fits, in batches as full as they make them, and one clip as long as the bucket."""
    bucket, golden, manifest = engine.sidecar.profiles[index], bundle.golden(), bundle.manifest
    features = compute_features(golden.joints, golden.person_lengths, manifest.skeleton, manifest.features)
    clips = unpack(features, golden.cu_seqlens)
    fitting = [number for number, clip in enumerate(clips) if len(clip) <= bucket.rows]
    rows = sum(len(clips[number]) for number in fitting)
    chosen = fitting * max(1, min(bucket.rows // max(rows, 1), bucket.clips // max(len(fitting), 1)))
    offsets = cu_seqlens_of([len(clips[number]) for number in chosen])
    answers = []
    for first, last, _ in split((bucket,), offsets):
        packed = pack([clips[number] for number in chosen[first:last]])
        answers.append(engine.run_in(index, *packed))
    clip, offsets = _long_clip(bundle, bucket.rows)
    reference = open_engine(bundle, precision="fp32").run(clip, offsets)
    return ProfileCheck(
        rows=bucket.rows,
        clips=bucket.clips,
        golden_clips=len(fitting),
        error=relative_error(np.concatenate(answers), golden.logits[chosen]) if answers else 0.0,
        long_error=relative_error(engine.run_in(index, clip, offsets), reference),
        tolerance=golden.tolerances[engine.precision],
    )


def _long_clip(bundle: Bundle, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [rows, V, C] of one generated person, and offsets."""
    from exporters.onnx.golden import moving_body

    manifest = bundle.manifest
    body = moving_body(manifest.skeleton, rows, np.random.default_rng(rows))
    persons = np.array([[rows]], dtype=np.int32)
    return compute_features(body, persons, manifest.skeleton, manifest.features), cu_seqlens_of([rows])


class GraphReport(msgspec.Struct, frozen=True, kw_only=True):
    """A graph that was written: its precision and target, and its nodes that must become plugins."""

    path: str
    bytes: int
    sha256: str
    precision: str
    target: str
    plugins: int
    schema: str = "star-edge/build-graph/1"


def write_graph(
    bundle: Bundle, out: Path, target: str, precision: str | None = None, int8_ops: Collection[str] | None = None
) -> GraphReport:
    """Write the graph that a target takes, see ``exporters.tensorrt.graphs.graph_of``; whole or not at all."""
    from exporters.tensorrt.graphs import graph_of, star_nodes

    precision = bundle.precision(precision)
    model = graph_of(bundle, precision, cast("Target", target), int8_ops)
    data = model.SerializeToString()
    write_atomic(out, data)
    return GraphReport(
        path=str(out),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        precision=precision,
        target=target,
        plugins=len(star_nodes(model)) if target == "tensorrt" else 0,
    )


class TrtexecReport(msgspec.Struct, frozen=True, kw_only=True):
    """Lines for a shell; those that begin with ``#`` say which version the next one is for."""

    commands: tuple[str, ...]
    schema: str = "star-edge/build-trtexec/1"


def trtexec_commands(
    bundle: Bundle,
    precision: str | None = None,
    buckets: Sequence[Bucket] = BUCKETS,
    int8_ops: str | None = None,
    board: str | None = None,
) -> TrtexecReport:
    """The graph, the plugins and the engine of a precision by programs alone, for each major version of TensorRT that differs.

    ``int8_ops``: as the command line names them. ``board``: only the versions that its JetPack releases bring.
    """
    import onnx

    from exporters.tensorrt.sparsity import sparse_products
    from exporters.tensorrt.trtexec import MAJORS, trtexec

    precision = bundle.precision(precision)
    graph, plugins = Path(f"{bundle.path.stem}.{precision}.onnx"), Path("build/plugin/libstar_edge_trt.so")
    engine, cache = Path(f"{bundle.path.stem}.{precision}.engine"), Path("timing.cache")
    sparse = bool(sparse_products(onnx.load_model_from_string(bundle.read(model_file(precision)))))
    words = ["star-edge", "build", str(bundle.path), f"--{precision}", "--graph-only", str(graph)]
    words += ["--int8-ops", int8_ops] if int8_ops is not None else []
    lines = [
        shlex.join(words),
        "cmake -S exporters/tensorrt/plugin -B build/plugin && cmake --build build/plugin --target star_edge_trt --parallel",
    ]
    majors = MAJORS
    if board is not None:
        family = boards.load(board).family
        brought = {version_numbers(release.tensorrt)[0] for release in boards.releases() if family in release.families}
        majors = tuple(major for major in MAJORS if major in brought)
    for major in majors:
        lines += [f"# TensorRT {major}", trtexec(major, bundle.manifest, buckets, graph, engine, plugins, cache, sparse)]
    return TrtexecReport(commands=tuple(lines))


class RtxReport(msgspec.Struct, frozen=True, kw_only=True):
    """What TensorRT-RTX built of a bundle, one entry a precision."""

    bundle_id: str
    builds: tuple[RtxBuild, ...]
    schema: str = "star-edge/build-rtx/1"


def prove_with_rtx(
    bundle: Bundle,
    precision: str | None = None,
    buckets: Sequence[Bucket] = BUCKETS,
    int8_ops: Collection[str] | None = None,
    step: Step = nullcontext,
) -> RtxReport:
    """Build a precision, or each that the bundle has, with TensorRT-RTX and without plugins; needs no GPU and keeps nothing."""
    from exporters.tensorrt.rtx import build_rtx, import_rtx

    import_rtx()
    builds = []
    for chosen in (bundle.precision(precision),) if precision else bundle.manifest.precisions:
        with step(f"{chosen} without plugins, {len(buckets)} profiles"):
            builds.append(build_rtx(bundle, chosen, buckets, int8_ops))
    return RtxReport(bundle_id=bundle.manifest.bundle_id, builds=tuple(builds))
