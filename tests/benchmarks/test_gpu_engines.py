"""The calls that benchmarks/gpu.py times, in the emulator: every engine is right on every kind of case."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gpu_cases
import pytest
import torch
from cuda_devices import Device, open_device
from cuda_models import TOLERANCES
from gpu_compiled import FORM, PRECISION, compiled
from gpu_engines import engines
from gpu_time import measure

from runtime.native.cuda import library as cuda

REPOSITORY = Path(__file__).resolve().parents[2]
FLOATS, ALL = {"fp32", "fp16"}, {"fp32", "fp16", "int8"}


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    return open_device("emulated", (*cuda.MODEL, *cuda.LAYERED), tmp_path_factory.mktemp("emulated"))


@pytest.fixture(autouse=True)
def _small_and_untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu_cases.WORKLOADS, "mix8", [1, 3])
    monkeypatch.setattr("gpu_time.time_ms", lambda call: {"median_ms": 2.0})


@pytest.mark.parametrize(
    ("model", "engine", "precision"),
    [
        ("star-64", "ours", "fp16"),
        *(("star-64", "ours, layered", kind) for kind in sorted(ALL)),
        ("star-128", "ours, layered", "fp16"),
    ],
)
def test_engines_of_ours_are_right(device: Device, model: str, engine: str, precision: str) -> None:
    case = gpu_cases.open_case("cpu", model, "mix8")
    make = engines(model, only_ours=True)[engine, precision]
    row = measure(lambda: make(device, case), case.expected, TOLERANCES[precision])
    assert row.get("median_ms") == 2.0, row


def test_what_is_promised_is_measured() -> None:
    found = engines("star-64", only_ours=False)
    precisions: dict[str, set[str]] = {}
    for engine, precision in found:
        precisions.setdefault(engine, set()).add(precision)
    plain = {"ours": {"fp16"}, "ours, layered": ALL, "torch scatter": FLOATS, "torch dense": FLOATS}
    assert precisions == {**plain, **{f"{name}, graph": kinds for name, kinds in plain.items()}}
    assert set(engines("star-128", only_ours=False)) == {name for name in found if name[0] not in ("ours", "ours, graph")}
    stgcn = {(engine, precision) for engine in ("torch", "torch, graph") for precision in FLOATS}
    assert set(engines("st-gcn", only_ours=False)) == stgcn
    assert not engines("st-gcn", only_ours=True)
    assert set(engines("star-64", only_ours=True)) == {name for name in found if name[0].startswith("ours")}


def test_a_graph_is_of_the_same_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_engines.captured", lambda call: ("captured", call))
    for kind in ("fused", "layered", "star", "stgcn"):
        monkeypatch.setattr(f"gpu_engines.{kind}", lambda *arguments, kind=kind: (kind, *arguments))
    for model in ("star-64", "st-gcn"):
        found = engines(model, only_ours=False)
        for (engine, precision), make in found.items():
            if not engine.endswith(", graph"):
                assert found[f"{engine}, graph", precision]("device", "case") == ("captured", make("device", "case"))
    assert engines("star-64", only_ours=False)["torch dense", "fp32"]("device", "case") == (
        "star", "dense", "fp32", "device", "case",
    )  # fmt: skip


def test_the_compiled_form_is_one_graph_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu_cases.WORKLOADS, "mix8", [9, 14])  # whose logits are not as small as a single frame's
    case = gpu_cases.open_case("cpu", "star-64", "mix8")
    assert (FORM, PRECISION) == ("dense", "fp16")
    row = measure(compiled(case, backend="eager"), case.expected, TOLERANCES[PRECISION])
    torch._dynamo.reset()
    assert row.get("median_ms") == 2.0, row


LOADED = """
import importlib, pathlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(name)

BLOCKED = {"msgspec", "click", "rich", "onnx", "onnxruntime", "safetensors", "tensorrt", "tensorrt_rtx"}
sys.meta_path.insert(0, Blocked())
sys.path[:0] = ["benchmarks", "tests/runtime/native", "."]
for path in sorted(pathlib.Path("benchmarks").glob("gpu*.py")):
    if path.stem != "gpu_tensorrt":
        importlib.import_module(path.stem)
print(*sorted(name for name in sys.modules if name.partition(".")[0] == "star_edge"))
"""


def test_a_bare_machine_can_import_it() -> None:
    """Of star_edge nothing but the naive reference, which the clone has."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "star_edge.models.naive" in loaded
    for name in loaded - {"star_edge", "star_edge.models", "star_edge.models.naive"}:
        assert name.startswith("star_edge.ops"), name
