"""The FMA peak and the facts of the host."""

from __future__ import annotations

import shutil

import pytest

from star_edge.bench.host import read_host
from star_edge.bench.peak import measure_fma_peak


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")
def test_the_peak_is_that_of_a_processor():
    peak = measure_fma_peak(1)
    assert 1e9 < peak.macs_per_s < 1e12  # a loop that the compiler removed would be far above
    assert "1 thread," in peak.how


def test_without_a_compiler_there_is_no_peak(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert measure_fma_peak(1) is None


def test_the_host_says_what_it_knows():
    host = read_host()
    assert host.cpu
    assert host.cores >= 1
    assert host.versions.keys() >= {"python", "numpy"}
    assert host.date.endswith("+00:00")
