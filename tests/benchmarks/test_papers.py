"""The papers' tables: which runs there are, what a module's own work is, and that README shows what was measured."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import papers_modules  # noqa: E402
import papers_table  # noqa: E402
from papers_runs import LIGHT_RUNS, RUNS, Run, light  # noqa: E402
from torch import nn  # noqa: E402


def test_readme_shows_what_was_measured() -> None:
    """To renew it: python benchmarks/papers.py table."""
    text = papers_table.README.read_text(encoding="utf-8")
    assert papers_table.replace(text, papers_table.render()) == text


def test_every_run_has_a_name_of_its_own_and_begins_with_one_before_it() -> None:
    for runs in (RUNS, LIGHT_RUNS):
        names = [run.name for run in runs]
        assert len(set(names)) == len(names)
        for run in runs:
            assert all(names.index(needed) < names.index(run.name) for needed in run.needs)


def test_a_light_run_has_less_of_everything_and_begins_with_a_light_one() -> None:
    first = ("compress", "lowrank", "{net/1}", "--params", "0.5", "--finetune", "40")
    small = light(Run("net-lowrank/1", first, ("net/1",), "--finetune"))
    assert small.name == "net-lowrank-light/1"
    assert small.first == ("compress", "lowrank", "{net-light/1}", "--params", "0.5", "--finetune", "30")
    assert small.needs == ("net-light/1",)
    assert light(Run("net/0", ("train", "--epochs", "3", "--frames", "64"))).first == (
        "train",
        "--epochs",
        "3",
        "--frames",
        "32",
    )


def test_steps_name_the_checkpoint_they_begin_with() -> None:
    run = Run("net-lowrank/1", ("compress", "lowrank", "{net/1}"), ("net/1",), "--finetune")
    make, test = run.steps(Path("set.npz"), Path("runs"), "cpu", 2)
    assert make[:5] == ["compress", "lowrank", "runs/net/1/ckpt.pt", "--finetune", "2"]
    assert make[make.index("--seed") + 1] == "1"
    assert test == ["evaluate", "runs/net-lowrank/1/ckpt.pt", "--data", "set.npz", "--device", "cpu"]


class Squared(nn.Module):
    """A product of its own, and one of its child's; the list is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 5, bias=False), nn.Linear(5, 7, bias=False)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x.T @ x


def test_a_modules_own_macs_leave_out_its_children() -> None:
    own = papers_modules.own_macs(Squared(), [torch.ones(2, 3)], None)
    assert {name: count for name, count in own.items() if count} == {"Linear": 2 * (3 * 5 + 5 * 7), "Squared": 7 * 2 * 7}


def test_a_modules_own_time_leaves_out_its_children() -> None:
    seconds = papers_modules.own_seconds(Squared(), [torch.ones(2, 3)])
    assert seconds.keys() == {"Linear", "Squared"}
    assert all(taken > 0 for taken in seconds.values())


def test_speed_beside_star_64() -> None:
    def model(name: str, parameters: int, **milliseconds: float) -> dict[str, object]:
        rows = [{"engine": engine, "workload": "1x300", "median_ms": median} for engine, median in milliseconds.items()]
        return {"name": name, "parameters": parameters, "frames": None, "macs": {"1x300": 1}, "results": rows}

    speeds = {
        "models": [model("star-64", 10, torch=8, onnxruntime=5, native=1), model("st-gcn", 75, torch=40, onnxruntime=30)]
    }
    assert papers_table._ratios(json.loads(json.dumps(speeds))).splitlines()[-1] == "| ST-GCN | 1/7.5 | 5.0 / 6.0 / 30 |"
