"""Ensembles of both families: the mean of their experts, one padding for all, and what their configs may say."""

from __future__ import annotations

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from runtime.errors import InputError  # noqa: E402
from star_edge.models.config import StarConfig, expert_paths, manifest_fields  # noqa: E402
from star_edge.models.ensemble import Ensemble, experts_of  # noqa: E402
from star_edge.models.padded import Padding  # noqa: E402
from star_edge.models.registry import build_model, model_config, parse_config  # noqa: E402
from star_edge.models.rounded import rounded  # noqa: E402
from star_edge.skeletons import NITE15  # noqa: E402

SHAPES = {
    "star-64": {"dim": 16, "heads": 2, "layers": 2, "hidden": 24},
    "ctr-gcn": {"dim": 16, "growth": (1, 2), "frames": 4},
}


def ensemble(name: str, experts: int = 3) -> Ensemble:
    torch.manual_seed(0)
    model = build_model(name, model_config(name, NITE15, 4, 5, experts=experts, **SHAPES[name])).eval()
    assert isinstance(model, Ensemble)
    return model


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Of 4 and 7 rows, the last three of another person."""
    torch.manual_seed(1)
    rows = torch.randn(11, 15, 4)
    rows[:, :, -1] = (torch.arange(11) >= 8)[:, None]
    return rows, torch.tensor([0, 4, 11], dtype=torch.int32)


@pytest.mark.parametrize("name", SHAPES)
def test_the_answer_is_the_mean_of_the_experts_that_were_there_alone(name: str) -> None:
    model = ensemble(name)
    alone = build_model(name, msgspec.structs.replace(model.config, experts=1)).eval()
    answers = []
    for path in expert_paths(model.config):
        own = {key.removeprefix(path): tensor for key, tensor in model.state_dict().items() if key.startswith(path)}
        alone.load_state_dict(own)
        answers.append(alone(*clips()))
    assert not torch.equal(answers[0], answers[1])
    torch.testing.assert_close(model(*clips()), torch.stack(answers).mean(0), atol=0, rtol=0)
    assert model.train()(*clips()).shape == (3, 2, 5)


@pytest.mark.parametrize("name", SHAPES)
def test_the_rounding_reference_shows_modules_by_their_paths(name: str) -> None:
    model, seen = ensemble(name), {}
    found = rounded(model, "fp16")(*clips(), lambda path, tensor: seen.update({path: tensor}))
    torch.testing.assert_close(found, model(*clips()), atol=1e-2, rtol=1e-2)
    last = "head.output" if name == "star-64" else "output"
    assert {f"experts.{expert}.{last}" for expert in range(3)} < seen.keys()
    assert torch.equal(seen["mean"], found)


def test_an_overflow_names_the_expert() -> None:
    model = ensemble("star-64")
    with torch.no_grad():
        model.get_parameter("experts.1.layers.0.spatial.linear1.weight").mul_(1e6)
    assert rounded(model, "fp16").first_overflow(*clips()).startswith("experts.1.layers.0.spatial.linear1")  # type: ignore[union-attr]


def test_clips_are_padded_once() -> None:
    assert [path for path, module in ensemble("ctr-gcn").named_modules() if isinstance(module, Padding)] == ["padding"]


def test_a_config_says_nothing_of_experts_where_there_are_none() -> None:
    """What reads a bundle elsewhere knows the fields of one model."""
    config = ensemble("star-64").config
    assert manifest_fields(config)["experts"] == 3
    alone = msgspec.structs.replace(config, experts=1)
    assert "experts" not in manifest_fields(alone)
    assert parse_config("star-64", manifest_fields(alone)) == alone
    assert list(experts_of(build_model("star-64", alone))) == expert_paths(alone) == [""]


def test_ranks_and_numbers_that_are_none_are_refused() -> None:
    config = ensemble("star-64").config
    with pytest.raises(InputError, match="no layers of low rank"):
        build_model("star-64", msgspec.structs.replace(config, ranks={"experts.0.head.hidden": 2}))
    for wrong in (0, -1, 1.5):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({**manifest_fields(config), "experts": wrong}, StarConfig)
