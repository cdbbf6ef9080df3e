"""Facts about the machine without which a latency says nothing."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from star_edge.bench.jetson import read_jetson
from star_edge.bench.report import Host

_CPU = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_PACKAGES = ("star-edge", "numpy", "torch", "onnxruntime", "openvino", "torch-scatter", "torch-sparse")
# x86 and Arm instruction sets that decide how fast products of float32, float16 and int8 are
_ISA = ("sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_int8",
        "amx_bf16", "asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve")  # fmt: skip


def read_host() -> Host:
    """What this machine tells about itself now."""
    cpuinfo = _fields(_read(Path("/proc/cpuinfo")))
    flags = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    lowest, highest = (_number(_read(_CPU / f"scaling_{end}_freq")) for end in ("min", "max"))
    return Host(
        cpu=cpuinfo.get("model name") or platform.processor() or platform.machine(),
        cores=usable_cores(),
        isa=tuple(name for name in _ISA if name in flags),
        governor=_read(_CPU / "scaling_governor").strip(),
        clock_mhz=_clock(cpuinfo),
        clocks_locked=None if lowest is None or highest is None else lowest == highest,
        memory_mb=_memory(),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        system=platform.platform(),
        versions={"python": platform.python_version()} | {name: found for name in _PACKAGES if (found := _version(name))},
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        jetson=read_jetson(),
    )


def usable_cores() -> int:
    """Cores this process may run on; fewer than the machine has inside a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _clock(cpuinfo: dict[str, str]) -> float | None:
    kilohertz = _number(_read(_CPU / "scaling_cur_freq"))
    return kilohertz / 1000 if kilohertz is not None else _number(cpuinfo.get("cpu MHz", ""))


def _memory() -> int | None:
    kilobytes = _fields(_read(Path("/proc/meminfo"))).get("MemTotal", "").split()
    return int(kilobytes[0]) // 1024 if kilobytes else None


def _fields(text: str) -> dict[str, str]:
    """``key : value`` lines; of repeated keys the first counts."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
