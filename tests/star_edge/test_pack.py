"""A packed export gives the answers of its folder, in every engine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.errors import InputError
from star_edge.bench import bench_bundle
from star_edge.engines import load
from star_edge.pack import pack_bundle, unpack_bundle
from star_edge.verification import verify_bundle


@pytest.fixture
def packed(exported_bundle: Path, tmp_path: Path) -> Path:
    report = pack_bundle(exported_bundle, tmp_path / "random.star.zip")
    assert report.bytes == Path(report.made).stat().st_size
    return Path(report.made)


@pytest.mark.parametrize(
    ("engine", "precision"), [("native", "bf16"), ("onnxruntime", "fp32"), ("onnxruntime", "fp16"), ("torch", "fp32")]
)
def test_engines_answer_as_from_the_folder(packed: Path, exported_bundle: Path, engine: str, precision: str) -> None:
    recognizer = load(packed, engine=engine, precision=precision, threads=1)
    recognizer.self_test()
    joints = np.random.default_rng(0).normal(size=(7, 15, 3)).astype(np.float32)
    expected = load(exported_bundle, engine=engine, precision=precision, threads=1).logits(joints)
    assert (recognizer.logits(joints) == expected).all()


def test_bill_of_materials_names_the_tools_of_the_export(packed: Path) -> None:
    data = Bundle.open(packed).sidecar("sbom.cdx.json")
    assert data is not None
    tools = {tool["name"]: tool.get("version") for tool in json.loads(data)["metadata"]["tools"]["components"]}
    assert {"star-edge", "torch", "onnx"} <= set(tools)
    assert all(tools.values())


def test_what_writes_a_report_refuses_before_it_works(packed: Path, tmp_path: Path) -> None:
    for verb in (verify_bundle, bench_bundle):
        with pytest.raises(InputError, match="needs the folder"):
            verb(packed)
    assert list(tmp_path.iterdir()) == [packed]


def test_default_names_are_those_of_the_bundle(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tmp_path / "elsewhere"
    where.mkdir()
    monkeypatch.chdir(where)
    assert unpack_bundle(packed).made == "random.star"
    assert pack_bundle(where / "random.star").made == "random.star.zip"
    assert (where / "random.star.zip").read_bytes() == packed.read_bytes()
