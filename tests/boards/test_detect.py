"""Which board a machine is, from trees of files as Jetson Linux has them."""

from __future__ import annotations

from pathlib import Path

import pytest

import boards
from boards import detect


def tree(root: Path, **files: str) -> Path:
    """Files under ``root``: model, compatible, release and dpkg."""
    places = {
        "model": "proc/device-tree/model",
        "compatible": "proc/device-tree/compatible",
        "release": "etc/nv_tegra_release",
        "dpkg": "var/lib/dpkg/status",
    }
    for name, text in files.items():
        path = root / places[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    return root


RELEASE = (
    "# R{0} (release), REVISION: {1}, GCID: 43688277, BOARD: generic, EABI: aarch64, DATE: Fri Jan 16 03:50:45 UTC 2026\n"
)
DPKG = (
    "Package: nvidia-l4t-bootloader\nVersion: 1.2.3\n\nPackage: nvidia-l4t-core\nStatus: install ok installed\n"
    "Version: {0}-20250107174145\n\nPackage: zlib1g\nVersion: 9.9.9\n"
)


def test_an_orin_nano(tmp_path: Path) -> None:
    found = detect(
        tree(
            tmp_path,
            model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
            compatible="nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
            release=RELEASE.format(36, "4.7"),
        )
    )
    assert found == boards.Detected(
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        compatible=("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
        board="orin-nano-8gb",
        l4t="36.4.7",
        jetpack="6.2.1",
        refused="",
    )


def test_a_thor_whose_release_only_the_package_tells(tmp_path: Path) -> None:
    found = detect(
        tree(
            tmp_path,
            model="NVIDIA Jetson AGX Thor Developer Kit\0",
            compatible="nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0",
            dpkg=DPKG.format("38.2.1"),
        )
    )
    assert found is not None
    assert (found.board, found.l4t, found.jetpack, found.refused) == ("thor-t5000", "38.2.1", "7.0", "")


@pytest.mark.parametrize("module", ["p3767-0000", "p3767-0001", "p3767-0003", "p3767-0004", "p3701-0004", "p3701-0005"])
def test_a_module_on_a_carrier_of_another_maker(tmp_path: Path, module: str) -> None:
    found = detect(tree(tmp_path, compatible=f"maker,carrier\0nvidia,{module}\0nvidia,tegra234\0"))
    assert found is not None
    modules = boards.load(found.board).facts.module_ids
    assert modules
    assert module in modules.value


def test_what_is_not_in_the_table_is_not_guessed(tmp_path: Path) -> None:
    """The first AGX Orin developer kit has 32 GB and is not the 32 GB module."""
    found = detect(
        tree(
            tmp_path,
            model="NVIDIA Jetson AGX Orin Developer Kit\0",
            compatible="nvidia,p3737-0000+p3701-0000\0nvidia,p3701-0000\0nvidia,tegra234\0",
            release=RELEASE.format(40, "1"),
        )
    )
    assert found is not None
    assert (found.board, found.l4t, found.jetpack, found.refused) == ("", "40.1", "", "")


def test_what_is_refused(tmp_path: Path) -> None:
    xavier = detect(tree(tmp_path / "xavier", compatible="nvidia,p3509-0000+p3668-0000\0nvidia,tegra194\0"))
    assert xavier is not None
    assert "last line for Xavier" in xavier.refused
    orin = "nvidia,p3767-0000\0nvidia,tegra234\0"
    old = detect(tree(tmp_path / "old", compatible=orin, release=RELEASE.format(35, "4.1")))
    assert old is not None
    assert (old.jetpack, old.board) == ("5", "orin-nx-16gb")
    assert "TensorRT 8.5 has no IPluginV3" in old.refused
    older = detect(tree(tmp_path / "older", release=RELEASE.format(32, "7.1")))
    assert older is not None
    assert "older than JetPack 6.1" in older.refused


def test_another_machine_is_none(tmp_path: Path) -> None:
    assert detect(tmp_path) is None
    assert detect(tree(tmp_path, model="Raspberry Pi 5\0", compatible="raspberrypi,5-model-b\0brcm,bcm2712\0")) is None


@pytest.mark.parametrize("garbage", ["", "\0\0", "\xff\xfe\x00\x80", "R (release)", "# R36 (release), REVISION: x"])
def test_garbled_files_are_nothing(tmp_path: Path, garbage: str) -> None:
    assert detect(tree(tmp_path, model=garbage, compatible=garbage, release=garbage, dpkg=garbage)) is None
    (tmp_path / "etc/nv_tegra_release").unlink()
    (tmp_path / "etc/nv_tegra_release").mkdir()
    found = detect(tree(tmp_path, compatible="nvidia,tegra234\0", dpkg="Package: nvidia-l4t-core\n"))
    assert found is not None
    assert (found.board, found.l4t, found.jetpack) == ("", "", "")
