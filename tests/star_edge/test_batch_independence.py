"""A clip gives the same logits alone and in any batch, on every engine, in every mode and precision."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.onnx.graph import build_model, recorded_tensors
from runtime.bundle import Bundle, BundleWriter
from runtime.packing import cu_seqlens_of, pack, unpack
from runtime.tolerances import TOLERANCES, relative_error
from star_edge.engines import open_engine
from star_edge.torch_engine import load_model


@pytest.fixture(scope="module")
def bundle(exported_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The exported bundle with an int8 model of made-up ranges beside the others."""
    path = Path(shutil.copytree(exported_bundle, tmp_path_factory.mktemp("int8") / "random.star"))
    base = Bundle.open(path)
    model = load_model(base)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    ranges = dict.fromkeys(recorded_tensors(model.config), 5.0)
    writer = BundleWriter(path, base=base)
    writer.add("model.int8.onnx", build_model(model.config, weights, "int8", ranges, "fp16").SerializeToString())
    return writer.commit(base.manifest)


@pytest.mark.parametrize("mode", ["packed", "per-clip"])
@pytest.mark.parametrize(
    ("engine", "precision"),
    [("torch", "fp32"), ("torch", "fp16"), ("torch", "bf16"), ("onnxruntime", "fp32"), ("onnxruntime", "fp16"),
     ("onnxruntime", "int8")],
)  # fmt: skip
@pytest.mark.hypothesis
def test_a_clip_does_not_depend_on_its_batch(bundle, engine, precision, mode):
    opened = open_engine(bundle, engine, precision=precision, threads=1, mode=mode)

    @settings(deadline=None, max_examples=12)
    @given(st.lists(st.integers(0, 24), min_size=1, max_size=6), st.integers(0, 1000), st.sampled_from([0.1, 1.0, 3.0]))
    def check(lengths: list[int], seed: int, scale: float) -> None:
        rng = np.random.default_rng(seed)
        cu_seqlens = cu_seqlens_of(lengths)
        rows = rng.normal(scale=scale, size=(cu_seqlens[-1], 15, 9)).astype(np.float32)
        together = opened.run(rows, cu_seqlens)
        clips = unpack(rows, cu_seqlens)
        alone = np.concatenate([opened.run(clip, cu_seqlens_of([len(clip)])) for clip in clips])
        order = rng.permutation(len(clips))
        shuffled = opened.run(*pack([clips[index] for index in order]))
        if mode == "per-clip":
            np.testing.assert_array_equal(together, alone)
            np.testing.assert_array_equal(shuffled, alone[order])
        else:
            assert relative_error(together, alone) <= TOLERANCES[precision]
            assert relative_error(shuffled, alone[order]) <= TOLERANCES[precision]

    check()
