"""The onnxruntime engine on the real graph of a small STAR model: odd batches, and a report that names every module."""

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.onnx.graph import build_model, node_precisions, quantised_modules, recorded_tensors
from runtime.bundle import Bundle, BundleWriter
from runtime.engines.onnxruntime import open_engine
from runtime.features import FeatureRecipe
from runtime.golden import Golden
from runtime.manifest import Manifest, ModelEntry, OpEntry
from runtime.packing import cu_seqlens_of, pack, unpack
from runtime.tolerances import TOLERANCES, relative_error
from star_edge.models.config import manifest_fields
from star_edge.models.registry import star_config
from star_edge.models.star import Star
from star_edge.skeletons import get_skeleton

OPS = {
    "StarSegmentedPositions": ("positions",),
    "StarSparseAttention": ("layers.0.spatial.attention",),
    "StarSegmentedLinearAttention": ("layers.0.temporal.attention",),
    "StarContextAttention": ("context",),
}


@pytest.fixture(scope="module")
def star() -> Star:
    torch.manual_seed(0)
    return Star(star_config("star-64", get_skeleton("nite15"), 9, 6, layers=1)).eval()


@pytest.fixture(scope="module")
def bundle(star: Star, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    config = star.config
    weights = {name: tensor.detach().numpy() for name, tensor in star.state_dict().items()}
    ranges = dict.fromkeys(recorded_tensors(config), 4.0)
    writer = BundleWriter(tmp_path_factory.mktemp("bundle") / "star.star")
    for precision in ("fp32", "fp16", "int8"):
        writer.add(f"model.{precision}.onnx", build_model(config, weights, precision, ranges).SerializeToString())  # type: ignore[arg-type]
    joints, cu_seqlens = np.ones((1, 15, 3), np.float32), cu_seqlens_of([1])
    golden = Golden(joints, cu_seqlens, np.array([[1]], np.int32), ("one",), np.ones((1, 6), np.float32), TOLERANCES)
    writer.add("golden.npz", golden.to_bytes())
    writer.add("weights.safetensors", b"not read here")
    return writer.commit(
        Manifest(
            star_edge_version="0",
            model=ModelEntry("star-64", manifest_fields(config)),
            skeleton=get_skeleton("nite15"),
            features=FeatureRecipe(),
            class_names=tuple("abcdef"),
            default_precision="fp16",
            ops=tuple(OpEntry(name, "star_edge", 1, modules) for name, modules in OPS.items()),
            nodes={precision: node_precisions(config, precision) for precision in ("fp32", "fp16", "int8")},  # type: ignore[arg-type]
        )
    )


def batch(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(sum(lengths))
    return (0.3 * rng.normal(size=(sum(lengths), 15, 9))).astype(np.float32), cu_seqlens_of(lengths)


def reference(star: Star, rows: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return star(torch.from_numpy(rows), torch.from_numpy(cu_seqlens)).numpy()


@pytest.mark.parametrize("mode", ["per-clip", "packed"])
@pytest.mark.parametrize("lengths", [[1], [0], [0, 0], [0, 3], [3, 0, 5], [300], [1] * 64], ids=lambda n: f"{n[:3]}x{len(n)}")
def test_odd_batches_equal_torch(bundle: Bundle, star: Star, lengths: list[int], mode: str) -> None:
    engine = open_engine(bundle, precision="fp32", threads=1, mode=mode)  # type: ignore[arg-type]
    rows, cu_seqlens = batch(lengths)
    assert relative_error(engine.run(rows, cu_seqlens), reference(star, rows, cu_seqlens)) < TOLERANCES["fp32"]


@pytest.mark.hypothesis
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_clip_gives_the_same_logits_alone_and_in_any_batch(bundle: Bundle, precision: str) -> None:
    per_clip = open_engine(bundle, precision=precision, threads=1)
    packed = open_engine(bundle, precision=precision, threads=1, mode="packed")

    @settings(deadline=None, max_examples=15)
    @given(st.lists(st.integers(0, 40), min_size=1, max_size=5))
    def check(lengths: list[int]) -> None:
        rows, cu_seqlens = batch(lengths)
        alone = np.concatenate([per_clip.run(*pack([clip])) for clip in unpack(rows, cu_seqlens)])
        np.testing.assert_array_equal(per_clip.run(rows, cu_seqlens), alone)
        assert relative_error(packed.run(rows, cu_seqlens), alone) < TOLERANCES[precision]

    check()


def test_report_names_every_module_and_the_lowering_of_every_op(bundle: Bundle, star: Star) -> None:
    for precision in ("fp32", "fp16", "int8"):
        report = open_engine(bundle, precision=precision, threads=1).report()
        assert report.nodes.keys() == bundle.manifest.nodes[precision].keys()
        for modules in OPS.values():
            assert {report.nodes[module] for module in modules} == {"function body, fp32"}
        assert "merged into its neighbours" not in report.nodes.values()


def test_fp16_is_stored_so_but_computed_in_fp32(bundle: Bundle) -> None:
    report = open_engine(bundle, threads=1).report()
    assert (report.precision, report.storage) == ("fp16", "fp16")
    # a processor with fp16 products in ONNX Runtime's CPU provider may really use them; x86 has none
    assert report.compute in ("fp32", "fp16", "fp16, fp32")
    assert report.nodes["layers.0.spatial.qkv"] in report.compute


def test_int8_products_are_seen_where_they_are_executed(bundle: Bundle, star: Star) -> None:
    nodes = open_engine(bundle, precision="int8", threads=1).report().nodes
    inner = [module for module in quantised_modules(star.config) if module.startswith("layers.")]
    assert {nodes[module] for module in inner} == {"int8"}
    assert nodes["embedding"] == "fp32"
