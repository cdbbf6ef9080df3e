"""What benchmarks/gpu.py does in which order, with stand-ins for the GPU: proofs, rows, the result and the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu
import gpu_rows
import pytest
import torch
from gpu_cases import CASES

LIMITS = {"bytes_per_s": 1e12, "fp32_ops_per_s": 1e13, "fp16_ops_per_s": 1e14, "int8_ops_per_s": 1e14}
NAMES = ("model", "workload", "engine", "precision")
CHILD_ROW = 'row: {"median_ms": 1.0, "relative_error": 0.0}\n'


def proof(name: str, outcome: str = "passed") -> dict[str, Any]:
    return {"proof": name, "outcome": outcome, "detail": "3 passed", "seconds": 1.5, "output": f"all that {name} said"}


class Bench:
    """A machine without a GPU on which gpu.py thinks to be on one.

    Attributes:
        proofs: what each kind of proof says. commands: those of children. opened: cases that were made.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
        self.out = out
        self.proofs = {"kernels": proof("kernels"), "memory": proof("memcheck"), "plugins": proof("plugins", "skipped")}
        self.commands: list[list[str]] = []
        self.boxes: list[float] = []
        self.opened: list[tuple[str, str]] = []
        self.child: tuple[int | None, str] = (0, CHILD_ROW)
        self.headers: list[str | None] = []
        for name, value in {
            "require_gpu": lambda: None,
            "build": lambda capability, folder: folder / f"sm_{capability}.so",
            "ceilings": lambda: LIMITS,
            "card_now": dict,
            "prove_kernels": lambda library, left: self.proofs["kernels"],
            "prove_memory": lambda library, left: [self.proofs["memory"]],
            "prove_plugins": self._plugins,
        }.items():
            monkeypatch.setattr(gpu, name, value)
        monkeypatch.setattr("os.fsync", lambda descriptor: None)  # a hundred rows are written, and no machine is taken back
        monkeypatch.setattr(gpu.cuda, "load", lambda path: path.name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA Test")
        monkeypatch.setattr(gpu_rows, "measure", lambda make, expected, tolerance: {"median_ms": 2.0, "relative_error": 0.0})
        monkeypatch.setattr(gpu_rows, "open_case", self._open)
        monkeypatch.setattr(gpu_rows, "run_boxed", self._run)
        monkeypatch.setattr(gpu_rows, "find_spec", lambda name: True)

    def run(self, *arguments: str) -> int:
        return gpu.main(["--out", str(self.out), *arguments])

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out.read_bytes())
        return found

    def _plugins(self, headers: str | None, folder: Path, capability: int, left: float) -> dict[str, Any]:
        self.headers.append(headers)
        assert capability == 90
        return self.proofs["plugins"]

    def _open(self, memory: str, model: str, workload: str) -> SimpleNamespace:
        assert memory == "cuda"
        self.opened.append((model, workload))
        return SimpleNamespace(expected=None)

    def _run(self, command: list[str], seconds: float, cwd: Path) -> tuple[int | None, str]:
        assert command[0] == sys.executable
        assert Path(command[1]).is_file()
        self.commands.append([Path(command[1]).name, *command[2:]])
        self.boxes.append(seconds)
        return self.child


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    return Bench(monkeypatch, tmp_path / "results" / "gpu.json")


def names_of(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in NAMES) for row in rows]


