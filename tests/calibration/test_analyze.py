"""``star-edge analyze`` through the real entry point: what it measures, that it goes on, what it puts into the bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from calibration import analyze
from calibration.mixed import kind_of
from calibration.ptq import quantised_products
from calibration.report import LayerLatency, SensitivityReport
from calibration.score import noise_share
from exporters.onnx.lowering import lowering_of
from runtime.bundle import Bundle
from runtime.packing import cu_seqlens_of
from star_edge.data import Dataset
from star_edge.engines import open_engine

pytestmark = pytest.mark.usefixtures("needs_modelopt")
OPTIONS = ("--rounds", 3, "--threads", 1, "--workload", "1x8")


@pytest.fixture
def calibrated(make_bundle: Callable[..., Path]) -> Callable[..., Path]:
    """(default precision) -> a calibrated bundle."""
    from calibration.calibrate import calibrate_bundle

    def make(default: str = "fp32", **source: Any) -> Path:
        path = make_bundle(default=default, **source)
        calibrate_bundle(path, samples=12, method="max")
        return path

    return make


@pytest.fixture
def saving(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, float]], None]:
    """Replaces what the machine's clock would say: kind -> microseconds saved, 1 where none is given."""

    def plant(saved_us: dict[str, float]) -> None:
        def measured(build: Any, modules: Any, inputs: Any, **settings: Any) -> LayerLatency:
            kinds = {kind_of(module): 1.0 for module in modules} | saved_us
            return LayerLatency(float_ms=2.0, int8_ms=1.0, saved_us=kinds, **settings)

        def timed(models: Any, inputs: Any, threads: int, rounds: int) -> dict[str, np.ndarray]:
            return {"float": np.full(rounds, 2e-3), "chosen": np.full(rounds, 1e-3)}

        monkeypatch.setattr(analyze, "measure_layers", measured)
        monkeypatch.setattr(analyze, "time_in_turn", timed)

    return plant


def report_of(path: Path) -> SensitivityReport:
    return msgspec.json.decode((path / "reports" / "sensitivity.json").read_bytes(), type=SensitivityReport)


@pytest.mark.parametrize("default", ["fp32", "fp16"])
def test_every_layer_is_measured_with_the_machines_clock(
    calibrated: Callable[..., Path], star_edge: Callable[..., tuple[int, str, str]], small_data: Path, default: str
):
    path = calibrated(default)
    before = Bundle.open(path).manifest
    code, out, err = star_edge("analyze", *OPTIONS, "--json")
    assert code == 0, err
    report = report_of(path)
    assert msgspec.convert(json.loads(out), SensitivityReport) == report
    data = Dataset.open(small_data)
    assert (report.clips, report.base) == (len(data.indices("xsub", "val")), default)
    assert [layer.module for layer in report.layers] == [
        *(f"layers.0.{branch}.{name}" for branch in ("spatial", "temporal") for name in ("qkv", "linear1", "linear2")),
        "head.hidden",
        "head.output",
    ]
    graph = onnx.load_model_from_string(Bundle.open(path).read("model.int8.onnx"))
    names = {node.name for node in graph.graph.node}
    assert all(set(layer.nodes) <= names for layer in report.layers)
    assert report.float_score.agreement == 1.0
    whole = report.int8_score.sqnr_db
    assert whole is not None
    noisiest = max(report.layers, key=lambda layer: noise_share(layer.alone.sqnr_db))
    assert (
        noise_share(noisiest.without.sqnr_db)
        < noise_share(whole)
        < sum(2 * noise_share(e.alone.sqnr_db) for e in report.layers)
    )
    assert report.latency is not None
    assert report.latency.rounds == 3
    assert all(np.isfinite(value) for value in report.latency.saved_us.values())
    assert report.decision is not None
    assert report.decision.statement in err
    assert Bundle.open(path).manifest == before, "nothing changes without --apply"


def test_the_chosen_mix_goes_into_the_bundle(
    calibrated: Callable[..., Path], star_edge: Callable[..., tuple[int, str, str]], saving: Callable[..., None]
):
    path = calibrated()
    saving({"spatial.linear1": -1.0, "head.hidden": 0.0})
    code, out, err = star_edge("analyze", *OPTIONS, "--apply")
    assert code == 0, err
    bundle, report = Bundle.open(path), report_of(path)
    assert report.applied
    assert report.bundle_id == bundle.manifest.bundle_id
    assert report.decision is not None
    assert report.decision.keep == "mixed"
    returned = {"layers.0.spatial.linear1", "head.hidden"}
    assert {entry.module for entry in report.decision.returned} == returned
    products = quantised_products(onnx.load_model_from_string(bundle.read("model.int8.onnx")))
    assert set(products) == set(report.decision.quantised)
    nodes = bundle.manifest.nodes["int8"]
    assert {module for module in nodes if nodes[module] == "int8"} == set(products)
    assert all(nodes[module] == "fp32" for module in returned)
    engine = open_engine(bundle, "onnxruntime", precision="int8", threads=1)
    logits = engine.run(np.zeros((4, 15, 9), dtype=np.float32), cu_seqlens_of([4]))
    assert np.isfinite(logits).all()
    assert "next: star-edge verify" in out


