"""The TensorRT plugins, compiled against the headers of one or more versions and walked as TensorRT walks them, without it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tensorrt_headers import versions

REPOSITORY = Path(__file__).resolve().parents[4]
PLUGIN = REPOSITORY / "exporters" / "tensorrt" / "plugin"
CUDA = REPOSITORY / "runtime" / "native" / "cuda"
OPS = ("StarSegmentedPositions", "StarSparseAttention", "StarSegmentedLinearAttention", "StarContextAttention")
# what a board has anyway; the CUDA runtime is linked statically
SYSTEM_LIBRARIES = {"libc.so.6", "libgcc_s.so.1", "libm.so.6", "libstdc++.so.6"}

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("g++") is None, reason="no cmake or g++ to build plugins with"
)


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=600, env={**os.environ, **environment})


def succeed(*command: object) -> str:
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def configure(folder: Path, headers: Path | str, *options: str) -> str:
    return succeed("cmake", "-S", PLUGIN, "-B", folder, f"-DTENSORRT_INCLUDE_DIR={headers}", "-DCMAKE_BUILD_TYPE=None",
                   "-DSTAR_EDGE_WERROR=ON", *options)  # fmt: skip


class Built:
    """A folder of everything that CMake makes, with emulated kernels and a libnvinfer of the tests' own."""

    def __init__(self, headers: Path, folder: Path) -> None:
        self.folder, self.nvinfer = folder, folder / "libnvinfer.so"
        folder.mkdir(exist_ok=True)
        succeed("g++", "-std=c++17", "-shared", "-fPIC", "-isystem", headers, "-I", CUDA / "emulator",
                Path(__file__).parent / "fake_nvinfer.cpp", "-o", self.nvinfer)  # fmt: skip
        configure(folder, headers, "-DSTAR_EDGE_EMULATED=ON", f"-DTENSORRT_LIBRARY={self.nvinfer}")
        succeed("cmake", "--build", folder, "--parallel", 2)

    @property
    def library(self) -> Path:
        return self.folder / "libstar_edge_trt.so"

    @property
    def static_library(self) -> Path:
        return self.folder / "libstar_edge_trt_static.so"


@pytest.fixture(scope="module", params=versions())
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    assert (request.param / "NvInferRuntime.h").is_file(), f"no NvInferRuntime.h in {request.param}"
    return Built(request.param, tmp_path_factory.mktemp("plugin"))


def exported(library: Path) -> set[str]:
    listed = succeed("nm", "--dynamic", "--defined-only", "--format=posix", library)
    return {line.split()[0] for line in listed.splitlines()}


def needed(library: Path) -> set[str]:
    listed = succeed("readelf", "--dynamic", "--wide", library)
    return {name for name in re.findall(r"\(NEEDED\).*\[(.+)\]", listed) if not name.startswith("ld-linux")}


def undefined(library: Path) -> set[str]:
    """Symbols that some other library must define, without those of the C and C++ libraries, which have versions."""
    listed = succeed("nm", "--dynamic", "--undefined-only", "--format=posix", library)
    return {name for name, kind in (line.split()[:2] for line in listed.splitlines()) if kind == "U" and "@" not in name}


def test_plugins_keep_every_promise(built: Built) -> None:
    done = run(built.folder / "conformance", built.library)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert re.search(r"^[1-9]\d* passed, 0 failed, \d+ skipped$", done.stdout, re.MULTILINE)
    for op in OPS:
        for precision in ("fp32", "fp16", "int8"):
            assert f"ok     {op}: {precision}, several clips" in done.stdout


def test_library_needs_no_tensorrt_and_shows_only_its_entry_points(built: Built) -> None:
    assert exported(built.library) == {"getCreators", "setLoggerFinder"}
    assert needed(built.library) <= SYSTEM_LIBRARIES
    assert undefined(built.library) == set()


def load(library: Path, nvinfer: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Loads a library in a process of its own and prints what has registered itself."""
    script = (
        "import ctypes, sys; nvinfer = ctypes.CDLL(sys.argv[2], ctypes.RTLD_GLOBAL); ctypes.CDLL(sys.argv[1]); "
        "nvinfer.registered.restype = ctypes.c_char_p; print(nvinfer.registered().decode(), end='')"
    )
    return run(sys.executable, "-c", script, library, nvinfer, **environment)


def test_static_library_registers_the_plugins_in_their_namespace_while_it_is_loaded(built: Built) -> None:
    assert undefined(built.static_library) == {"getPluginRegistry"}
    assert exported(built.static_library) == {"getCreators", "setLoggerFinder"}
    loaded = load(built.static_library, built.nvinfer)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.splitlines() == [f"star_edge::{op}" for op in OPS]
    assert loaded.stderr == ""
    assert load(built.library, built.nvinfer).stdout == ""


def test_a_refused_registration_is_said(built: Built) -> None:
    loaded = load(built.static_library, built.nvinfer, REFUSE_CREATORS="1")
    assert loaded.returncode == 0, loaded.stderr
    assert [line for line in loaded.stderr.splitlines() if "namespace star_edge" in line] == loaded.stderr.splitlines()
    assert all(op in loaded.stderr for op in OPS)


def test_conformance_fails_for_what_is_no_plugin_library(built: Built) -> None:
    for path, words in ((built.nvinfer, "has no setLoggerFinder"), (built.folder / "absent.so", "absent.so")):
        done = run(built.folder / "conformance", path)
        assert done.returncode == 1
        assert words in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("headers", versions()[:1])
def test_plugins_with_kernels_for_gpus(headers: Path, tmp_path: Path) -> None:
    """By nvcc; without a GPU the walk ends where something would be launched, and says so."""
    if shutil.which("nvcc") is None and not Path("/usr/local/cuda/bin/nvcc").is_file():
        pytest.skip("no nvcc to build the kernels with")
    configure(tmp_path, headers, "-DCMAKE_CUDA_ARCHITECTURES=87;90")
    succeed("cmake", "--build", tmp_path, "--parallel", 2)
    library = tmp_path / "libstar_edge_trt.so"
    assert exported(library) == {"getCreators", "setLoggerFinder"}
    assert needed(library) <= SYSTEM_LIBRARIES
    assert undefined(library) == set()
    done = run(tmp_path / "conformance", library)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("skip   enqueue: nothing can run here: " in done.stdout) != ("enqueue on " in done.stdout)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-DTENSORRT_INCLUDE_DIR="], "star_edge_trt is skipped: no NvInferRuntime.h"),
        (["-DCMAKE_CUDA_COMPILER=NOTFOUND"], "star_edge_trt is skipped: no nvcc"),
    ],
    ids=["headers", "nvcc"],
)
def test_what_is_missing_is_said_and_nothing_is_built(tmp_path: Path, options: list[str], reason: str) -> None:
    assert reason in " ".join(configure(tmp_path, tmp_path, *options).split())
    succeed("cmake", "--build", tmp_path)
    assert not list(tmp_path.rglob("*.so"))


def test_headers_of_an_old_tensorrt_are_refused(tmp_path: Path) -> None:
    (tmp_path / "NvInferRuntime.h").write_text("#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 5\n")
    done = run("g++", "-fsyntax-only", "-x", "c++", "-I", tmp_path, "-I", CUDA / "emulator", PLUGIN / "src" / "tensorrt.h")
    assert done.returncode != 0
    assert "need TensorRT 10.3 or newer" in done.stderr
