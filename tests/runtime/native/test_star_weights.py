"""What the CUDA kernels are given, without a GPU: the order of packed matrices, what is folded in, structures of the C header."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest
from cuda_devices import open_device

from runtime.native.cuda import library as cuda
from runtime.native.cuda.library import HERE, Sizes, Weights
from runtime.native.cuda.star_weights import pack_weights
from star_edge.models.registry import star_config
from star_edge.models.star import Star
from star_edge.skeletons import NTU25

HEADER = HERE / "star_model.h"
CONFIG = star_config("star-64", NTU25, 9, 5)


def fragment_product(rows: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """[16, 64] of rows [16, 64] and a packed matrix [64, 64], as the lanes of a warp load, multiply and keep them.

    Lane 4 g + t has channels 16 t to 16 t + 15 of rows g and g + 8; fragments are those of PTX's mma.m16n8k16.
    """
    out = np.zeros((16, 64))
    for block in range(8):
        sums = np.zeros((16, 8))
        for step in range(4):
            a, b = np.zeros((16, 16)), np.zeros((16, 8))
            for g, t in np.ndindex(8, 4):
                for half in range(2):
                    at, channel = 8 * half + 2 * t, 16 * t + 4 * step + 2 * half
                    for row in (g, g + 8):
                        a[row, at : at + 2] = rows[row, channel : channel + 2]
                    b[at : at + 2, g] = packed[8 * block + g, 16 * step + at : 16 * step + at + 2]
            sums += a @ b
        for t in range(4):
            channel = 16 * t + 2 * block
            out[:, channel : channel + 2] = sums[:, 2 * t : 2 * t + 2]
    return out


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The packing is the host's in any build."""
    return open_device("emulated", cuda.MODEL, tmp_path_factory.mktemp("emulated")).library


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in Star(CONFIG).state_dict().items()}


def sizes_of(edges: int) -> Sizes:
    return Sizes(25, 9, 5, CONFIG.layers, CONFIG.hidden, edges, 1, 1, 0)


def unpacked(library: ctypes.CDLL, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parts of packed weights by their names, as arrays."""
    sizes, weights = sizes_of(len(CONFIG.edges)), Weights()
    packed = pack_weights(library, sizes, state, CONFIG.edges)
    library.star_cuda_place_weights(sizes, packed.ctypes.data, weights)
    starts = {name: getattr(weights, name) - packed.ctypes.data for name, _ in Weights._fields_}
    ends = dict(zip(starts, [*list(starts.values())[1:], len(packed)], strict=True))
    halves, ints = {"key_values", "matrices", "head_hidden", "head_output"}, {"edge_starts", "edge_ends"}
    types = {name: np.float16 if name in halves else np.int32 if name in ints else np.float32 for name in starts}
    return {name: packed[start : ends[name]].view(types[name]) for name, start in starts.items()}


def test_matrices_multiply_in_fragments_with_scales_folded_in(library: ctypes.CDLL, state: dict[str, np.ndarray]) -> None:
    packed = unpacked(library, state)
    x = np.random.default_rng(1).normal(size=(16, 64))
    for layer in range(CONFIG.layers):
        temporal = state[f"layers.{layer}.temporal.qkv.weight"]
        spatial = state[f"layers.{layer}.spatial.qkv.weight"]
        blocks = np.concatenate(
            [
                packed[name][: CONFIG.layers * rows * 64].astype(np.float64).reshape(CONFIG.layers, -1, 64, 64)[layer]
                for name, rows in (("matrices", 512), ("key_values", 128))
            ]
        )
        expected = [
            x @ spatial[:64].T * np.log2(np.e) / np.sqrt(8),
            x @ spatial[64:128].T,
            x @ spatial[128:].T,
            *(x @ state[f"layers.{layer}.spatial.linear{i}.weight"].T for i in (1, 2)),
            x @ temporal[:64].T * 8**-0.25,
            *(x @ state[f"layers.{layer}.temporal.linear{i}.weight"].T for i in (1, 2)),
            x @ temporal[64:128].T * 8**-0.25,
            x @ temporal[128:].T,
        ]
        for block, products in zip(blocks, expected, strict=True):
            assert fragment_product(x, block) == pytest.approx(products, abs=5e-3)  # float16 weights


def test_everything_else_is_where_the_header_says(library: ctypes.CDLL, state: dict[str, np.ndarray]) -> None:
    packed = unpacked(library, state)
    raw = np.random.default_rng(2).normal(size=225)
    deviation = np.sqrt(state["input_norm.running_var"] + 1e-5)
    normal = (raw - state["input_norm.running_mean"]) / deviation * state["input_norm.weight"] + state["input_norm.bias"]
    assert raw * packed["input_scale"][:225] + packed["input_shift"][:225] == pytest.approx(normal, abs=1e-5)
    starts, ends = packed["edge_starts"], packed["edge_ends"]
    assert [(i, int(j)) for i in range(25) for j in ends[starts[i] : starts[i + 1]]] == sorted(CONFIG.edges)
    assert (packed["embedding"][: 9 * 64].reshape(9, 64) == state["embedding.weight"].T.astype(np.float32)).all()
    vectors = packed["vectors"][: CONFIG.layers * 12 * 64].reshape(CONFIG.layers, 12, 64)
    names = ("norm1.weight", "norm1.bias", "linear1.bias", "linear2.bias", "norm2.weight", "norm2.bias")
    for layer in range(CONFIG.layers):
        order = [f"layers.{layer}.{branch}.{name}" for branch in ("spatial", "temporal") for name in names]
        assert (vectors[layer] == np.stack([state[name].astype(np.float32) for name in order])).all()
    for part, name in {
        "embedding_bias": "embedding.bias",
        "context": "context.weight",
        "head_hidden": "head.hidden.weight",
        "head_hidden_bias": "head.hidden.bias",
        "head_output": "head.output.weight",
        "head_output_bias": "head.output.bias",
    }.items():
        expected = state[name].astype(np.float32).astype(packed[part].dtype).ravel()
        assert (packed[part][: expected.size] == expected).all(), part


def test_what_cannot_be_packed_is_refused(library: ctypes.CDLL, state: dict[str, np.ndarray]) -> None:
    with pytest.raises(KeyError, match=r"layers\.1\.spatial\.norm2\.bias"):
        pack_weights(library, sizes_of(1), {k: v for k, v in state.items() if k != "layers.1.spatial.norm2.bias"}, [(0, 0)])
    for edge in ((25, 0), (0, -1)):
        with pytest.raises(ValueError, match="an edge leads"):
            pack_weights(library, sizes_of(1), state, [edge])


@pytest.mark.parametrize("structure", [Sizes, Weights])
def test_structures_are_the_header_s(structure: type[ctypes.Structure]) -> None:
    name = {Sizes: "star_cuda_sizes", Weights: "star_cuda_weights"}[structure]
    text = re.sub(r"/\*.*?\*/", "", Path(HEADER).read_text(), flags=re.DOTALL)
    found = re.search(rf"typedef struct {name} \{{(.*?)\}}", text, re.DOTALL)
    assert found
    fields = re.findall(r"(\w+)\s*[,;]", found[1])
    assert fields == [field for field, _ in structure._fields_]