@pytest.mark.parametrize("fitted", [("train",), ("train", "val")])
def test_it_says_when_the_model_knows_the_val_clips(
    calibrated: Callable[..., Path],
    star_edge: Callable[..., tuple[int, str, str]],
    saving: Callable[..., None],
    fitted: tuple[str, ...],
):
    path = calibrated(fitted=fitted)
    saving({})
    code, out, err = star_edge("analyze", *OPTIONS)
    assert code == 0, err
    assert report_of(path).val_fitted == ("val" in fitted) == ("The model was trained on these val clips too" in out)


def test_an_interrupted_run_goes_on_and_comes_to_the_same(
    calibrated: Callable[..., Path],
    star_edge: Callable[..., tuple[int, str, str]],
    saving: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
):
    path = calibrated()
    saving({})
    assert star_edge("analyze", *OPTIONS)[0] == 0
    whole = (path / "reports" / "sensitivity.json").read_bytes()
    (path / "reports" / "sensitivity.json").unlink()
    score, calls = analyze._Judge.score, []

    def counted(judge: Any, quantised: Any) -> Any:
        calls.append(quantised)
        if len(calls) == 7:  # of the third layer
            raise KeyboardInterrupt
        return score(judge, quantised)

    monkeypatch.setattr(analyze._Judge, "score", counted)
    assert star_edge("analyze", *OPTIONS)[0] == 130
    assert [len(report_of(path).layers), report_of(path).decision] == [2, None]
    calls.clear()
    calls += [None] * 10
    code, out, _ = star_edge("analyze", *OPTIONS)
    assert code == 0
    assert "2 of 8 layers were measured before" in out
    assert len(calls) - 10 == 2 * 6 + 1  # the other layers, and the choice
    assert (path / "reports" / "sensitivity.json").read_bytes() == whole


def test_other_clips_or_ranges_are_measured_anew(
    calibrated: Callable[..., Path], star_edge: Callable[..., tuple[int, str, str]], saving: Callable[..., None]
):
    path = calibrated()
    saving({})
    assert star_edge("analyze", *OPTIONS)[0] == 0
    _, out, _ = star_edge("analyze", *OPTIONS, "--samples", 3)
    assert "measured before" not in out
    assert report_of(path).clips == 3
    assert star_edge("calibrate", "--samples", 12, "--method", "mse")[0] == 0
    _, out, _ = star_edge("analyze", *OPTIONS, "--samples", 3)
    assert "measured before" not in out


def test_where_float_wins_it_says_so_and_changes_nothing(
    calibrated: Callable[..., Path], star_edge: Callable[..., tuple[int, str, str]], saving: Callable[..., None]
):
    path = calibrated("fp16")
    kinds = {kind_of(module) for module in lowering_of(Bundle.open(path)).quantised_modules}
    saving(dict.fromkeys(kinds, -1.0))
    before = Bundle.open(path).manifest
    code, out, _ = star_edge("analyze", *OPTIONS, "--apply")
    assert code == 0
    assert "keep fp16 here" in out
    decision = report_of(path).decision
    assert decision is not None
    assert (decision.keep, decision.quantised, report_of(path).applied) == ("fp16", (), False)
    assert Bundle.open(path).manifest == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workload", "mix8"), "layers are timed on one clip"),
        (("--workload", "3x"), "unknown workload"),
        (("--split", "test-only"), "no val clips to choose on"),
        (("--split", "none"), "none"),
        (("--data", "absent.npz"), "absent.npz"),
        (("absent.star",), "not a bundle"),
    ],
)
def test_wrong_arguments(
    calibrated: Callable[..., Path],
    star_edge: Callable[..., tuple[int, str, str]],
    arguments: tuple[str, ...],
    message: str,
):
    path = calibrated()
    code, out, err = star_edge("analyze", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not (path / "reports" / "sensitivity.json").exists()


def test_a_bundle_without_int8_is_told_to_calibrate(
    make_bundle: Callable[..., Path], star_edge: Callable[..., tuple[int, str, str]]
):
    make_bundle()
    code, _, err = star_edge("analyze")
    assert code == 4
    assert "star-edge calibrate" in err
