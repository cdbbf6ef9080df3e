"""Proofs before times: passed, failed, unfinished, skipped, and nothing proven, with stand-ins for what is on a GPU machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gpu_prove
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY = Path("libstar_cuda.so")


def write_tests(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    monkeypatch.setattr(gpu_prove, "TESTS", folder)
    monkeypatch.setattr(gpu_prove, "PARTS", ("kernel",))
    monkeypatch.setattr(gpu_prove, "SANITIZED", ("test_cuda_kernel.py::test_it[gpu]",))
    (folder / "test_cuda_kernel.py").write_text(
        f"import os, pytest, time\n@pytest.mark.parametrize('kind', ['emulated', 'gpu'])\ndef test_it(kind):\n    {body}\n"
    )


def program(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_kernels_that_pass_on_the_library_that_was_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_tests(monkeypatch, tmp_path, "assert os.environ['STAR_EDGE_CUDA_LIBRARY'] == 'libstar_cuda.so' and kind == 'gpu'")
    proof = gpu_prove.prove_kernels(LIBRARY, 60)
    assert (proof["proof"], proof["outcome"]) == ("kernels' tests", "passed"), proof
    assert proof["detail"].startswith("1 passed, 1 deselected"), "of the GPU alone"


@pytest.mark.parametrize("body", ["assert kind == 'emulated'", "pytest.skip('no GPU')"], ids=["failing", "skipped"])
def test_kernels_that_do_not_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> None:
    write_tests(monkeypatch, tmp_path, body)
    proof = gpu_prove.prove_kernels(LIBRARY, 60)
    assert proof["outcome"] == "failed"
    assert "1 failed" in proof["output"] or "1 skipped" in proof["output"]


def test_no_tests_prove_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_tests(monkeypatch, tmp_path, "pass")
    (tmp_path / "test_cuda_kernel.py").write_text("")
    assert gpu_prove.prove_kernels(LIBRARY, 60)["outcome"] == "failed"


def test_time_that_is_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_tests(monkeypatch, tmp_path, "time.sleep(60)")
    proof = gpu_prove.prove_kernels(LIBRARY, 1)
    assert (proof["outcome"], proof["detail"]) == ("unfinished", "not done in 1 s")
    proof = gpu_prove.prove_kernels(LIBRARY, -3)
    assert (proof["outcome"], proof["detail"]) == ("unfinished", "no time left")


def test_each_tool_of_compute_sanitizer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_tests(monkeypatch, tmp_path, "assert os.environ['PYTORCH_NO_CUDA_MEMORY_CACHING']")
    program(monkeypatch, tmp_path, "compute-sanitizer", 'echo "$@"; tool=$2; shift 6; "$@" && [ $tool = memcheck ] || exit 9')
    memcheck, racecheck = gpu_prove.prove_memory(LIBRARY, 120)
    assert (memcheck["proof"], memcheck["outcome"]) == ("memcheck", "passed"), memcheck
    assert "--tool memcheck --error-exitcode 9" in memcheck["output"]
    assert (racecheck["proof"], racecheck["outcome"]) == ("racecheck", "failed")
    assert racecheck["detail"].startswith("exit code 9")


def test_fewer_tests_than_were_asked_for_prove_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_tests(monkeypatch, tmp_path, "pass")
    monkeypatch.setattr(gpu_prove, "SANITIZED", gpu_prove.SANITIZED * 2)
    program(monkeypatch, tmp_path, "compute-sanitizer", 'shift 6; exec "$@"')
    assert [proof["outcome"] for proof in gpu_prove.prove_memory(LIBRARY, 120)] == ["failed", "failed"]


def test_what_is_not_here_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    proofs = [*gpu_prove.prove_memory(LIBRARY, 60), gpu_prove.prove_plugins(str(tmp_path), tmp_path, 90, 60)]
    assert [(proof["proof"], proof["outcome"]) for proof in proofs] == [
        ("memcheck", "skipped"),
        ("racecheck", "skipped"),
        ("plugins' conformance", "skipped"),
    ]
    assert "no compute-sanitizer" in proofs[0]["detail"]
    assert proofs[2]["detail"] == "no cmake"
    assert gpu_prove.prove_plugins(None, tmp_path, 90, 60)["detail"] == "no --tensorrt-headers"


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("enqueue on H100\n93 passed, 0 failed, 0 skipped", "passed"),
        ("skip enqueue\n60 passed, 0 failed, 1 skipped", "failed"),
        ("enqueue on H100\n92 passed, 1 failed, 0 skipped", "failed"),
        ("enqueue on H100\n0 passed, 0 failed, 0 skipped", "failed"),
    ],
    ids=["all", "nothing on the GPU", "a failure", "nothing"],
)
def test_the_walk_of_the_plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, outcome: str) -> None:
    """CMake is asked for this card and these headers, then for both targets, which the walk is run on."""
    build = tmp_path / "build"
    script = f"""echo "$@" >> {tmp_path}/said
    if [ $1 = --build ]; then
        mkdir -p $2; printf '#!/bin/sh\\necho "$1"\\nprintf "{said}"\\n' > $2/conformance; chmod +x $2/conformance
    fi"""
    program(monkeypatch, tmp_path, "cmake", script)
    proof = gpu_prove.prove_plugins("/headers", build, 87, 60)
    assert proof["outcome"] == outcome, proof
    assert str(build / "libstar_edge_trt.so") in proof["output"]
    configure, make = (tmp_path / "said").read_text().splitlines()
    assert configure.endswith(f"-B {build} -DTENSORRT_INCLUDE_DIR=/headers -DCMAKE_CUDA_ARCHITECTURES=87")
    assert make.endswith("--target conformance star_edge_trt")


def test_plugins_that_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(monkeypatch, tmp_path, "cmake", "echo fatal error; [ $1 != --build ]")
    proof = gpu_prove.prove_plugins("/headers", tmp_path, 87, 60)
    assert (proof["outcome"], proof["output"]) == ("failed", "fatal error\n")


def test_what_is_sanitized_exists() -> None:
    parts = [str(gpu_prove.TESTS / f"test_cuda_{part}.py") for part in gpu_prove.PARTS]
    command = [*gpu_prove.pytest_command("--collect-only", "-k", "gpu", *parts)]
    environment = {"PYTHONPATH": f"{REPOSITORY}:{gpu_prove.TESTS}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    collected = {line.rpartition("/")[2] for line in done.stdout.splitlines() if "::" in line}
    assert sys.executable == command[0]
    assert len(set(gpu_prove.SANITIZED)) == len(gpu_prove.SANITIZED)
    assert set(gpu_prove.SANITIZED) <= collected, set(gpu_prove.SANITIZED) - collected
