"""What the doctor finds, with packages and system files that are not here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import star_edge
from runtime.native import library
from star_edge import doctor
from star_edge.cli.common import Output
from star_edge.cli.doctor import show
from star_edge.dependencies import PACKAGES, VERBS, Needs
from star_edge.doctor import examine, find_nvidia, find_package

Pretend = Callable[..., None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Pretend that modules are gone, or that distributions have other versions; None: no metadata."""

    def change(*gone: str, **versions: str | None) -> None:
        find, version = importlib.util.find_spec, importlib.metadata.version

        def look_up(name: str) -> str:
            key = name.replace("-", "_")
            if key in versions:
                if versions[key] is None:
                    raise importlib.metadata.PackageNotFoundError(name)
                return str(versions[key])
            return version(name)

        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in gone else find(name, *rest))
        monkeypatch.setattr(importlib.metadata, "version", look_up)

    return change


def verb(report: doctor.DoctorReport, name: str) -> doctor.VerbFound:
    return next(found for found in report.verbs if found.verb == name)


def test_everything_is_there(pretend: Pretend) -> None:
    pretend(**{name.replace("-", "_"): package.tested for name, package in PACKAGES.items()})
    report = examine(["data", "pack", "doctor"])
    assert report.ready
    assert report.command == ""
    assert {package.name for package in report.packages} == set(PACKAGES)


def test_a_missing_package_and_what_brings_it(pretend: Pretend) -> None:
    pretend("lief", "onnxslim", lief=None, onnxslim=None)
    report = examine(list(VERBS))
    assert not report.ready
    assert verb(report, "calibrate").missing == ("lief", "onnxslim")
    assert verb(report, "calibrate").command == "pip install 'star-edge[calibrate]'"
    assert verb(report, "run").ready
    assert report.command == "pip install 'star-edge[train,calibrate,report]'"


def test_an_optional_package_leaves_the_verb_ready(pretend: Pretend) -> None:
    pretend("torch_scatter", torch_scatter=None)
    report = examine(["bench"])
    assert report.ready == verb(report, "bench").ready
    option = verb(report, "bench").options[1]
    assert "torch-scatter" in option.missing
    assert option.command == "make pyg"


def test_another_version(pretend: Pretend) -> None:
    pretend(onnx="1.22.0")
    report = examine(["export", "run"])
    assert next(package.state for package in report.packages if package.name == "onnx") == "other version"
    assert verb(report, "export").missing == ("onnx",)
    assert report.command == "pip install 'star-edge[export]'"


def test_metadata_without_files(pretend: Pretend) -> None:
    pretend("onnxruntime", onnxruntime="1.31.1")
    report = examine(["export"])
    assert next(package.state for package in report.packages if package.name == "onnxruntime") == "broken"
    assert report.command == "pip install --force-reinstall --no-deps 'onnxruntime>=1.23'"


def test_the_native_runtime_says_what_it_would_run(pretend: Pretend) -> None:
    found = examine(["run"]).native
    assert found.problem == found.command == ""
    assert Path(found.library).is_file()
    assert found.version == star_edge.__version__
    best = found.instruction_sets.split()[0].rstrip(",")
    assert found.products.keys() == {"fp32", "fp16", "bf16", "int8"}
    assert all(instruction.startswith(best) for instruction in found.products.values())


def test_an_installation_without_its_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library.load_library.cache_clear()
    monkeypatch.setattr("runtime.native.__path__", [str(tmp_path)])
    report = examine(["run"])
    library.load_library.cache_clear()
    assert report.native.problem == "the native runtime is not built: no library"
    assert not report.ready
    assert not verb(report, "run").ready
    assert report.command == verb(report, "run").command == "make native, or: pip install ."


