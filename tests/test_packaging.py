"""What is installed: the wheel, the extras, the pinned versions, the Makefile's set-up."""

from __future__ import annotations

import ctypes
import fcntl
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import star_edge
from runtime.errors import MismatchError
from runtime.native import library_path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("star_edge", "runtime", "exporters", "calibration", "boards")
# what every Linux has; anything else would have to be installed on a board beside the library
SYSTEM_LIBRARIES = {"libc.so.6", "libgcc_s.so.1", "libm.so.6", "libstdc++.so.6"}
EXTRAS_OF_MAKE = ("train", "calibrate", "report", "browser", "dev", "pyg", "peers", "tensorrt-rtx", "fuzz")


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> dict[str, list[str]]:
    """Extra -> requirements, as pyproject.toml stands; the installed metadata may be older. Python 3.10 reads no TOML."""
    text = (REPOSITORY / "pyproject.toml").read_text()
    extras = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    lists = re.findall(r"^([a-z-]+) = \[(.*?)\]$", extras, re.MULTILINE | re.DOTALL)
    base = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert base
    return {name: re.findall(r'"([^"]+)"', re.sub("#.*", "", body)) for name, body in [("", base[1]), *lists]}


def run(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in the environment of a shell that no make has started."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        timeout=600,
        env={**inherited, **environment},
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the source distribution, which so is known to be whole."""
    out = tmp_path_factory.mktemp("wheel")
    make_sdist = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    packed = run(sys.executable, "-c", make_sdist, out, cwd=REPOSITORY)
    assert packed.returncode == 0, packed.stderr
    (sdist,) = out.glob("star_edge-*.tar.gz")
    built = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, sdist)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = out.glob("star_edge-*.whl")
    return found


def belongs_into_the_wheel(path: Path) -> bool:
    """Of the native runtime only the header, for programs that link it; of CUDA and plugins all, which boards compile."""
    native = REPOSITORY / "runtime" / "native"
    is_source = (
        native in path.parents and path.parent != native and not {native / "include", native / "cuda"} & {*path.parents}
    )
    return path.is_file() and "__pycache__" not in path.parts and path != native / "CMakeLists.txt" and not is_source


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages_and_the_licences(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if belongs_into_the_wheel(path)
    }
    library = "runtime/native/lib/libstar_edge.so"
    assert {name for name in held if name.split("/")[0] in PACKAGES} == files | {library}
    assert {name.split("/")[-1] for name in held if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    assert any(name.endswith("/scripts/star-run") for name in held)
    assert {name.split("/")[0] for name in held if not re.search(r"\.(dist-info|data)/", name)} == set(PACKAGES)


@pytest.mark.slow
def test_the_wheel_fits_every_python_and_stays_small(wheel: Path) -> None:
    assert re.search(r"-py3-none-linux_\w+\.whl$", wheel.name)
    assert wheel.stat().st_size <= 5_000_000


@pytest.mark.slow
def test_what_the_wheel_brings_needs_nothing_beside_it(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    (program,) = tmp_path.glob("*.data/scripts/star-run")
    for binary in (program, tmp_path / "runtime" / "native" / "lib" / "libstar_edge.so"):
        listed = run("readelf", "--dynamic", "--wide", binary)
        needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", listed.stdout))
        assert needed
        assert {name for name in needed if not name.startswith("ld-linux")} <= SYSTEM_LIBRARIES


def test_the_installed_library_is_of_this_version() -> None:
    """`make native` after a change of the C++ keeps it so."""
    library = ctypes.CDLL(str(library_path()))
    library.star_version.restype = ctypes.c_char_p
    assert library.star_version().decode() == star_edge.__version__


def test_the_library_shows_only_its_c_interface() -> None:
    listed = run("nm", "--dynamic", "--defined-only", "--format=posix", library_path())
    names = {line.split()[0] for line in listed.stdout.splitlines()}
    assert names
    assert {name for name in names if not name.startswith("star_")} == set()


def test_a_missing_library_names_the_command_that_builds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("runtime.native.__path__", [str(tmp_path)])
    with pytest.raises(MismatchError, match="make native") as failure:
        library_path()
    assert failure.value.expected == str(tmp_path / "lib" / "libstar_edge.so")


def test_every_extra_that_a_message_names_exists() -> None:
    named = {}
    for package in PACKAGES:
        for path in (REPOSITORY / package).rglob("*.py"):
            for group in re.findall(r"star-edge\[([a-z,-]+)\]", path.read_text()):
                named.update(dict.fromkeys(group.split(","), path))
            for extra in re.findall(r"MissingDependencyError\([^()]*, \"([a-z-]+)\",", path.read_text()):
                named[extra] = path
    assert named
    assert {extra: path for extra, path in named.items() if extra not in declared()} == {}


def test_everything_that_make_installs_is_pinned() -> None:
    """Follows the requirements of the installed distributions, from the extras that the Makefile asks for."""
    from packaging.requirements import Requirement

    pinned = {
        normalised(line.split("==")[0]) for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line
    }
    project = declared()
    seen: set[tuple[str, str]] = set()
    waiting = [("star-edge", extra) for extra in ("", *EXTRAS_OF_MAKE)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            requirements = project.get(extra, []) if name == "star-edge" else importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an optional part that make check installs; checked there
        for text in requirements:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(normalised(requirement.name), part) for part in ("", *requirement.extras)]
    installed = {name for name, _ in seen}
    assert {"torch", "onnx", "pytest"} <= installed
    assert installed - pinned - {"star-edge"} == set()


def test_make_help_lists_the_targets() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    listed = run("make", "help", cwd=REPOSITORY)
    assert listed.returncode == 0, listed.stderr
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert phony
    for target in phony[1].replace("\\\n", " ").split():
        assert re.search(rf"^  {target} +\w", listed.stdout, re.MULTILINE), target


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "make PYTHON=/path/to/python3"),
        ('[ "$1" = -V ] && echo Python 3.9.2; exit 1', "needs Python 3.10 or newer, .* is Python 3.9.2"),
        ('case "$2" in *ensurepip*) exit 1;; esac', "apt-get install python3-venv"),
    ],
    ids=["none", "old", "without venv"],
)
def test_set_up_says_which_python_it_lacks(tmp_path: Path, script: str | None, message: str) -> None:
    python, environment = tmp_path / "python", tmp_path / "venv"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    made = run("make", f"{environment}/stamps/venv", f"VENV={environment}", f"PYTHON={python}", cwd=REPOSITORY)
    assert made.returncode != 0
    assert re.search(message, made.stderr)
    assert not environment.exists()


@pytest.mark.slow
@pytest.mark.parametrize("state", ["killed while made", "killed while installing"])
def test_set_up_makes_a_half_made_environment_afresh(tmp_path: Path, state: str) -> None:
    """Without pyvenv.cfg the link to python is the system's Python; nothing may be installed through it."""
    environment = tmp_path / "venv"
    if state == "killed while made":
        (environment / "bin").mkdir(parents=True)
        (environment / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    else:
        (environment / "stamps").mkdir(parents=True)
        (environment / "stamps" / "interrupted").touch()
        (environment / "left over").touch()
    made = run("make", f"{environment}/stamps/venv", f"VENV={environment}", f"PYTHON={sys.executable}", cwd=REPOSITORY)
    assert made.returncode == 0, made.stderr
    assert (environment / "pyvenv.cfg").is_file()
    assert not (environment / "left over").exists()
    assert not (environment / "stamps" / "interrupted").exists()


def test_set_up_leaves_an_environment_alone_into_which_another_make_installs(tmp_path: Path) -> None:
    stamps = tmp_path / "venv" / "stamps"
    stamps.mkdir(parents=True)
    (stamps / "interrupted").touch()  # as it is while pip is at work
    with (stamps / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = run("make", f"{stamps}/venv", f"VENV={tmp_path / 'venv'}", f"PYTHON={sys.executable}", cwd=REPOSITORY)
    assert made.returncode != 0
    assert "another make is installing into" in made.stderr
    assert (stamps / "interrupted").exists()


def interpreters() -> list[str]:
    """This Python, and those on PATH that the package supports."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    for minor in range(10, 14):
        path = shutil.which(f"python3.{minor}")
        if path and f"3.{minor}" not in found and run(path, "-c", "import venv, ensurepip").returncode == 0:
            found[f"3.{minor}"] = path
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("python", interpreters(), ids=lambda path: Path(path).name)
def test_a_clean_install_runs_a_bundle_without_torch(python: str, wheel: Path, star_bundle: Path, tmp_path: Path) -> None:
    """``pip install star-edge`` recognises with the native engine; with ``[onnx]`` ONNX Runtime does, too."""
    environment = tmp_path / "venv"
    assert run(python, "-m", "venv", environment).returncode == 0
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--constraint", REPOSITORY / "constraints.txt"]
    plain = run(*pip, wheel)
    assert plain.returncode == 0, plain.stderr
    self_test = [environment / "bin" / "star-edge", "run", star_bundle, "--self-test"]
    for command in (self_test, [environment / "bin" / "star-run", star_bundle, "--self-test"]):
        tested = run(*command, cwd=tmp_path)
        assert tested.returncode == 0, tested.stderr
        assert "self-test passed" in tested.stdout
    refused = run(*self_test, "--engine", "onnxruntime", cwd=tmp_path)
    assert refused.returncode == 4
    assert "pip install 'star-edge[onnx]'" in refused.stderr
    extra = run(*pip, f"{wheel}[onnx]")
    assert extra.returncode == 0, extra.stderr
    tested = run(*self_test, "--engine", "onnxruntime", cwd=tmp_path)
    assert tested.returncode == 0, tested.stderr
    assert "self-test passed" in tested.stdout
    assert run(environment / "bin" / "python", "-c", "import torch").returncode != 0
