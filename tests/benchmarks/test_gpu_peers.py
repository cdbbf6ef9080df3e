"""The PyTorch forms that benchmarks/gpu.py sets beside the CUDA kernels compute the model, too: each equals Star in float64."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from star_edge.models import build_model, model_config
from star_edge.skeletons import NTU25

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def gpu_peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import gpu_peers

    yield gpu_peers
    sys.modules.pop("gpu_peers")


@pytest.mark.parametrize("name", ["star-64", "star-128"])
@pytest.mark.parametrize("lengths", [[9], [1, 7, 4]], ids=str)
@pytest.mark.parametrize("form", ["scatter", "dense"])
def test_peers_compute_the_model(gpu_peers: ModuleType, form: str, lengths: list[int], name: str) -> None:
    torch.manual_seed(0)
    config = model_config(name, NTU25, 9, 5)
    model = build_model(config).double().eval()
    features = torch.randn(sum(lengths), 25, 9, dtype=torch.float64)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    peer = gpu_peers.Peer(dict(model.state_dict()), config.edges, lengths, form, config.layers).double()
    with torch.no_grad():
        expected = model(features, cu_seqlens)
        torch.testing.assert_close(peer(features), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
