"""STAR in the paper's scatter form equals STAR in the packed form on the same weights."""

from __future__ import annotations

import pytest
import torch

from runtime.packing import cu_seqlens_of
from star_edge.models.registry import star_config
from star_edge.models.star import Star
from star_edge.skeletons import get_skeleton

pytest.importorskip("torch_scatter", reason="the [pyg] extra is not installed")
pytest.importorskip("torch_sparse", reason="the [pyg] extra is not installed")


@pytest.mark.parametrize("attention", ["sparse", "full"])
def test_logits_and_weights_are_those_of_the_packed_model(attention):
    from star_edge.models.pyg import pyg_star

    torch.manual_seed(0)
    skeleton = get_skeleton("ntu25")
    model = Star(star_config("star-64", skeleton, 9, 60, attention=attention)).eval()
    paper = pyg_star(model)
    lengths = [1, 30, 0, 12]
    features, cu_seqlens = torch.randn(sum(lengths), 25, 9), torch.from_numpy(cu_seqlens_of(lengths))
    with torch.no_grad():
        reference, logits = model(features, cu_seqlens), paper(features, cu_seqlens)
    assert (logits - reference).abs().max() <= 1e-5 * reference.abs().max()
    assert paper.state_dict().keys() == model.state_dict().keys()
    assert type(model.context) is not type(paper.context)  # the original is left as it was
