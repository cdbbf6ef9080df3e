"""What is installed here, what is missing for which verb, and what mends it; nothing heavy is imported to find out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

import boards
from runtime.errors import MismatchError
from runtime.manifest import PRECISIONS
from runtime.native import library_path
from runtime.native.library import instruction_sets, load_library, products, version
from star_edge import __version__
from star_edge.bench.host import read_host
from star_edge.bench.jetson import ask_nvpmodel, read_power_mode
from star_edge.dependencies import (
    BASE,
    EXTRAS,
    PACKAGES,
    PYTHON,
    TESTED_PYTHON,
    VERBS,
    Package,
    fits,
    install_command,
)

SCHEMA = "star-edge/doctor/1"
State = Literal["ok", "missing", "other version", "broken"]

# what an engine's speed in fp16 and int8 depends on: a name for people, and the flags of /proc/cpuinfo that mean it
_FEATURES: dict[str, dict[str, tuple[str, ...]]] = {
    "x86": {"AVX2": ("avx2",), "FMA": ("fma",), "AVX-512": ("avx512f",), "VNNI": ("avx512_vnni", "avx_vnni")},
    "arm": {"dotprod": ("asimddp",), "fp16": ("asimdhp",), "bf16": ("bf16",), "i8mm": ("i8mm",)},
}
_NEEDS_TENSORRT = ("build",)  # verbs that do nothing without it
# verb -> what it can do with TensorRT
_WITH_TENSORRT = {
    "build": "an engine for this machine",
    "verify": "--engine tensorrt",
    "bench": "TensorRT beside PyTorch on a GPU",
    "run": "--engine tensorrt",
}
_SUPPORTED = "star-edge boards"  # says what a refused board has to be flashed with


class PythonFound(msgspec.Struct, frozen=True):
    """The interpreter; ``state`` compares it with the versions asked for."""

    version: str
    tested: str
    executable: str
    virtual_environment: bool
    state: State


class Machine(msgspec.Struct, frozen=True):
    """The processor: cores this process may use, and which of the features that engines gain from it has."""

    system: str
    architecture: str
    cpu: str
    cores: int
    memory_mb: int | None
    features: dict[str, bool]


class Nvidia(msgspec.Struct, frozen=True):
    """What shows of NVIDIA's parts; each is empty where it is not seen.

    Attributes:
        driver: version of the kernel driver. nvidia_smi: path of the program.
        board: a Jetson's model; board_name: its name in ``star-edge boards``. jetson_linux: its release, e.g. 36.4.3.
        jetpack: the version that goes with it. power_mode: as nvpmodel names it.
        tensorrt: version of the Python package, or path of the library. cuda: version of the toolkit. nvcc: path of the compiler.
        refused: why no TensorRT engine of ours can be built or run on this Jetson; empty where one can.
    """

    driver: str = ""
    nvidia_smi: str = ""
    board: str = ""
    jetson_linux: str = ""
    jetpack: str = ""
    tensorrt: str = ""
    board_name: str = ""
    power_mode: str = ""
    cuda: str = ""
    nvcc: str = ""
    refused: str = ""


class _CudaVersion(msgspec.Struct):
    version: str


class _CudaVersions(msgspec.Struct):
    cuda: _CudaVersion


class NativeFound(msgspec.Struct, frozen=True):
    """The native runtime, a part of every installation.

    Attributes:
        library: where it is. version: its own.
        instruction_sets: those it has and this processor too, best first.
        products: precision -> instruction that multiplies in it here.
        problem: what is wrong with it, and then nothing else is known; empty where it is as it should be.
        command: what mends it.
    """

    library: str = ""
    version: str = ""
    instruction_sets: str = ""
    products: dict[str, str] = {}
    problem: str = ""
    command: str = ""


class PackageFound(msgspec.Struct, frozen=True):
    """A package: version found (empty: none), versions asked for, the tested one, and the extras that bring it."""

    name: str
    found: str
    wanted: str
    tested: str
    extras: tuple[str, ...]
    state: State


class ToolFound(msgspec.Struct, frozen=True):
    """A program or file of the system: where it is (empty: nowhere), what it is for, and the command that brings it."""

    name: str
    found: str
    purpose: str
    command: str


class OptionFound(msgspec.Struct, frozen=True):
    """Something a verb can do more, the packages missing for it, and the command that brings them."""

    purpose: str
    missing: tuple[str, ...]
    command: str


class VerbFound(msgspec.Struct, frozen=True):
    """Whether a verb has what it needs, what it lacks, the command that mends it, and its options."""

    verb: str
    ready: bool
    missing: tuple[str, ...]
    command: str
    options: tuple[OptionFound, ...]


class DoctorReport(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``star-edge doctor --json``. ``command`` mends all verbs asked about; empty when they are ready."""

    star_edge_version: str = __version__
    python: PythonFound
    machine: Machine
    nvidia: Nvidia
    native: NativeFound
    packages: tuple[PackageFound, ...]
    tools: tuple[ToolFound, ...]
    verbs: tuple[VerbFound, ...]
    ready: bool
    command: str
    schema: str = SCHEMA


