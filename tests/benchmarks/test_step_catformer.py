"""STEP-CATFormer at low rank: spectra, the law of random matrices, and the table that the README shows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import step_catformer  # noqa: E402

from star_edge.compression.low_rank import relative_errors  # noqa: E402
from star_edge.models.registry import build_model, padded_config  # noqa: E402
from star_edge.skeletons import NTU25  # noqa: E402


def test_errors_are_those_of_compress_lowrank() -> None:
    config = padded_config("step-catformer", NTU25, channels=4, classes=5, dim=8)
    report = step_catformer.measure(config, ranks=(200, 50), seed=0)
    assert (report.side, len(report.matrices)) == (800, 10)
    torch.manual_seed(0)
    model = build_model("step-catformer", config)
    for cut in report.cuts:
        errors = relative_errors(model, dict.fromkeys(report.matrices, cut.rank)).values()
        assert (cut.lowest, cut.highest) == pytest.approx((min(errors), max(errors)), rel=1e-4)
        assert cut.expected == pytest.approx(cut.highest, rel=5e-3)
        assert cut.parameters == report.parameters - 10 * (800**2 - 2 * 800 * cut.rank)


def test_nothing_is_lost_at_full_rank_and_everything_at_none() -> None:
    assert step_catformer.expected_error(0) == pytest.approx(1)
    assert step_catformer.expected_error(1) == pytest.approx(0, abs=1e-6)


def test_the_table_is_of_the_result_that_is_kept() -> None:
    report = msgspec.json.decode(step_catformer.RESULT.read_bytes(), type=step_catformer.Report)
    assert report.parameters == 417_977_435
    readme = Path(step_catformer.__file__).with_name("README.md").read_text(encoding="utf-8")
    assert step_catformer.table(report) in readme
