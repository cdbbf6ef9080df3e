"""What the CUDA kernels are given, without a GPU: the order of packed matrices, what is folded in, structures of the C header."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest

from runtime.native.cuda.library import HERE, Sizes, Weights
from runtime.native.cuda.star_weights import pack_weights, permuted
from star_edge.models import build_model, model_config
from star_edge.skeletons import NTU25

HEADER = HERE / "star_model.h"


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


def test_packed_matrices_multiply_in_fragments() -> None:
    rng = np.random.default_rng(0)
    rows, weight = rng.normal(size=(16, 64)), rng.normal(size=(64, 64))
    assert fragment_product(rows, permuted(weight)) == pytest.approx(rows @ weight.T, abs=1e-12)


def test_scales_are_folded_in() -> None:
    config = model_config("star-64", NTU25, 9, 5)
    state = {name: value.double().numpy() for name, value in build_model(config).state_dict().items()}
    packed = pack_weights(state, config.edges, joints=25, channels=9, layers=config.layers)
    assert set(packed) == {name for name, _ in Weights._fields_}
    assert all(array.flags.c_contiguous for array in packed.values())

    rng = np.random.default_rng(1)
    x = rng.normal(size=(16, 64))
    spatial, temporal = (state[f"layers.1.{branch}.qkv.weight"] for branch in ("spatial", "temporal"))
    blocks = packed["matrices"][1].astype(np.float64).reshape(10, 64, 64)
    expected = [
        x @ spatial[:64].T * np.log2(np.e) / np.sqrt(8),
        x @ spatial[64:128].T,
        x @ spatial[128:].T,
        *(x @ state[f"layers.1.spatial.linear{i}.weight"].T for i in (1, 2)),
        x @ temporal[:64].T * 8**-0.25,
        *(x @ state[f"layers.1.temporal.linear{i}.weight"].T for i in (1, 2)),
        x @ state["layers.2.temporal.qkv.weight"][64:128].T * 8**-0.25,
        x @ state["layers.2.temporal.qkv.weight"][128:].T,
    ]
    for block, products in zip(blocks, expected, strict=True):
        assert fragment_product(x, block) == pytest.approx(products, abs=5e-3)  # float16 weights
    assert (packed["matrices"][-1][512:] == 0).all()  # after the last layer there is none
    first = packed["first_key_value"].astype(np.float64)
    assert fragment_product(x, first[64:]) == pytest.approx(x @ state["layers.0.temporal.qkv.weight"][128:].T, abs=5e-3)

    raw = rng.normal(size=(25 * 9))
    deviation = np.sqrt(state["input_norm.running_var"] + 1e-5)
    normal = (raw - state["input_norm.running_mean"]) / deviation * state["input_norm.weight"] + state["input_norm.bias"]
    assert raw * packed["input_scale"] + packed["input_shift"] == pytest.approx(normal, abs=1e-5)
    edges = [
        (i, int(j)) for i in range(25) for j in packed["edge_ends"][packed["edge_starts"][i] : packed["edge_starts"][i + 1]]
    ]
    assert edges == sorted(config.edges)


@pytest.mark.parametrize("structure", [Sizes, Weights])
def test_structures_are_the_header_s(structure: type[ctypes.Structure]) -> None:
    name = {Sizes: "star_cuda_sizes", Weights: "star_cuda_weights"}[structure]
    text = re.sub(r"/\*.*?\*/", "", Path(HEADER).read_text(), flags=re.DOTALL)
    found = re.search(rf"typedef struct {name} \{{(.*?)\}}", text, re.DOTALL)
    assert found
    fields = re.findall(r"(\w+)\s*[,;]", found[1])
    assert fields == [field for field, _ in structure._fields_]
