"""The C++ engine's part that calls TensorRT, compiled against the headers of every version and run on a stand-in for its library.

All else of that engine is in runtime/native/tests/test_tensorrt.cpp, which needs no headers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tensorrt_headers import versions

NATIVE = Path(__file__).resolve().parents[3] / "runtime" / "native"
HERE = Path(__file__).resolve().parent / "fake_tensorrt"  # not "tensorrt": this folder is on the path of modules
CLASSES = {
    "NvInferImpl.h": ("VRuntime", "VCudaEngine", "VExecutionContext"),
    "NvInferRuntimeCommon.h": ("IPluginRegistry",),
}
FLAGS = ("-std=c++20", "-Wall", "-Wextra", "-Werror", "-O1")

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


def compile_with(headers: Path, *words: object) -> None:
    includes = [word for folder in ("src", "include", "cuda/emulator") for word in ("-I", NATIVE / folder)]
    command = ["g++", *FLAGS, "-isystem", headers, *includes, *words]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def stub(name: str, text: str) -> str:
    """A subclass of an abstract class of a header, whose every function ends the process."""
    body = re.search(rf"^class {name}\b[^;{{]*{{(.*?)^}};", text, re.DOTALL | re.MULTILINE)
    if body is None:
        return ""
    code = re.sub(r"//[^\n]*", "", body[1])
    functions = re.findall(r"virtual\s+([^;{}~]*?)\s*=\s*0\s*;", code)
    declared = [re.sub(r"\s*=\s*[^,()]+(?=[,)])", "", function) for function in functions]
    lines = "".join(f"    {function} override {{ std::abort(); }}\n" for function in declared)
    space = "apiv::" if name.startswith("V") else ""
    return f"class Unused{name} : public nvinfer1::{space}{name} {{\n{lines}}};\n"


@pytest.fixture(scope="module", params=versions())
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The calls, beside a folder with a libnvinfer that answers them."""
    headers, folder = Path(request.param), tmp_path_factory.mktemp("tensorrt")
    library = folder / "lib" / f"libnvinfer.so.{major(headers)}"
    library.parent.mkdir()
    stubs = [stub(name, (headers / header).read_text()) for header, names in CLASSES.items() for name in names]
    assert sum(map(bool, stubs)) == 4
    text = "#include <NvInferRuntime.h>\n#include <cstdlib>\nnamespace nvinfer1 {\n" + "".join(stubs) + "}\n"
    (folder / "stubs.h").write_text(text)
    hidden = ("-Wno-overloaded-virtual", "-Wno-unused-parameter", "-Wno-deprecated-declarations")
    compile_with(headers, "-I", folder, *hidden, "-shared", "-fPIC", "-o", library, HERE / "fake_runtime.cpp")
    sources = (HERE / "calls.cpp", NATIVE / "src" / "tensorrt_api.cpp", NATIVE / "src" / "message.cpp")
    compile_with(headers, f'-DLIBRARY="{library.name}"', "-o", folder / "calls", *sources, "-ldl")
    return folder / "calls"


def major(headers: Path) -> int:
    found = re.search(r"define (?:NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE) (\d+)", (headers / "NvInferVersion.h").read_text())
    assert found is not None
    return int(found[1])


def run(program: Path, libraries: Path | None) -> list[str]:
    environment = {**os.environ, "LD_LIBRARY_PATH": "" if libraries is None else str(libraries)}
    return subprocess.run([program], env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def test_engines_are_loaded_asked_and_run(program: Path) -> None:
    lines = run(program, program.parent / "lib")
    assert re.fullmatch(r"version: 1[01]\.\d+\.\d+", lines[0])
    assert lines[1:] == [
        "bad plan: 4, TensorRT cannot load the engine; found: no plan; and that is that; next: star-edge build",
        "bad plugins: 4, TensorRT cannot load the plugins in /none: a process takes those of one build alone; "
        "found: cannot open /none; next: star-edge build",
        "plugins: /plugins.so;",
        "profiles: 2",
        "cu_seqlens: int32",
        "features: float32",
        "logits: type 1",
        "largest features: 8 5 9",
        "largest cu_seqlens: 3",
        "logits: -1 3",
        "profile: 4, TensorRT cannot choose the profile; found: no such profile; next: star-edge build",
        "shape: 4, TensorRT cannot set the shape of features; found: a shape that is none; next: star-edge build",
        "address: 4, TensorRT cannot set the address of logits; found: no address; next: star-edge build",
        "tensor: 4, TensorRT cannot run the engine; found: a tensor without an address; next: star-edge build",
        "run: 8 9 10",
        "alive: 1",  # the engine
    ]


def test_says_what_is_lacking_where_there_is_no_tensorrt(program: Path) -> None:
    (line,) = run(program, None)
    assert line.startswith("none: 5, TensorRT cannot be loaded; found: libnvinfer.so.")
    assert "nvidia-jetpack" in line
