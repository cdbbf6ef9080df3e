"""Predictions from rates and bytes, against counts made another way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import boards
from runtime.bundle import Bundle
from runtime.errors import InputError, MismatchError
from star_edge.bench.macs import macs
from star_edge.bench.roofline import PRECISIONS, Prediction, PredictionReport, Work, board_states, count_work, predict
from star_edge.models.config import StarConfig
from star_edge.models.registry import star_config
from star_edge.skeletons import get_skeleton

CONFIG = star_config("star-64", get_skeleton("ntu25"), 9, 60)


def kernels(config: StarConfig, rows: int, width: int, quantised: int) -> int:
    """Bytes of activations of one clip, kernel by kernel: what each reads and writes."""
    tensor = rows * config.joints * config.dim

    def copies() -> int:
        """A tensor that a residual and a quantised product both need."""
        return width + (quantised if quantised != width else 0)

    moved = rows * config.joints * config.channels * 4 + tensor * copies()  # embedding
    for _ in range(config.layers):
        for branch in ("spatial", "temporal"):
            moved += tensor * (quantised + 3 * width)  # qkv
            moved += tensor * (3 * width + width + copies())  # attention, residual, norm1
            moved += tensor * (quantised + quantised)  # linear1, SiLU
            moved += tensor * (quantised + width)  # linear2 and its residual
            moved += tensor * (width if branch == "spatial" else width + copies())  # norm2; the second adds the first
    moved -= tensor * (copies() - width)  # the last layer's sum feeds no product
    return moved + tensor * 2 * width  # context: mean, then gate


@pytest.mark.parametrize(("precision", "width", "quantised"), [("fp32", 4, 4), ("fp16", 2, 2), ("int8", 2, 1)])
def test_bytes_are_what_the_kernels_move(precision, width, quantised):
    dim, inner = CONFIG.dim, 10 * CONFIG.layers * CONFIG.dim**2
    head = CONFIG.hidden * (CONFIG.joints * dim + CONFIG.classes)
    weights = quantised * (inner + head) + width * (CONFIG.channels * dim + dim * dim)
    work = count_work(CONFIG, [300], precision)
    assert work.bytes == kernels(CONFIG, 300, width, quantised) + weights + 60 * 4
    assert work.least_bytes == 300 * 25 * 9 * 4 + weights + 60 * 4


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_mac_is_done_somewhere(precision):
    rows = [32, 300, 7]
    work = count_work(CONFIG, rows, precision)
    assert work.core_macs + work.fp16_macs + work.int8_macs == macs(CONFIG, rows)
    assert bool(work.fp16_macs) == (precision != "fp32")
    assert bool(work.int8_macs) == (precision == "int8")
    attention = CONFIG.layers * (187 * 2 * 64 + 25 * (2 * 64 * 8 + 64)) + 25 * 2 * 64
    assert precision == "fp32" or work.core_macs == sum(rows) * attention
    if precision == "int8":
        assert work.fp16_macs == sum(rows) * 25 * 9 * 64 + 3 * 25 * 64 * 64


def test_weights_are_counted_as_the_model_has_them():
    torch = pytest.importorskip("torch")
    from star_edge.models.star import Star

    model = Star(CONFIG)
    matrices = sum(p.numel() for p in model.parameters() if isinstance(p, torch.nn.Parameter) and p.ndim == 2)
    least = count_work(CONFIG, [0], "fp32").least_bytes
    assert least == matrices * 4 + 60 * 4


def only(report: PredictionReport, **wanted: object) -> Prediction:
    (row,) = (row for row in report.predictions if all(getattr(row, name) == value for name, value in wanted.items()))
    return row


def test_a_prediction_by_hand(exported_bundle):
    bundle = Bundle.open(exported_bundle)
    report = predict(bundle, [boards.load("orin-nano-8gb")], ["1x300", "mix8"])
    config = msgspec.convert(bundle.manifest.model.config, StarConfig)
    work = count_work(config, [300], "int8")
    row = only(report, mode="25W", precision="int8", workload="1x300")
    clocks = 8 * 918e6
    seconds = work.core_macs / (clocks * 128) + work.fp16_macs / (clocks * 1024) + work.int8_macs / (clocks * 2048)
    assert row.arithmetic_ms == pytest.approx(seconds * 1e3)
    assert row.memory_ms == pytest.approx(work.bytes / 102e9 * 1e3)
    assert row.predicted_ms == max(row.arithmetic_ms, row.memory_ms)
    assert row.floor_ms == max(row.arithmetic_ms, work.least_bytes / 102e9 * 1e3)
    assert (row.bound, row.confidence, row.macs) == ("memory", "3P", macs(config, [300]))
    assert {gap.mode for gap in report.unknown} == {"7W"}
    assert {row.mode for row in report.predictions} == {"15W", "25W", "MAXN_SUPER"}
    assert (report.schema, report.bundle_id) == ("star-edge/prediction/1", bundle.manifest.bundle_id)
    assert "not a measurement" in report.statement


def test_the_limit_that_binds_is_named(exported_bundle):
    report = predict(Bundle.open(exported_bundle), [boards.load("agx-orin-64gb")], ["1x300"])
    for row in report.predictions:
        assert row.bound == ("arithmetic" if row.arithmetic_ms > row.memory_ms else "memory")
    assert {row.bound for row in report.predictions} == {"arithmetic", "memory"}


def test_a_mode_whose_clock_the_maker_tells_as_tops():
    states, unknown = board_states(boards.load("agx-orin-64gb"))
    by_mode = {state.mode: state for state in states}
    assert unknown == []
    assert by_mode["MAXN"].sm_clocks == 16 * 1300e6
    assert by_mode["MODE_50W"].sm_clocks == pytest.approx(109e12 / 2 / 4096)
    assert by_mode["MODE_50W"].facts[-1].confidence == "U"  # nobody says what its memory does
    assert by_mode["MAXN"].facts[-1].confidence == "D"


@pytest.mark.parametrize("name", boards.names())
def test_every_board_gets_a_prediction_that_says_how_sure_it_is(name, exported_bundle):
    report = predict(Bundle.open(exported_bundle), [boards.load(name)], ["1x32"])
    assert report.predictions
    for row in report.predictions:
        assert 0 < row.floor_ms <= row.predicted_ms
    if name.startswith("thor"):
        assert {row.confidence for row in report.predictions if row.precision == "int8"} == {"U"}
        assert {row.confidence for row in report.predictions if row.precision == "fp16"} == {"3P"}
    if not boards.load(name).modes:
        assert {row.mode for row in report.predictions} == {None}


def test_what_is_refused(tiny_bundle, exported_bundle):
    with pytest.raises(MismatchError, match="what the model 'mean' computes is not known"):
        predict(Bundle.open(tiny_bundle), [boards.load("t5000")], ["1x32"])
    with pytest.raises(InputError, match="unknown workload"):
        predict(Bundle.open(exported_bundle), [boards.load("t5000")], ["1by32"])
    several = Bundle.open(exported_bundle)
    several.manifest.model.config["experts"] = 2
    with pytest.raises(MismatchError, match="what the model 'star-64' computes is not known"):
        predict(several, [boards.load("t5000")], ["1x32"])


def test_no_torch_is_needed(exported_bundle):
    code = (
        "import sys; from star_edge.cli import cli\n"
        f"cli.main(['boards', 'predict', {str(exported_bundle)!r}], standalone_mode=False)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    repository = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60, cwd=repository
    )
    assert done.returncode == 0, done.stderr
    assert "predicted, not measured" in done.stdout


def test_zero_work_is_zero():
    assert count_work(CONFIG, [], "fp16") == Work(0, 0, 0, *[count_work(CONFIG, [], "fp16").least_bytes] * 2)
