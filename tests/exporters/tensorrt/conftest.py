"""Bundles with INT8 over both float types, shared by the tests of graphs and of TensorRT-RTX."""

from __future__ import annotations

from pathlib import Path

import pytest
from int8_bundle import make_int8_bundle

from runtime.bundle import Bundle


@pytest.fixture(scope="session", params=["fp32", "fp16"])
def int8_bundle(request: pytest.FixtureRequest, exported_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """``exported_bundle`` calibrated on its golden clips, over each base; do not change it."""
    return make_int8_bundle(exported_bundle, tmp_path_factory.mktemp("int8") / "int8.star", request.param)