def test_a_board_own_build(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime under another name of distribution counts, with its version; so does a module without metadata."""
    pretend(onnxruntime=None, onnxruntime_gpu="1.23.0")
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu"]})
    found = find_package(PACKAGES["onnxruntime"])
    assert (found.found, found.state) == ("1.23.0", "ok")
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    found = find_package(PACKAGES["onnxruntime"])
    assert (found.found, found.state) == ("unknown", "ok")


def test_a_jetson(tmp_path: Path, pretend: Pretend) -> None:
    pretend(tensorrt=None)
    for name, text in {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n",
        "usr/lib/aarch64-linux-gnu/libnvinfer.so.10": "",
        "usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0": "",
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0",
        "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}, "nvcc": {"version": "12.6.85"}}',
        "usr/local/cuda/bin/nvcc": "",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=1 NAME=25W >\n",
        "var/lib/nvpmodel/status": "pmode:0001\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = find_nvidia(tmp_path)
    assert (found.board, found.jetson_linux, found.jetpack) == ("NVIDIA Jetson Orin Nano Developer Kit", "36.4.3", "6.2")
    assert (found.board_name, found.power_mode, found.refused) == ("orin-nano-8gb", "25W", "")
    assert found.driver == "540.4.0"
    assert found.tensorrt.endswith("libnvinfer.so.10.3.0")
    assert (found.cuda, found.nvcc) == ("12.6.11", str(tmp_path / "usr/local/cuda/bin/nvcc"))
    (tmp_path / "usr/local/cuda/version.json").write_text("{}")
    assert find_nvidia(tmp_path).cuda == ""


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"proc/device-tree/compatible": "nvidia,p3668-0000\0nvidia,tegra194\0"}, "JetPack 5 is the last line for Xavier"),
        ({"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 1\n"}, "TensorRT 8.5 has no IPluginV3"),
        ({"etc/nv_tegra_release": "# R36 (release), REVISION: 3.0, GCID: 1\n"}, "TensorRT 8.6 has no IPluginV3"),
    ],
    ids=["Xavier", "JetPack 5", "JetPack 6.0"],
)
def test_a_jetson_without_a_tensorrt_that_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], files: dict[str, str], reason: str
) -> None:
    """It is refused for engines of TensorRT alone: the native engine runs on its processor."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setitem(VERBS, "build", Needs())
    report = examine(["build", "run"], tmp_path)
    assert reason in report.nvidia.refused
    assert (verb(report, "build").ready, verb(report, "run").ready, report.ready) == (False, True, False)
    show(report, Output(json=False, seed=0, verbosity=0))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("No TensorRT engine for this Jetson.")
    assert reason in lines[-2]
    assert lines[-1] == "1 of 2 verbs have what they need; next: star-edge boards"
    assert examine(["build", "run"], tmp_path / "elsewhere").ready


def test_what_a_jetson_lacks_for_tensorrt(tmp_path: Path, pretend: Pretend) -> None:
    pretend("tensorrt", tensorrt=None)
    for name, text in {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "usr/local/cuda/bin/nvcc": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    report = examine(["build", "run"], tmp_path)
    build, run = (verb(report, name).options[-1] for name in ("build", "run"))
    assert (run.purpose, run.missing) == ("--engine tensorrt", ("tensorrt",))
    assert build.missing[0] == "tensorrt"
    assert "nvcc" not in build.missing
    assert build.command.startswith("sudo apt-get install nvidia-jetpack")
    assert verb(report, "build").ready  # its graphs need none of it


def test_a_driver_on_a_server_and_none_at_all(tmp_path: Path, pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tensorrt=None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert find_nvidia(tmp_path) == doctor.Nvidia()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan\n"
    )
    found = find_nvidia(tmp_path)
    assert (found.driver, found.board, found.jetpack) == ("570.86.15", "", "")


@pytest.mark.parametrize(
    ("architecture", "isa", "features"),
    [
        ("x86_64", ("avx2", "avx_vnni"), {"AVX2": True, "FMA": False, "AVX-512": False, "VNNI": True}),
        ("aarch64", ("asimd", "asimddp"), {"dotprod": True, "fp16": False, "bf16": False, "i8mm": False}),
    ],
)
def test_features(monkeypatch: pytest.MonkeyPatch, architecture: str, isa: tuple[str, ...], features: dict[str, Any]) -> None:
    import msgspec

    host = msgspec.structs.replace(doctor.read_host(), isa=isa)
    monkeypatch.setattr(doctor, "read_host", lambda: host)
    monkeypatch.setattr("platform.machine", lambda: architecture)
    assert examine([]).machine.features == features
