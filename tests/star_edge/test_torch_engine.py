"""The torch engine: modes, precisions, odd batches, refusals, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from runtime.bundle import Bundle, BundleWriter
from runtime.engine import Mode
from runtime.errors import InputError, MismatchError
from runtime.packing import cu_seqlens_of
from runtime.tolerances import TOLERANCES, relative_error
from star_edge.engines import load, open_engine
from star_edge.models import naive
from star_edge.torch_engine import TorchEngine, load_model


@pytest.fixture(scope="module")
def bundle(exported_bundle: Path) -> Bundle:
    return Bundle.open(exported_bundle)


def engine(bundle: Bundle, precision: str | None = None, mode: Mode | None = None) -> TorchEngine:
    found = open_engine(bundle, "torch", precision=precision, threads=1, mode=mode)
    assert isinstance(found, TorchEngine)
    return found


def batch(*lengths: int) -> tuple[np.ndarray, np.ndarray]:
    cu_seqlens = cu_seqlens_of(lengths)
    return np.random.default_rng(5).normal(size=(cu_seqlens[-1], 15, 9)).astype(np.float32), cu_seqlens


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("lengths", [(1,), (7,), (0,), (3, 0, 5), (0, 0), (1,) * 64], ids=lambda lengths: str(lengths[:4]))
def test_modes_agree_on_odd_batches(bundle, lengths, precision):
    packed, alone = (engine(bundle, precision, mode).run(*batch(*lengths)) for mode in ("packed", "per-clip"))
    assert packed.shape == alone.shape == (len(lengths), 5)
    assert packed.dtype == alone.dtype == np.float32
    assert relative_error(packed, alone) <= TOLERANCES[precision]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_golden_clips_and_naive_reference(bundle, exported_bundle, precision):
    recognizer = load(exported_bundle, "torch", precision=precision, threads=1)
    assert recognizer.self_test().error <= TOLERANCES[precision]
    model = load_model(bundle)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    rows, cu_seqlens = batch(1, 9, 0, 4)
    reference = naive.star(model.config, weights, rows, cu_seqlens)
    assert relative_error(engine(bundle, precision).run(rows, cu_seqlens), reference) <= TOLERANCES[precision]


def test_report_says_that_arithmetic_is_float32(bundle):
    report = engine(bundle, "fp16", "per-clip").report()
    assert (report.precision, report.storage, report.compute, report.mode) == ("fp16", "fp16", "fp32", "per-clip")
    assert report.nodes["layers.1.temporal.qkv"] == "fp32"
    assert engine(bundle).report().precision == "fp16", "the bundle's default"


def test_refusals(bundle):
    with pytest.raises(MismatchError, match="does not compute int8"):
        engine(bundle, "int8")
    with pytest.raises(InputError, match="no threads"):
        open_engine(bundle, "torch", precision="fp32", threads=0)
    with pytest.raises(InputError, match="unknown mode"):
        open_engine(bundle, "torch", mode="sideways")  # type: ignore[arg-type]
    rows, cu_seqlens = batch(4)
    with pytest.raises(InputError, match="wrong joint count"):
        engine(bundle).run(rows[:, :14], cu_seqlens)
    with pytest.raises(InputError, match="NaN or infinity"):
        engine(bundle).run(np.where(rows == rows[0, 0, 0], np.float32("nan"), rows), cu_seqlens)


def test_weights_of_another_model_are_refused(tmp_path, exported_bundle):
    import shutil

    path = Path(shutil.copytree(exported_bundle, tmp_path / "changed.star"))
    bundle = Bundle.open(path)
    config = {**bundle.manifest.model.config, "hidden": 32}
    model = msgspec.structs.replace(bundle.manifest.model, config=config)
    changed = BundleWriter(path, base=bundle).commit(msgspec.structs.replace(bundle.manifest, model=model))
    with pytest.raises(MismatchError, match=r"(?s)do not fit.*head\.hidden"):
        open_engine(changed, "torch")


def test_many_threads_on_one_engine(bundle):
    shared = engine(bundle, "fp32")
    batches = [batch(n, 2 * n) for n in range(1, 9)]
    expected = [shared.run(*one) for one in batches]
    with ThreadPoolExecutor(3) as pool:
        for one, other in zip(pool.map(lambda one: shared.run(*one), batches), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_device_is_a_choice_of_engines_that_have_one(bundle: Bundle) -> None:
    for device in ("cpu", "cuda"):
        with pytest.raises(InputError, match=f"'torch' does not compute on the device '{device}'") as caught:
            open_engine(bundle, "torch", device=device)
        assert "native on cpu or cuda" in str(caught.value.expected)
    assert open_engine(bundle, "native", device="cpu", threads=1).name == "native"