def examine(verbs: Sequence[str], root: Path = Path("/")) -> DoctorReport:
    """Everything about ``verbs``, names of :data:`star_edge.dependencies.VERBS`; ``root`` is where the system's files are."""
    packages = {name: find_package(package) for name, package in PACKAGES.items()}
    native = find_native()
    nvidia = find_nvidia(root)
    found = tuple(_verb(verb, packages, native, nvidia) for verb in verbs)
    lacking = [verb.verb for verb in found if not verb.ready]
    missing = [package for verb in found for package in verb.missing]
    refused = nvidia.refused and any(verb in _NEEDS_TENSORRT for verb in verbs)
    return DoctorReport(
        python=_python(),
        machine=_machine(),
        nvidia=nvidia,
        native=native,
        packages=tuple(packages.values()),
        tools=_tools(),
        verbs=found,
        ready=not lacking,
        command=_mend([VERBS[verb].extra for verb in lacking], missing, packages)
        or native.command
        or (_SUPPORTED if refused else ""),
    )


def find_package(package: Package) -> PackageFound:
    """A package as it is installed, looked up in its metadata and never imported."""
    present = importlib.util.find_spec(package.module) is not None
    version = _version(package.name) or (_version_of_provider(package.module) if present else "")
    state: State = "ok"
    if not present:
        state = "broken" if version else "missing"
    elif version and not fits(version, package.versions):
        state = "other version"
    extras = ("base",) if package.name in BASE else tuple(e for e, held in EXTRAS.items() if package.name in held)
    return PackageFound(
        package.name, version or ("unknown" if present else ""), package.versions, package.tested, extras, state
    )


def find_nvidia(root: Path = Path("/")) -> Nvidia:
    """NVIDIA's driver, board and TensorRT, from files below ``root`` and the metadata of packages."""
    driver = re.search(r"Kernel Module\s.*?(\d+\.\d+(?:\.\d+)?)", _read(root / "proc/driver/nvidia/version"))
    libraries = sorted(root.glob("usr/lib/*/libnvinfer.so*"), key=lambda path: len(path.name))
    nvcc = root / "usr/local/cuda/bin/nvcc"
    jetson = boards.detect(root)
    found = Nvidia(
        driver=driver[1] if driver else "",
        nvidia_smi=shutil.which("nvidia-smi") or "",
        tensorrt=_version("tensorrt") or (str(libraries[-1]) if libraries else ""),  # the longest name has the version
        cuda=_cuda_version(root),
        nvcc=str(nvcc) if nvcc.is_file() else shutil.which("nvcc") or "",
    )
    if jetson is None:
        return found
    return msgspec.structs.replace(
        found,
        board=jetson.model,
        board_name=jetson.board,
        jetson_linux=jetson.l4t,
        jetpack=jetson.jetpack,
        power_mode=read_power_mode(root, ask_nvpmodel() if root == Path("/") else "")[1] or "",
        refused=jetson.refused,
    )


def find_native() -> NativeFound:
    """The library as it is installed, loaded; it takes milliseconds."""
    try:
        library = load_library()
    except MismatchError as error:
        return NativeFound(problem=f"{error.what}: {error.found}", command=error.hint or "")
    return NativeFound(
        library=str(library_path()),
        version=version(library),
        instruction_sets=instruction_sets(library),
        products={precision: products(library, precision) for precision in PRECISIONS},
    )


