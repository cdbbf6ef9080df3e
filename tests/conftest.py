"""Shared fixtures, and what makes a run of the tests repeatable."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when numpy and torch load their libraries

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parents[1]

# "default" tries the same examples in every run, whatever else ran before; "fuzz" (make fuzz) takes its examples from
# --hypothesis-seed. A test's own max_examples holds in both.
_SLOW_START = [HealthCheck.too_slow]  # the first example pays for imports
settings.register_profile(
    "default", derandomize=True, deadline=None, max_examples=25, database=None, suppress_health_check=_SLOW_START
)
settings.register_profile("fuzz", deadline=None, max_examples=200, print_blob=True, suppress_health_check=_SLOW_START)
settings.load_profile("default")


class Passed:
    """What passes, kept in a file that a later run with ``--passed`` leaves out: skipped tests and slow ones are left for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = set(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else set()
        self.found: set[str] = set()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        known = [item for item in items if item.nodeid in self.before]
        items[:] = [item for item in items if item.nodeid not in self.before]
        config.hook.pytest_deselected(items=known)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.found.add(report.nodeid)
        elif report.failed:  # its teardown
            self.found.discard(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not hasattr(session.config, "workerinput"):  # of xdist: its controller sees every report
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("".join(f"{name}\n" for name in sorted(self.before | self.found)), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--passed", type=Path, metavar="FILE", help="leave out the tests in FILE, which passed before; add to it")


def pytest_configure(config: pytest.Config) -> None:
    if path := config.getoption("--passed"):
        config.pluginmanager.register(Passed(Path(path).absolute()))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real recordings beside the repository; tests that need it skip where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder.parent.name}/{folder.name} beside the repository")
    return folder


@pytest.fixture
def files_of_at_most() -> Callable[[int], AbstractContextManager[None]]:
    """(bytes) -> a context in which no file of this process may grow beyond them: a full disk that needs no mount."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset folder of 40 generated recordings that went through the NTU reader; do not write into it."""
    from star_edge.data.convert import convert
    from star_edge.data.generator import generate

    folder = tmp_path_factory.mktemp("tiny_dataset")
    generate(folder / "skeletons", clips=40, seed=0, classes=4)
    convert(folder / "skeletons", folder / "dataset")
    return folder / "dataset"


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of STAR-64 after one epoch on ``tiny_dataset``, so little better than chance; do not change it."""
    from star_edge.data import open_dataset
    from star_edge.training.loop import Task, Trainer
    from star_edge.training.recipe import get_recipe

    recipe = get_recipe("default", epochs=1)
    return Trainer(Task.of(open_dataset(tiny_dataset)), "star-64", recipe, tmp_path_factory.mktemp("tiny_run")).run()


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    """Folder of a bundle whose model is made by hand, so that its readers are tested without torch or an export.

    Layout ``nite15``, 3 channels, 4 classes; logits are the mean features of a clip times a matrix plus a bias.
    """
    from runtime.bundle import BundleWriter
    from runtime.features import FeatureRecipe, compute_features
    from runtime.golden import Golden
    from runtime.manifest import Manifest, ModelEntry
    from runtime.packing import cu_seqlens_of, unpack
    from runtime.tolerances import TOLERANCES
    from star_edge.skeletons import get_skeleton

    skeleton, recipe = get_skeleton("nite15"), FeatureRecipe(channels=3)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(skeleton.num_joints * 3, 4)).astype(np.float32)
    bias = rng.normal(size=4).astype(np.float32)
    joints = rng.normal(size=(9, skeleton.num_joints, 3)).astype(np.float32)
    cu_seqlens, persons = cu_seqlens_of([1, 8]), np.array([[1, 0], [5, 3]], dtype=np.int32)
    features = compute_features(joints, persons, skeleton, recipe)
    means = np.stack([clip.mean(0).reshape(-1) for clip in unpack(features, cu_seqlens)])
    writer = BundleWriter(tmp_path / "tiny.star")
    writer.add("model.fp32.onnx", mean_model(weight, bias))
    writer.add("weights.safetensors", weight.tobytes())
    logits = means @ weight + bias
    writer.add("golden.npz", Golden(joints, cu_seqlens, persons, ("one row", "two persons"), logits, TOLERANCES).to_bytes())
    manifest = Manifest(
        star_edge_version="0.1.0",
        model=ModelEntry("mean", {"bias": True}),
        skeleton=skeleton,
        features=recipe,
        class_names=("wave", "kick", "bow", "clap"),
        default_precision="fp32",
        nodes={"fp32": {"head.output": "fp32"}},
    )
    return writer.commit(manifest).path


def mean_model(weight: np.ndarray, bias: np.ndarray) -> bytes:
    """ONNX model of ``tiny_bundle``: inputs and output as an export has them, weight float32 [V*3, K]."""
    from onnx import TensorProto, checker, helper, numpy_helper

    joints = len(weight) // 3
    constants = {
        "weight": weight,
        "bias": bias,
        "flat": np.array([-1, len(weight)]),
        "zero": np.array(0),
        "first": np.array([0]),
        "second": np.array([1]),
        "last": np.array([-1]),
        "end": np.array([2**31]),
        "one": np.array(1, np.float32),
    }
    nodes = [
        helper.make_node("Shape", ["features"], ["rows1"], start=0, end=1),
        helper.make_node("Squeeze", ["rows1"], ["rows"]),
        helper.make_node("Cast", ["cu_seqlens"], ["offsets"], to=TensorProto.INT64),
        helper.make_node("Range", ["zero", "rows", "step"], ["row"]),
        helper.make_node("Slice", ["offsets", "first", "last"], ["starts"]),
        helper.make_node("Slice", ["offsets", "second", "end"], ["stops"]),
        helper.make_node("Unsqueeze", ["starts", "second"], ["start"]),
        helper.make_node("Unsqueeze", ["stops", "second"], ["stop"]),
        helper.make_node("GreaterOrEqual", ["row", "start"], ["after"]),
        helper.make_node("Less", ["row", "stop"], ["before"]),
        helper.make_node("And", ["after", "before"], ["inside"]),
        helper.make_node("Cast", ["inside"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["mask", "second"], ["counted"], keepdims=1),
        helper.make_node("Max", ["counted", "one"], ["count"]),
        helper.make_node("Reshape", ["features", "flat"], ["flattened"]),
        helper.make_node("MatMul", ["mask", "flattened"], ["sum"]),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "weight"], ["scores"], name="head.output"),
        helper.make_node("Add", ["scores", "bias"], ["logits"]),
    ]
    constants["step"] = np.array(1)
    graph = helper.make_graph(
        nodes,
        "mean",
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["F", joints, 3]),
            helper.make_tensor_value_info("cu_seqlens", TensorProto.INT32, ["offsets"]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", weight.shape[1]])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a two-layer STAR on ``nite15`` with random weights, statistics and gains; do not change it."""
    import torch

    from runtime.features import FeatureRecipe
    from star_edge.models.registry import star_config
    from star_edge.models.star import Star
    from star_edge.skeletons import NITE15
    from star_edge.training.checkpoint import Checkpoint, DataEntry, ModelEntry, save_checkpoint

    config = star_config("star-64", NITE15, channels=9, classes=5, dim=16, heads=4, layers=2, hidden=24)
    generator = torch.Generator().manual_seed(0)
    state = Star(config).state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator)
            positive = name.endswith("running_var") or ("norm" in name and name.endswith("weight"))
            fan_in = tensor.shape[-1] if tensor.ndim > 1 else 4
            state[name] = values.abs() * 0.2 + 0.8 if positive else values * fan_in**-0.5
    path = tmp_path_factory.mktemp("random_checkpoint") / "random.pt"
    checkpoint = Checkpoint(
        model=ModelEntry("star-64", config),
        state_dict=state,
        skeleton=NITE15,
        features=FeatureRecipe(),
        class_names=tuple("abcde"),
        data=DataEntry(source="unknown", name="random", split="none"),
        metrics={"val_top1": 0.2, "note": "random"},
    )
    save_checkpoint(checkpoint, path)
    return path


@pytest.fixture(scope="session")
def exported_bundle(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundle exported from ``random_checkpoint`` in fp32 and fp16; do not change it."""
    from star_edge.export import export_checkpoint

    path = tmp_path_factory.mktemp("exported_bundle") / "random.star"
    export_checkpoint(random_checkpoint, path, fp16=True)
    return path


@pytest.fixture
def star_bundle(exported_bundle: Path, tmp_path: Path) -> Path:
    """``tiny.star``, the fp32 half of ``exported_bundle``: what ``tiny_bundle`` is, for tests that run the default engine."""
    from runtime.bundle import Bundle, BundleWriter
    from runtime.manifest import GOLDEN, WEIGHTS, model_file

    source = Bundle.open(exported_bundle)
    writer = BundleWriter(tmp_path / "tiny.star")
    for name in (model_file("fp32"), WEIGHTS, GOLDEN):
        writer.add(name, source.read(name))
    nodes = {"fp32": source.manifest.nodes["fp32"]}
    return writer.commit(msgspec.structs.replace(source.manifest, default_precision="fp32", nodes=nodes)).path
