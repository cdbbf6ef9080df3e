"""ModelOpt: quantises exactly what it is told, with ranges that are ours to check; leaves nothing behind."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration.calibrate import collect, make_table
from calibration.histograms import AMAX_FLOOR, METHODS
from calibration.int8 import make_int8_model
from calibration.modelopt import import_modelopt
from calibration.ptq import check_quantised, check_with_modelopt, quantised_products
from calibration.ranges import largest_magnitudes
from calibration.reader import ClipReader
from exporters.onnx.lowering import lowering_of
from runtime.bundle import Bundle
from runtime.errors import MismatchError, MissingDependencyError
from runtime.features import FeatureRecipe
from star_edge.data import Dataset

pytestmark = pytest.mark.usefixtures("needs_modelopt")


@pytest.fixture
def model(small_bundle: Bundle) -> onnx.ModelProto:
    return onnx.load_model_from_string(small_bundle.read("model.fp32.onnx"))


@pytest.fixture
def inputs(small_bundle: Bundle) -> dict[str, str]:
    """Module to quantise -> the tensor that enters it."""
    lowering = lowering_of(small_bundle)
    return {module: lowering.recorded_tensors[f"{module}.in"] for module in lowering.quantised_modules}


def test_ranges_do_not_depend_on_the_order_of_the_clips(small_bundle, model, small_data, reader):
    dataset = Dataset.open(small_data)
    shuffled = np.random.default_rng(1).permutation(dataset.indices("xsub", "train"))
    lowering = lowering_of(small_bundle)
    one, two = (collect(model, lowering, order) for order in (reader, ClipReader(dataset, shuffled, FeatureRecipe())))
    assert one.amax.keys() == set(lowering.recorded_tensors.values())
    for method in METHODS:
        assert [one.range_by(method, name) for name in one.amax] == [two.range_by(method, name) for name in one.amax]


def test_a_single_clip_of_one_row_is_enough(model, inputs, small_data):
    reader = ClipReader(Dataset.open(small_data), np.array([0]), FeatureRecipe())
    amax = largest_magnitudes(model, set(inputs.values()), reader)
    assert len(reader.get_first()["features"]) == 1
    check_with_modelopt(model, inputs, reader, amax)


def test_nothing_is_printed_and_no_file_stays(model, inputs, reader, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    amax = largest_magnitudes(model, set(inputs.values()), reader)
    check_with_modelopt(model, inputs, reader, amax)
    assert sorted(tmp_path.iterdir()) == before
    assert capfd.readouterr().out == ""


def test_our_graph_and_modelopts_quantise_the_same_products_with_the_same_scales(small_bundle, model, inputs, reader):
    from calibration import ptq

    theirs = quantised_products(ptq._quantise(model, list(inputs), reader))
    int8 = make_int8_model(small_bundle, table_of(small_bundle, reader, "max"))
    ours = quantised_products(onnx.load_model_from_string(int8.data))
    assert "context.flat" in {
        found.tensor for found in ours.values()
    }  # one row a clip: ModelOpt leaves such products out by itself
    assert {module: found.tensor for module, found in ours.items()} == {m: found.tensor for m, found in theirs.items()}
    assert all(found.amax == pytest.approx(theirs[module].amax, rel=1e-5) for module, found in ours.items())
    assert len(theirs) == len(int8.modules) == 8
    assert int8.qdq == {"QuantizeLinear": 8, "DequantizeLinear": 16}


def table_of(bundle, reader, method):
    model = onnx.load_model_from_string(bundle.read("model.fp32.onnx"))
    return make_table(bundle, collect(model, lowering_of(bundle), reader), method, 99.9, reader.names, 24)


def test_a_tensor_that_is_zero_on_every_clip_gets_the_floor(make_bundle, reader, inputs):
    def silence(weights):
        for name in ("layers.0.spatial.linear1.weight", "layers.0.spatial.linear1.bias"):
            weights[name][:] = 0
        weights["layers.0.temporal.qkv.weight"][3] = 0  # one output channel
        weights["embedding.weight"][:, 5] = 0

    bundle = Bundle.open(make_bundle(silence))
    for method in METHODS:
        table = table_of(bundle, reader, method)
        assert table.ranges["layers.0.spatial.linear2.in"] == AMAX_FLOOR
        assert min(table.ranges.values()) == AMAX_FLOOR
        int8 = onnx.load_model_from_string(make_int8_model(bundle, table).data)
        scales = [onnx.numpy_helper.to_array(i) for i in int8.graph.initializer if i.name.endswith(".scale")]
        assert all((array > 0).all() and np.isfinite(array).all() for array in scales)


def test_a_missing_or_surplus_product_is_refused():
    product = {"a": None, "c": None}
    with pytest.raises(MismatchError, match="ModelOpt quantised other nodes") as caught:
        check_quantised(product, ["a", "b"], "ModelOpt")
    assert "without Q/DQ: b; surplus: c" in (caught.value.found or "")
    check_quantised(product, ["c", "a"], "ModelOpt")


def test_zero_q_dq_is_refused_not_accepted(model, reader, inputs, monkeypatch):
    """What ModelOpt did silently with data in a dictionary."""
    from calibration import ptq

    monkeypatch.setattr(ptq, "_quantise", lambda model, *_: model)
    with pytest.raises(MismatchError, match="other nodes than asked for"):
        check_with_modelopt(model, inputs, reader, dict.fromkeys(inputs.values(), 1.0))


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_range_the_clips_cannot_have_is_refused(model, reader, inputs, factor):
    amax = largest_magnitudes(model, set(inputs.values()), reader)
    with pytest.raises(MismatchError, match="does not fit the activations"):
        check_with_modelopt(model, inputs, reader, {tensor: value * factor for tensor, value in amax.items()})


@pytest.mark.parametrize(
    ("absent", "package"), [("modelopt", "nvidia-modelopt"), ("modelopt.onnx.quantization", "nvidia-modelopt")]
)
def test_without_modelopt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, absent: str, package: str):
    for name in [name for name in sys.modules if name.split(".")[0] == "modelopt"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingDependencyError) as caught:
        import_modelopt("onnx")
    assert caught.value.expected == package
    assert caught.value.hint == "pip install 'star-edge[calibrate]'"
    assert caught.value.exit_code == 4


def test_temporary_path_needs_no_plain_name(model, inputs, reader, tmp_path: Path, monkeypatch):
    odd = tmp_path / "a [b] (c) é"
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    amax = largest_magnitudes(model, set(inputs.values()), reader)
    check_with_modelopt(model, inputs, reader, amax)