def test_everything_is_proven_measured_and_kept(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run() == 0
    result = bench.result
    assert result["schema"] == "star-edge/gpu/3"
    assert result["device"] == "NVIDIA Test, sm_90"
    assert result["ceilings"] == LIMITS
    assert {"torch", "cuda", "nvcc", "python", "numpy"} == set(result["versions"])
    rows = result["results"]
    assert len(set(names_of(rows))) == len(rows), "each once"
    assert all(row["median_ms"] > 0 and row["floor_ms"] > 0 and row["flops"] > 0 and row["bytes"] > 0 for row in rows)
    assert bench.opened == list(CASES), "each case once, and only while it is measured"
    engines = [row["engine"] for row in rows]
    assert engines.index("torch.compile reduce-overhead, dense") > max(
        index for index, engine in enumerate(engines) if engine.endswith("graph") and "TensorRT" not in engine
    )
    assert engines.index("TensorRT, graph") > engines.index("torch.compile max-autotune, dense")
    assert bench.commands[:5] == [
        ["gpu_compiled.py", "star-64", "1x300", "reduce-overhead"],
        ["gpu_compiled.py", "star-64", "64 clips", "reduce-overhead"],
        ["gpu_compiled.py", "star-64", "1x300", "max-autotune"],
        ["gpu_compiled.py", "star-64", "64 clips", "max-autotune"],
        ["gpu_tensorrt.py", "tensorrt", "star-64", "1x300", "fp16"],
    ]
    assert {tuple(command[:2]) for command in bench.commands[4:]} == {
        ("gpu_tensorrt.py", "tensorrt"),
        ("gpu_tensorrt.py", "tensorrt_rtx"),
    }
    assert max(bench.boxes) <= gpu_rows.CHILD_SECONDS
    assert "workload  engine" in capsys.readouterr().out


def test_ours_alone(bench: Bench) -> None:
    assert bench.run("--ours") == 0
    assert {row["engine"] for row in bench.result["results"]} == {
        "ours", "ours, graph", "ours, layered", "ours, layered, graph",
    }  # fmt: skip
    assert not bench.commands


@pytest.mark.parametrize("outcome", ["failed", "unfinished"])
def test_nothing_is_measured_with_kernels_that_are_not_proven(
    bench: Bench, outcome: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.proofs["kernels"] = proof("kernels", outcome)
    monkeypatch.setattr(gpu, "ceilings", lambda: pytest.fail("measured"))
    with pytest.raises(SystemExit) as end:
        bench.run()
    assert end.value.code not in (0, None)
    assert "all that kernels said" in capsys.readouterr().out
    assert not bench.out.exists()
    assert not bench.headers


@pytest.mark.parametrize("kind", ["memory", "plugins"])
@pytest.mark.parametrize("outcome", ["failed", "unfinished"])
def test_another_proof_that_fails_is_kept_and_makes_the_exit_code(
    bench: Bench, kind: str, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.proofs[kind] = proof(kind, outcome)
    assert bench.run("--ours") == 1
    by_name = {kept["proof"]: kept for kept in bench.result["proofs"]}
    assert by_name[kind]["output"] == f"all that {kind} said"
    assert f"all that {kind} said" in capsys.readouterr().out
    assert "output" not in by_name["kernels"], "what passed is short"
    assert all("median_ms" in row for row in bench.result["results"])


def test_what_there_is_no_time_for_is_said(bench: Bench) -> None:
    bench.run()
    everything = names_of(bench.result["results"])
    bench.opened.clear()
    bench.commands.clear()
    assert bench.run("--minutes", "0") == 0
    rows = bench.result["results"]
    assert names_of(rows) == everything
    assert {row["reason"] for row in rows} == {"no time left"}
    assert (bench.opened, bench.commands) == ([], [])


def test_headers_are_for_the_plugins_proof_and_their_engines(bench: Bench) -> None:
    bench.run("--tensorrt-headers", "/headers")
    bench.run()
    assert bench.headers == ["/headers", None]
    with_headers = [command for command in bench.commands if command[-1] == "/headers"]
    assert {command[0] for command in with_headers} == {"gpu_tensorrt.py"}


def test_without_tensorrt_there_is_a_row_that_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(*absent: str) -> str:
        monkeypatch.setattr(gpu_rows, "find_spec", lambda name: name not in absent or None)
        (row,) = gpu_rows.tensorrt_rows(None, LIMITS, lambda: 100.0)
        return str(row["reason"])

    assert reason("tensorrt", "tensorrt_rtx") == "no module tensorrt or tensorrt_rtx"
    assert reason("msgspec", "onnx") == "no module msgspec, onnx"
    assert not bench.commands


@pytest.mark.parametrize(
    ("child", "left", "reason"),
    [
        ((None, "compiling"), 1000.0, "not done in 120 s"),
        ((None, "compiling"), 30.0, "no time left"),
        ((1, "Traceback\nImportError: no libnvinfer.so\n"), 30.0, "exit code 1: ImportError: no libnvinfer.so"),
        ((0, ""), 30.0, "exit code 0: nothing said"),
    ],
    ids=["too slow", "no time", "failed", "silent"],
)
def test_a_child_without_a_row_says_why(bench: Bench, child: tuple[int | None, str], left: float, reason: str) -> None:
    bench.child = child
    rows = list(gpu_rows.compiled_rows(LIMITS, lambda: left))
    assert {row["reason"] for row in rows} == {reason}


def test_a_child_that_measured_has_its_row_whatever_it_said_last(bench: Bench) -> None:
    bench.child = (None, f"{CHILD_ROW}but it does not end")
    assert [row["median_ms"] for row in gpu_rows.compiled_rows(LIMITS, lambda: 30.0)] == [1.0] * 4


def test_the_result_is_written_after_each_row(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(3):
            if number:
                assert len(json.loads(out.read_bytes())["results"]) == number
            yield {**dict.fromkeys(NAMES, "x"), "reason": "no time left"}

    gpu.measure_into({"results": []}, rows(), out)
    assert len(json.loads(out.read_bytes())["results"]) == 3


def test_kernels_that_do_not_compile_end_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(architectures: tuple[int, ...], folder: Path) -> Callable[..., Any]:
        assert architectures == (87,)
        raise gpu.subprocess.CalledProcessError(1, "nvcc", stderr="star_model.cu(7): error")

    monkeypatch.setattr(gpu.cuda, "build", refuse)
    with pytest.raises(SystemExit, match=r"(?s)nothing is measured.*star_model\.cu\(7\): error"):
        gpu.build(87, tmp_path)


def test_a_machine_without_a_gpu_is_told(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(SystemExit, match="no NVIDIA GPU here"):
        gpu.main(["--out", str(tmp_path / "gpu.json")])
