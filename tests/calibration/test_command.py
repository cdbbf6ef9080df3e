"""``star-edge calibrate`` through the real entry point: what it makes, what it says, what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from calibration import calibrate, int8
from calibration.histograms import METHODS
from calibration.ptq import quantised_products
from calibration.report import RangesReport
from exporters.onnx import graph
from runtime.bundle import Bundle
from runtime.errors import MismatchError
from runtime.features import compute_features
from runtime.packing import cu_seqlens_of
from star_edge.data import Dataset
from star_edge.engines import open_engine

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(star_edge: Callable[..., tuple[int, str, str]]) -> Command:
    """Runs the verb: (arguments) -> exit code, stdout, stderr."""
    return lambda *arguments: star_edge("calibrate", *arguments)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.usefixtures("needs_modelopt")
class TestWithModelopt:
    @pytest.mark.parametrize(("default", "method", "error"), [("fp32", "max", 0.05), ("fp16", "entropy", 0.2)])
    def test_int8_is_added_and_runs(
        self, make_bundle: Callable[..., Path], small_data: Path, command: Command, default: str, method: str, error: float
    ):
        path = make_bundle(default=default)
        old = Bundle.open(path).manifest
        code, out, err = command("--samples", 12, "--method", method, "--json")
        assert code == 0, err
        report = json.loads(out)
        bundle = Bundle.open(path)
        assert report["schema"] == "star-edge/calibrate/1"
        assert report["bundle_id"] == bundle.manifest.bundle_id != old.bundle_id
        assert (report["samples"], report["requested_samples"], report["base"]) == (12, 12, default)
        assert report["classes"] == {"wave": 4, "kick": 4, "bow": 4}
        assert report["held_out_checked"] is True
        assert report["agreement"]["clips"] == 12
        assert report["agreement"]["relative_err"] < error
        assert report["qdq"] == {"QuantizeLinear": 8, "DequantizeLinear": 16}
        assert set(report["quantised"]) | set(report["left_float"]) == set(bundle.manifest.nodes["int8"])
        assert "next: star-edge verify" in err.splitlines()[-1]

        table = bundle.calibration()
        assert (table.method, table.samples, table.requested_samples) == (method, 12, 12)
        assert list(table.clips) == sorted(table.clips)
        data = Dataset.open(small_data)
        assert set(table.clips) <= {str(name) for name in data.names[data.indices("xsub", "train")]}
        assert table.weights_sha256 == old.files["weights.safetensors"].sha256
        assert bundle.manifest.default_precision == default
        assert {name: bundle.manifest.files[name] for name in old.files} == old.files

        model = onnx.load_model_from_string(bundle.read("model.int8.onnx"))
        scales = {f"{module}.in": found.amax for module, found in quantised_products(model).items()}
        rounding = 1e-6 if default == "fp32" else 1e-3
        assert all(amax == pytest.approx(table.ranges[key], rel=rounding) for key, amax in scales.items())
        engine = open_engine(bundle, "onnxruntime", precision="int8", threads=1)
        clip = data.clip(4)
        features = compute_features(clip.joints, np.array([clip.person_lengths]), data.meta.skeleton)
        assert np.isfinite(engine.run(features, cu_seqlens_of([len(clip)]))).all()

    def test_best_is_chosen_on_val_clips_and_all_methods_are_shown(
        self, make_bundle: Callable[..., Path], small_data: Path, command: Command
    ):
        path = make_bundle()
        code, out, err = command("--samples", 12, "--method", "best", "--percentile", 99.5, "--json")
        assert code == 0, err
        report, bundle = json.loads(out), Bundle.open(path)
        data = Dataset.open(small_data)
        assert {score["method"] for score in report["scores"]} == set(METHODS)
        assert {score["samples"] for score in report["scores"]} == {len(data.indices("xsub", "val"))}
        assert report["method"] == report["scores"][0]["method"] == bundle.calibration().method
        agreements = [score["agreement"] for score in report["scores"]]
        assert agreements == sorted(agreements, reverse=True)
        assert not set(bundle.calibration().clips) & {str(name) for name in data.names[data.indices("xsub", "val")]}
        assert f"{report['method']} is taken" in err
        assert all(method in err for method in METHODS)

    def test_a_data_set_without_val_clips_cannot_choose(
        self, make_bundle: Callable[..., Path], write_dataset: Callable[..., Path], command: Command, tmp_path: Path
    ):
        few = write_dataset(tmp_path / "few", clips=4)  # the fifth of six clips is val
        path = make_bundle(data=str(few), data_sha256=Dataset.open(few).meta.sha256)
        before = contents(path)
        code, _, err = command("--method", "best")
        assert code == 2
        assert "no val clips to choose on" in err
        assert contents(path) == before

    def test_percentile_is_recorded_and_cuts(self, make_bundle: Callable[..., Path], command: Command):
        path = make_bundle()
        ranges = {}
        for percentile in (90, 99.9):
            assert command("--samples", 6, "--method", "percentile", "--percentile", percentile)[0] == 0
            table = Bundle.open(path).calibration()
            assert (table.method, table.percentile) == ("percentile", percentile)
            ranges[percentile] = table.ranges
        assert all(ranges[90][key] <= value for key, value in ranges[99.9].items())
        assert sum(ranges[90].values()) < sum(ranges[99.9].values())

    def test_what_was_seen_of_each_tensor_is_kept_beside_the_bundle(self, make_bundle: Callable[..., Path], command: Command):
        path = make_bundle()
        assert command("--samples", 6, "--method", "mse")[0] == 0
        bundle = Bundle.open(path)
        seen = msgspec.json.decode((path / "reports" / "ranges.json").read_bytes(), type=RangesReport)
        assert (seen.bundle_id, seen.method) == (bundle.manifest.bundle_id, "mse")
        assert {key: tensor.chosen for key, tensor in seen.tensors.items()} == bundle.calibration().ranges
        for tensor in seen.tensors.values():
            assert tensor.ranges["mse"] == tensor.chosen <= tensor.ranges["max"] == tensor.amax
            assert sum(tensor.counts) > 0

    def test_the_same_input_gives_the_same_bytes(self, make_bundle: Callable[..., Path], command: Command):
        path = make_bundle()
        assert command("--samples", 9)[0] == 0
        first = Bundle.open(path)
        table, model = first.calibration_bytes(), first.read("model.int8.onnx")
        assert command("--samples", 9)[0] == 0
        again = Bundle.open(path)
        assert again.calibration_bytes() == table
        assert again.read("model.int8.onnx") == model
        assert again.manifest == first.manifest
        assert command("--samples", 9, "--seed", 1)[0] == 0
        assert Bundle.open(path).calibration_bytes() != table

    def test_fewer_clips_are_said_and_recorded(self, make_bundle: Callable[..., Path], command: Command):
        path = make_bundle()
        code, out, err = command("--samples", 512, "--method", "max")
        assert code == 0, err
        assert "Fewer clips than asked for: 24 of 512" in out
        table = Bundle.open(path).calibration()
        assert (table.samples, table.requested_samples, len(table.clips)) == (24, 512, 24)

    def test_other_data_without_the_recorded_one_is_used_and_told(
        self, make_bundle: Callable[..., Path], small_data: Path, command: Command
    ):
        make_bundle(data="/nowhere", data_sha256="0" * 64)
        code, out, _ = command("--samples", 3, "--method", "max", "--data", small_data, "--json")
        assert code == 0
        assert json.loads(out)["held_out_checked"] is False

    def test_a_failure_leaves_the_old_bundle_whole(
        self, make_bundle: Callable[..., Path], command: Command, monkeypatch: pytest.MonkeyPatch
    ):
        path = make_bundle()
        assert command("--samples", 3, "--method", "max")[0] == 0
        before = contents(path)

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(calibrate, "compare", interrupt)
        assert command("--samples", 6, "--method", "max")[0] == 130
        assert contents(path) == before

    def test_an_int8_model_that_answers_nan_is_not_written(
        self, make_bundle: Callable[..., Path], command: Command, monkeypatch: pytest.MonkeyPatch
    ):
        path = make_bundle()
        before = contents(path)
        build = graph.build_model

        def poisoned(*arguments: Any) -> onnx.ModelProto:
            model = build(*arguments)
            bias = next(tensor for tensor in model.graph.initializer if tensor.name == "head.output.bias")
            bias.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.nan, dtype=np.float32), bias.name))
            return model

        monkeypatch.setattr(graph, "build_model", poisoned)
        code, _, err = command("--samples", 3, "--method", "max")
        assert code == 2
        assert "NaN or infinity" in err
        assert contents(path) == before

    def test_a_stale_table_is_refused(self, make_bundle: Callable[..., Path], command: Command):
        path = make_bundle()
        assert command("--samples", 3, "--method", "max")[0] == 0
        table = Bundle.open(path).calibration()

        def retrain(weights: dict[str, np.ndarray]) -> None:
            weights["head.output.bias"] += 1

        retrained = Bundle.open(make_bundle(retrain))
        with pytest.raises(MismatchError, match="other weights"):
            int8.make_int8_model(retrained, table)

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["--split", "test-only"], 2, "no training clips"),
            (["--split", "other"], 2, "judged by"),
            (["--split", "xview"], 2, "no split 'xview'"),
            (["--data", "absent.npz"], 2, "absent.npz"),
            (["--samples", "0"], 2, "--samples"),
            (["--method", "average"], 2, "--method"),
            (["--method", "trained"], 2, "no trained ranges"),
            (["--method", "max", "--percentile", "99"], 2, "--percentile belongs to"),
            (["--method", "percentile", "--percentile", "120"], 2, "--percentile"),
            (["absent.star"], 2, "not a bundle"),
        ],
    )
    def test_wrong_arguments(
        self, make_bundle: Callable[..., Path], command: Command, arguments: list[str], code: int, message: str
    ):
        path = make_bundle()
        before = contents(path)
        found, out, err = command(*arguments)
        assert (found, out) == (code, "")
        assert message in err
        assert "Traceback" not in err
        assert contents(path) == before

    @pytest.mark.parametrize("source", [{"data": ""}, {"data": "/nowhere"}])
    def test_training_data_that_is_gone(self, make_bundle: Callable[..., Path], command: Command, source: dict[str, str]):
        make_bundle(**source)
        code, _, err = command()
        assert code == 2
        assert "star-edge calibrate --data DATASET" in err

    def test_training_data_that_has_changed(self, make_bundle: Callable[..., Path], command: Command):
        make_bundle(data_sha256="0" * 64)
        code, _, err = command()
        assert code == 4
        assert "the data changed since the model was trained" in err

    def test_clips_of_other_classes(
        self, make_bundle: Callable[..., Path], write_dataset: Callable[..., Path], command: Command, tmp_path: Path
    ):
        make_bundle()
        other = write_dataset(tmp_path / "other", classes=("wave", "kick", "clap"))
        code, _, err = command("--data", other)
        assert code == 4
        assert "other classes" in err

    def test_clips_of_another_skeleton(self, make_bundle: Callable[..., Path], writable_data: Path, command: Command):
        make_bundle()
        meta = writable_data / "meta.json"
        document = json.loads(meta.read_bytes())
        document["skeleton"]["bones"][0] = [0, 2]
        meta.write_bytes(msgspec.json.encode(document))
        code, _, err = command("--data", writable_data)
        assert code == 4
        assert "another skeleton" in err

    def test_a_clip_that_is_not_finite(self, make_bundle: Callable[..., Path], writable_data: Path, command: Command):
        path = make_bundle(data="/nowhere", data_sha256="")
        before = contents(path)
        joints = np.load(writable_data / "xyz.npy", mmap_mode="r+")
        joints[:40, 2] = np.inf
        joints.flush()
        code, _, err = command("--data", writable_data)
        assert code == 2
        assert "clip clip00" in err
        assert "NaN or infinity" in err
        assert contents(path) == before


def test_without_modelopt_it_says_how_to_install_it(
    make_bundle: Callable[..., Path], command: Command, monkeypatch: pytest.MonkeyPatch
):
    make_bundle()
    for name in [name for name in sys.modules if name.split(".")[0] == "modelopt"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "modelopt", None)
    code, out, err = command()
    assert (code, out) == (4, "")
    assert "pip install 'star-edge[calibrate]'" in err
