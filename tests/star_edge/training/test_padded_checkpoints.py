"""Checkpoints of padded and of low-rank models: they come back as they were, and what contradicts itself is refused with its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from runtime.errors import InputError  # noqa: E402
from runtime.features import FeatureRecipe  # noqa: E402
from star_edge.compression.low_rank import candidates  # noqa: E402
from star_edge.models.registry import build_model, padded_config  # noqa: E402
from star_edge.skeletons import NITE15  # noqa: E402
from star_edge.training.checkpoint import (  # noqa: E402
    Checkpoint,
    DataEntry,
    ModelEntry,
    build_from_checkpoint,
    load_checkpoint,
    save_checkpoint,
)


def saved(path: Path, **fields: Any) -> dict[str, Any]:
    """A checkpoint of a small CTR-GCN, written to ``path``, as plain containers and tensors."""
    config = padded_config("ctr-gcn", NITE15, 4, 3, frames=5, persons=1, dim=8, **fields)
    torch.manual_seed(0)
    model = build_model("ctr-gcn", config)
    entry, data = ModelEntry("ctr-gcn", config), DataEntry("nowhere", "none", "xsub")
    save_checkpoint(Checkpoint(entry, model.state_dict(), NITE15, FeatureRecipe(channels=4), ("a", "b", "c"), data), path)
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


@pytest.mark.parametrize("ranks", [{}, {"blocks.1.spatial.values": 3, "blocks.2.temporal.branches.0": 2}])
def test_a_checkpoint_comes_back(tmp_path: Path, ranks: dict[str, int]) -> None:
    names = candidates(build_model("ctr-gcn", padded_config("ctr-gcn", NITE15, 4, 3, dim=8)))
    ranks = dict(zip(list(names)[:2], ranks.values(), strict=False))
    saved(tmp_path / "ckpt.pt", ranks=ranks)
    found = load_checkpoint(tmp_path / "ckpt.pt")
    assert found.model.config == padded_config("ctr-gcn", NITE15, 4, 3, frames=5, persons=1, dim=8, ranks=ranks)
    model, rows = build_from_checkpoint(found), torch.randn(7, 15, 4)
    rows[..., -1] = 0
    with torch.no_grad():
        assert bool(model(rows, torch.tensor([0, 3, 7], dtype=torch.int32)).isfinite().all())
    assert sum(name.endswith(".first.weight") for name in found.state_dict) == len(ranks)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"name": "ctr-gnc"}, "unknown model 'ctr-gnc'"),
        ({"name": "star-64"}, "wrong field"),
        ({"frames": 0}, "wrong field"),
        ({"persons": "many"}, "wrong field"),
        ({"time": "stretch"}, "wrong field"),
        ({"channels": 5}, "contradicts itself"),
        ({"bones": [[1, 99]]}, "contradicts itself"),
        ({"root": 7}, "contradicts itself"),
        ({"dim": 16}, "does not fit the model"),
        ({"ranks": {"nothing": 2}}, "no layer of this name"),
        ({"ranks": {"blocks.0.spatial.values": 0}}, "cannot have this rank"),
        ({"ranks": {"blocks.0": "two"}}, "wrong field"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    content = saved(tmp_path / "ckpt.pt")
    name = changes.pop("name", "ctr-gcn")
    content["model"] = {"name": name, "config": {**msgspec.to_builtins(content["model"]["config"]), **changes}}
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(InputError, match=part) as caught:
        load_checkpoint(tmp_path / "bad.pt")
    assert str(tmp_path / "bad.pt") in str(caught.value)