def _cuda_version(root: Path) -> str:
    """Version of the CUDA toolkit, as it says itself."""
    try:
        return msgspec.json.decode(_read(root / "usr/local/cuda/version.json"), type=_CudaVersions).cuda.version
    except msgspec.DecodeError:
        return ""


def _verb(verb: str, packages: dict[str, PackageFound], native: NativeFound, nvidia: Nvidia) -> VerbFound:
    needs = VERBS[verb]
    missing = _missing(needs.packages, packages)
    options = []
    for option in needs.options:
        lacking = _missing(option.packages, packages)
        options.append(OptionFound(option.purpose, lacking, _mend([option.extra], lacking, packages)))
    if verb in _WITH_TENSORRT:
        options.append(_with_tensorrt(verb, nvidia))
    command = _mend([needs.extra], missing, packages) or native.command
    refused = verb in _NEEDS_TENSORRT and nvidia.refused
    ready = not (missing or native.problem or refused)
    return VerbFound(verb, ready, missing, command or (_SUPPORTED if refused else ""), tuple(options))


def _with_tensorrt(verb: str, nvidia: Nvidia) -> OptionFound:
    """What a verb lacks to use TensorRT here. Its module, the compiler and CMake are no packages that pip could bring."""
    needed = {"tensorrt": importlib.util.find_spec("tensorrt") is not None}
    if verb in _NEEDS_TENSORRT:
        needed |= {"nvcc": bool(nvidia.nvcc), "cmake": shutil.which("cmake") is not None}
    missing = tuple(name for name, found in needed.items() if not found)
    if nvidia.refused:
        command = _SUPPORTED
    elif nvidia.board:
        command = "sudo apt-get install nvidia-jetpack cmake, and python3 -m venv --system-site-packages"
    else:
        command = "a Jetson: docs/first-hour.md"
    return OptionFound(_WITH_TENSORRT[verb], missing, command if missing else "")


def _missing(names: Sequence[str], packages: dict[str, PackageFound]) -> tuple[str, ...]:
    """Packages that are not there as they are asked for; those of the base install count for every verb."""
    return tuple(name for name in (*BASE, *names) if packages[name].state != "ok")


def _mend(extras: Sequence[str], missing: Sequence[str], packages: dict[str, PackageFound]) -> str:
    """The command that brings what is missing; one that is there in part has to be put there again."""
    if not missing:
        return ""
    broken = sorted({name for name in missing if packages[name].state == "broken"})
    pinned = " ".join(f"'{name}{PACKAGES[name].versions}'" for name in broken)
    again = [f"pip install --force-reinstall --no-deps {pinned}"]
    rest = [name for name in missing if packages[name].state != "broken"]
    install = install_command(extras) or "pip install --upgrade star-edge"
    return " && ".join([*(again if broken else []), *([install] if rest else [])])


def _python() -> PythonFound:
    version = platform.python_version()
    return PythonFound(
        version=version,
        tested=TESTED_PYTHON,
        executable=sys.executable,
        virtual_environment=sys.prefix != sys.base_prefix,
        state="ok" if fits(version, PYTHON) else "other version",
    )


def _machine() -> Machine:
    host = read_host()
    architecture = platform.machine()
    kind = "arm" if architecture.lower().startswith(("aarch64", "arm")) else "x86"
    return Machine(
        system=host.system,
        architecture=architecture,
        cpu=host.cpu,
        cores=host.cores,
        memory_mb=host.memory_mb,
        features={name: any(flag in host.isa for flag in flags) for name, flags in _FEATURES[kind].items()},
    )


def _tools() -> tuple[ToolFound, ...]:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), "")
    return (
        ToolFound("C compiler", compiler, "bench measures the limit of the processor with it", "apt-get install gcc"),
        ToolFound("g++", shutil.which("g++") or "", "make pyg, and torch.compile in bench", "apt-get install g++"),
        ToolFound("Python.h", str(header) if header.is_file() else "", "make pyg", "apt-get install python3-dev"),
        ToolFound("make", shutil.which("make") or "", "make pyg and the rest of make help", "apt-get install make"),
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _version_of_provider(module: str) -> str:
    """Version of another distribution that brings a module, e.g. a board's own build of ONNX Runtime."""
    providers = importlib.metadata.packages_distributions().get(module, [])
    return next((version for name in providers if (version := _version(name))), "")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
