"""The peers give the answers of eager PyTorch, on clips of two lengths, or say what they lack."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.errors import MissingDependencyError
from runtime.features import compute_features
from runtime.native.library import instruction_sets, load_library
from runtime.packing import cu_seqlens_of
from runtime.tolerances import TOLERANCES, relative_error
from star_edge.bench import DEFAULT_ENGINES, ENGINES, bench_bundle
from star_edge.bench.measure import Plan
from star_edge.bench.peers import PEERS
from star_edge.engines import open_engine

# modules a peer takes beside torch
TAKES = {
    "torch-pyg": ("torch_scatter", "torch_sparse"),
    "onnxruntime-clip": ("onnxscript",),
    "openvino": ("openvino",),
    "openvino-static": ("openvino", "onnxscript"),
}
COMPILES = ("torch-compile", "torch-compile-static")  # for a quarter of a minute


def two_clips(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Features of clips of 3 and 11 rows."""
    skeleton = bundle.manifest.skeleton
    joints = np.random.default_rng(0).normal(size=(14, skeleton.num_joints, 3)).astype(np.float32)
    persons = np.array([[3], [11]], dtype=np.int32)
    return compute_features(joints, persons, skeleton, bundle.manifest.features), cu_seqlens_of([3, 11])


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in COMPILES else name for name in PEERS])
def test_a_peer_answers_as_torch_does(name: str, exported_bundle: Path) -> None:
    for module in TAKES.get(name, ()):
        pytest.importorskip(module, reason=f"{module} is not installed: the [peers] or [pyg] extra")
    if name == "native-avx2" and "avx2" not in instruction_sets(load_library()):
        pytest.skip("a processor without AVX2")
    bundle = Bundle.open(exported_bundle)
    features, cu_seqlens = two_clips(bundle)
    expected = open_engine(bundle, "torch", precision="fp32", threads=1).run(features, cu_seqlens)
    peer = PEERS[name](bundle, "fp32", 1)
    for _ in range(2):  # the second time with what the first has compiled
        assert relative_error(peer.run(features, cu_seqlens), expected) <= TOLERANCES["fp32"]
    assert peer.compute == "fp32"
    assert peer.provider.split()[0] in ("torch", "onnxruntime", "openvino", "libstar_edge")


@pytest.mark.parametrize(
    ("name", "module"), [("openvino", "openvino"), ("openvino-static", "openvino"), ("onnxruntime-clip", "onnxscript")]
)
def test_a_missing_package_names_its_extra(
    name: str, module: str, exported_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError) as caught:
        PEERS[name](Bundle.open(exported_bundle), "fp32", 1)
    assert caught.value.expected == module
    assert caught.value.hint == "pip install 'star-edge[peers]'"


def test_peers_are_rows_only_when_they_are_named(exported_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported_bundle, tmp_path / "own.star"))
    assert PEERS.keys() <= ENGINES.keys()
    assert set(ENGINES) - set(DEFAULT_ENGINES) == set(PEERS) - {"torch-pyg", "torch-compile"}
    named = ["openvino", "native-avx2"]
    report = bench_bundle(bundle, workloads=["2x5"], engines=named, threads=1, plan=Plan(rounds=1, repeats=1))
    rows = {(row.engine, row.mode, row.precision): row for row in report.results if row.engine != "torch"}
    precisions = ("fp32", "fp16", "bf16")
    assert rows.keys() == {("openvino", "per-clip", "fp32"), *(("native-avx2", "packed", name) for name in precisions)}
    for row in rows.values():
        assert row.correct or any(reason in row.reason for reason in ("[peers]", "avx2")), row.reason
