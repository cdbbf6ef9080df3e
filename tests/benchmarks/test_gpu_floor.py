"""Operations, bytes, and the least time that they take."""

from __future__ import annotations

import pytest
from gpu_cases import TWO_PERSONS, star_config, work_of
from gpu_floor import Work, star_work, stgcn_work

from star_edge.bench.macs import macs


def test_a_floor_is_the_larger_of_arithmetic_and_bytes() -> None:
    limits = {"fp16_ops_per_s": 1e12, "fp32_ops_per_s": 1e11, "bytes_per_s": 1e9}
    assert Work(3_000_000_000, 1_000_000).floor_ms("fp16", limits) == pytest.approx(3)
    assert Work(3_000_000_000, 1_000_000).floor_ms("fp32", limits) == pytest.approx(30)
    assert Work(3_000_000_000, 8_000_000).floor_ms("fp16", limits) == pytest.approx(8)
    assert Work(3_000_000_000, 1_000_000).floor_ms("int8", limits) == pytest.approx(1), "of bytes: there is no int8 ceiling"


def test_star_reads_features_and_each_layers_activations_once() -> None:
    config = star_config("star-64")
    work = star_work(config, [300, 32], "fp16")
    assert work == Work(2 * macs(config, [300, 32]), 332 * 25 * (9 * 4 + 5 * 64 * 2 * 2))
    assert star_work(config, [332], "fp32").bytes == 332 * 25 * (9 * 4 + 5 * 64 * 2 * 4)
    assert star_work(star_config("star-128"), [332], "int8").bytes == 332 * 25 * (9 * 4 + 5 * 128 * 2 * 2)


def test_stgcn_is_counted_layer_by_layer() -> None:
    blocks = [(3, 64, 1), *[(64, 64, 1)] * 3, (64, 128, 2), *[(128, 128, 1)] * 2, (128, 256, 2), *[(256, 256, 1)] * 2]
    persons, frames, products, moved = 2, 300, 0, 2 * 300 * 25 * 3 * 4
    for index, (inputs, outputs, stride) in enumerate(blocks):
        products += persons * frames * 25 * (inputs * 3 * outputs + 3 * 25 * outputs)
        frames //= stride
        products += persons * frames * 25 * 9 * outputs * outputs
        if index > 0 and inputs != outputs:
            products += persons * frames * 25 * inputs * outputs
        moved += 2 * persons * frames * 25 * outputs * 2
    assert stgcn_work(300, 2, "fp16") == Work(2 * (products + 256 * 60), moved)
    assert work_of("st-gcn", TWO_PERSONS, "fp16") == stgcn_work(300, 2, "fp16")


def test_two_persons_are_600_rows_of_a_clip() -> None:
    assert work_of("star-64", TWO_PERSONS, "fp16") == star_work(star_config("star-64"), [600], "fp16")
