"""Compiling the plugins: by what they are kept, what is said where they cannot be, and, with nvcc and headers here, for real."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from exporters.onnx.functions import OPS
from exporters.tensorrt import plugin_library
from exporters.tensorrt.plugin_library import ensure_plugins, sources_sha256
from runtime.errors import InputError, MismatchError
from runtime.tensorrt.installation import LIBRARY, plugin_path, plugin_sha256


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def cmake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in cmake's place: notes its arguments, makes a library; ``says`` and ``fails`` beside it change that."""
    program = tmp_path / "bin" / "cmake"
    program.parent.mkdir()
    program.write_text(f"""#!/bin/sh
echo "$@" >> {tmp_path}/calls
[ -f {tmp_path}/says ] && cat {tmp_path}/says
if [ "$1" = --build ]; then
  [ -f {tmp_path}/fails ] && {{ for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17; do echo "error $i" >&2; done; exit 2; }}
  printf library > "$2/{LIBRARY}"
fi
exit 0
""")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return tmp_path


def test_a_library_is_compiled_once_for_what_it_is_for(cmake: Path) -> None:
    plugin = ensure_plugins(87, "10.3.0")
    assert plugin_path(plugin.key).read_bytes() == b"library"
    assert plugin.sha256 == plugin_sha256(plugin.key) != ""
    assert plugin.sources_sha256 == sources_sha256()
    assert ensure_plugins(87, "10.3.0") == plugin
    configure, build = (cmake / "calls").read_text().splitlines()
    assert "-DCMAKE_CUDA_ARCHITECTURES=87" in configure.split()
    assert "-DTENSORRT_INCLUDE_DIR" not in configure
    assert "--target star_edge_trt" in build
    (cmake / "NvInferRuntime.h").touch()
    keys = {plugin.key, ensure_plugins(110, "10.3.0").key, ensure_plugins(87, "10.7.0", cmake).key}
    assert len(keys) == 3
    assert f"-DTENSORRT_INCLUDE_DIR={cmake}" in (cmake / "calls").read_text()


def test_changed_sources_are_compiled_anew(cmake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in plugin_library._FOLDERS:
        shutil.copytree(plugin_library._ROOT / folder, tmp_path / "copy" / folder)
    before = sources_sha256()
    monkeypatch.setattr(plugin_library, "_ROOT", tmp_path / "copy")
    assert sources_sha256() == before
    for name in ("runtime/native/cuda/ops/sparse_attention.cu", "exporters/tensorrt/plugin/src/exports.map"):
        path = tmp_path / "copy" / name
        path.write_bytes(path.read_bytes() + b"\n")
        changed = sources_sha256()
        assert changed != before
        before = changed
    (tmp_path / "copy/runtime/native/cuda/__pycache__").mkdir(exist_ok=True)
    (tmp_path / "copy/runtime/native/cuda/__pycache__/x.pyc").write_bytes(b"")
    assert sources_sha256() == before


def test_the_compilers_last_lines_are_shown(cmake: Path) -> None:
    (cmake / "fails").touch()
    with pytest.raises(MismatchError, match=r"cannot compile the plugins(?s:.*)error 17") as caught:
        ensure_plugins(87, "10.3.0")
    assert "error 2\n" not in str(caught.value)
    assert not list((cmake / "cache").rglob("*.so"))


@pytest.mark.parametrize(
    ("said", "found", "hint"),
    [
        ("no NvInferRuntime.h; on a\n  Jetson: sudo ...", "no NvInferRuntime.h", "libnvinfer-headers-dev"),
        ("no nvcc; install the\n  CUDA toolkit", "no nvcc", "nvidia-jetpack"),
    ],
)
def test_what_is_missing_for_it_is_named(cmake: Path, said: str, found: str, hint: str) -> None:
    (cmake / "says").write_text(f"-- The CXX compiler\n-- star_edge_trt is skipped: {said}\n-- Configuring done\n")
    with pytest.raises(MismatchError, match=found) as caught:
        ensure_plugins(87, "10.3.0")
    assert caught.value.found == found
    assert hint in (caught.value.hint or "")


def test_without_cmake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MismatchError, match=r"needs CMake(?s:.*)apt-get install cmake"):
        ensure_plugins(87, "10.3.0")


def test_the_words_are_those_of_the_cmake_file() -> None:
    text = (plugin_library._ROOT / "exporters" / "tensorrt" / "plugin" / "CMakeLists.txt").read_text()
    for what in plugin_library._REMEDIES:
        assert f"star_edge_trt is skipped: {what};" in text


def test_a_folder_without_headers(cmake: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no headers of TensorRT(?s:.*)NvInferRuntime.h"):
        ensure_plugins(87, "10.3.0", tmp_path)
    assert not (cmake / "calls").exists()


@pytest.mark.slow
def test_nvcc_compiles_it_and_a_real_registry_loads_it() -> None:
    named = (os.environ.get("TENSORRT_INCLUDE_DIRS") or os.environ.get("TENSORRT_INCLUDE_DIR") or "").split(":")[0]
    headers = Path(named or f"/usr/include/{platform.machine()}-linux-gnu")
    if not (headers / "NvInferRuntime.h").is_file():
        pytest.skip("no TensorRT headers: name their folders in TENSORRT_INCLUDE_DIRS")
    if shutil.which("nvcc") is None and not Path("/usr/local/cuda/bin/nvcc").is_file():
        pytest.skip("no nvcc to build the kernels with")
    plugin = ensure_plugins(87, "10.3.0", headers)
    assert plugin_path(plugin.key).read_bytes().startswith(b"\x7fELF")
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("compiled, but not loaded: TensorRT-RTX is not installed: pip install 'star-edge[tensorrt-rtx]'")
    # in a process of its own, since a registry keeps what it has loaded
    code = (
        "import sys, tensorrt_rtx; from pathlib import Path; from exporters.tensorrt.builder import creators; "
        "from runtime.tensorrt.installation import load_plugins; load_plugins(tensorrt_rtx, Path(sys.argv[1])); "
        "print(creators(tensorrt_rtx))"
    )
    done = subprocess.run([sys.executable, "-c", code, plugin_path(plugin.key)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(dict.fromkeys(OPS, ("1", "star_edge"))), done.stderr
