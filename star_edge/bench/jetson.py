"""What a Jetson tells of itself: power mode, clocks, temperatures, throttling, power. Read from files and ``nvpmodel -q``.

Nothing here changes anything or needs root. What is not there or cannot be read is None or empty. The places are those of JetPack
6 on Orin and JetPack 7 on Thor; they were taken from descriptions, and no board has been read.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

import boards

_GPU = re.compile(r"gpu|ga10b|gv11b")
_EMC = re.compile(r"emc|bwmgr")
_UNCAPPED_HZ = 1e12  # nvpmodel writes the largest integer where there is no cap
_LIMIT_S = 10


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """A clock as its driver names it, in MHz; the least equals the most where it is pinned."""

    name: str
    mhz: float | None = None
    min_mhz: float | None = None
    max_mhz: float | None = None


class Rail(msgspec.Struct, frozen=True, kw_only=True):
    """A power rail at one instant."""

    name: str
    millivolts: int | None = None
    milliamps: int | None = None
    milliwatts: int | None = None


class JetsonState(msgspec.Struct, frozen=True, kw_only=True):
    """A Jetson at one instant.

    Attributes:
        board: name of :func:`boards.load`, empty where it is not in the table. model: as the device tree names it.
        l4t, jetpack: release of Jetson Linux, and the JetPack it belongs to.
        power_mode, power_mode_id: as nvpmodel names and numbers it.
        jetson_clocks: whether the GPU's and all processors' clocks are pinned, as the command of that name does.
        gpu_tpc_mask: which parts of the GPU the mode leaves on, as the driver writes it.
        temperatures_c: by thermal zone. throttled: cooling devices at work, fans apart; empty when none is, None: not told.
        over_current_events: since the start of the system, by detector.
    """

    board: str = ""
    model: str = ""
    l4t: str = ""
    jetpack: str = ""
    power_mode: str | None = None
    power_mode_id: int | None = None
    gpu_clocks: tuple[Clock, ...] = ()
    emc_clock: Clock | None = None
    jetson_clocks: bool | None = None
    gpu_tpc_mask: str | None = None
    temperatures_c: dict[str, float] = {}
    throttled: tuple[str, ...] | None = None
    over_current_events: dict[str, int] = {}
    rails: tuple[Rail, ...] = ()


def ask_nvpmodel() -> str:
    """What ``nvpmodel -q`` prints; empty where there is none, or it fails."""
    program = shutil.which("nvpmodel")
    if program is None:
        return ""
    try:
        done = subprocess.run([program, "-q"], capture_output=True, text=True, errors="replace", timeout=_LIMIT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def read_jetson(root: Path = Path("/"), query: Callable[[], str] = ask_nvpmodel) -> JetsonState | None:
    """The Jetson whose files stand under ``root``, now; None on another machine."""
    found = boards.detect(root)
    if found is None:
        return None
    gpu = tuple(_devfreq(root, _GPU))
    number, name = read_power_mode(root, query())
    return JetsonState(
        board=found.board,
        model=found.model,
        l4t=found.l4t,
        jetpack=found.jetpack,
        power_mode=name,
        power_mode_id=number,
        gpu_clocks=gpu,
        emc_clock=_emc(root),
        jetson_clocks=_pinned(root, gpu),
        gpu_tpc_mask=_first(root, "sys/devices/platform/gpu.0/tpc_pg_mask", "sys/devices/gpu.0/tpc_pg_mask"),
        temperatures_c=_temperatures(root),
        throttled=_throttled(root),
        over_current_events=_over_current(root),
        rails=tuple(_rails(root)),
    )


def read_power_mode(root: Path, answer: str) -> tuple[int | None, str | None]:
    """Number and name of the power mode.

    Args:
        root: where ``/etc/nvpmodel.conf`` and nvpmodel's record of the mode are.
        answer: of ``nvpmodel -q``: ``NV Power Mode: MAXN_SUPER`` and the number in the next line, among warnings.
    """
    told = re.search(r"NV Power Mode:\s*(\S+)\s*\n\s*(\d+)\s*$", answer, re.MULTILINE)
    if told:
        return int(told[2]), told[1]
    recorded = re.search(r"pmode:\s*(\d+)", _text(root / "var/lib/nvpmodel/status") or "")
    named = re.search(r"NV Power Mode:\s*(\S+)", answer)
    number = int(recorded[1]) if recorded else None
    if named:
        return number, named[1]
    configured = _text(root / "etc/nvpmodel.conf") or ""
    modes = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)", configured, re.MULTILINE)
    return number, next((name for mode, name in modes if int(mode) == number), None)


def describe(state: JetsonState) -> str:
    """The state in a line for people."""
    words = [
        state.board or state.model or "a Jetson",
        f"JetPack {state.jetpack}" if state.jetpack else f"L4T {state.l4t or '?'}",
    ]
    words.append(f"power mode {state.power_mode or 'not told'}")
    words += [f"{clock.name} {clock.mhz:.0f} MHz" for clock in state.gpu_clocks if clock.mhz is not None]
    words.append("jetson_clocks " + {True: "on", False: "off", None: "not told"}[state.jetson_clocks])
    if state.temperatures_c:
        words.append(f"{max(state.temperatures_c.values()):.0f} °C at most")
    words += [f"{rail.name} {rail.milliwatts / 1000:.1f} W" for rail in state.rails if rail.milliwatts is not None]
    return ", ".join(words)


def warnings(before: JetsonState, after: JetsonState | None) -> list[str]:
    """What makes the latencies between two states doubtful, in sentences."""
    found = []
    if before.jetson_clocks is False:
        found.append("The clocks were free to change: sudo jetson_clocks pins them.")
    if after is None:
        return found
    if (before.power_mode, before.power_mode_id) != (after.power_mode, after.power_mode_id):
        found.append(f"The power mode changed meanwhile, from {before.power_mode} to {after.power_mode}.")
    throttled = sorted({*(before.throttled or ()), *(after.throttled or ())})
    if throttled:
        found.append(f"The board was throttled by {', '.join(throttled)}: let it cool, or give it a fan.")
    events = {
        name: count - before.over_current_events.get(name, count)
        for name, count in after.over_current_events.items()
        if count > before.over_current_events.get(name, count)
    }
    if events:
        counts = ", ".join(f"{name} {count} times" for name, count in events.items())
        found.append(f"Too much current was drawn, which lowers clocks: {counts}.")
    return found


def _devfreq(root: Path, wanted: re.Pattern[str]) -> Iterator[Clock]:
    for folder in _folders(root, "sys/class/devfreq/*"):
        clock = Clock(
            name=folder.name,
            mhz=_megahertz(folder / "cur_freq"),
            min_mhz=_megahertz(folder / "min_freq"),
            max_mhz=_megahertz(folder / "max_freq"),
        )
        if wanted.search(folder.name) and (clock.mhz, clock.max_mhz) != (None, None):
            yield clock


def _emc(root: Path) -> Clock | None:
    """The memory's clock: a driver's on Thor; on Orin the cap alone is told to everyone, the clock to root."""
    driven = next(_devfreq(root, _EMC), None)
    if driven is not None:
        return driven
    clock = _megahertz(root / "sys/kernel/debug/bpmp/debug/clk/emc/rate")
    cap = _megahertz(root / "sys/kernel/nvpmodel_clk_cap/emc")
    return None if clock is None and cap is None else Clock(name="emc", mhz=clock, max_mhz=cap)


def _pinned(root: Path, gpu: tuple[Clock, ...]) -> bool | None:
    """Whether every clock of the GPU and of the processors has one value left to take; None where one is not told."""
    ends = [(clock.min_mhz, clock.max_mhz) for clock in gpu]
    for policy in _folders(root, "sys/devices/system/cpu/cpufreq/policy*"):
        ends.append((_number(policy / "scaling_min_freq"), _number(policy / "scaling_max_freq")))
    if not gpu or any(None in pair for pair in ends):
        return None
    return all(least == most for least, most in ends)


def _temperatures(root: Path) -> dict[str, float]:
    """Zones of parts that are switched off cannot be read, and are left out."""
    zones = _folders(root, "sys/class/thermal/thermal_zone*")
    read = ((_text(zone / "type"), _number(zone / "temp")) for zone in zones)
    return {name: value / 1000 for name, value in read if name and value is not None}


def _throttled(root: Path) -> tuple[str, ...] | None:
    devices = _folders(root, "sys/class/thermal/cooling_device*")
    states = [(_text(device / "type"), _number(device / "cur_state")) for device in devices]
    told = [(name, state) for name, state in states if name and state is not None and "fan" not in name]
    return tuple(name for name, state in told if state > 0) if told else None


def _over_current(root: Path) -> dict[str, int]:
    counters = _folders(root, "sys/class/hwmon/hwmon*/oc*_event_cnt")
    read = ((counter.name.removesuffix("_event_cnt"), _number(counter)) for counter in counters)
    return {name: count for name, count in read if count is not None}


def _rails(root: Path) -> Iterator[Rail]:
    """Channels of INA3221 (Orin, Thor) and INA238 (Thor) power monitors; those without a label are named by their chip."""
    for chip in _folders(root, "sys/class/hwmon/hwmon*"):
        kind = _text(chip / "name") or ""
        if not kind.startswith("ina"):
            continue
        for current in _folders(chip, "curr*_input"):
            channel = current.name.removeprefix("curr").removesuffix("_input")
            name = _text(chip / f"in{channel}_label") or kind
            voltage, amperage = _number(chip / f"in{channel}_input"), _number(current)
            power = None if voltage is None or amperage is None else voltage * amperage // 1000
            if name != "NC" and not (voltage is None and amperage is None):
                yield Rail(name=name, millivolts=voltage, milliamps=amperage, milliwatts=power)


def _folders(root: Path, pattern: str) -> list[Path]:
    """What matches, in the order of its numbers; nothing where it cannot be listed."""
    try:
        return sorted(root.glob(pattern), key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)] or [0])
    except OSError:
        return []


def _megahertz(path: Path) -> float | None:
    hertz = _number(path)
    return None if hertz is None or hertz > _UNCAPPED_HZ else hertz / 1e6


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,20}", text) else None


def _first(root: Path, *places: str) -> str | None:
    return next((text for place in places if (text := _text(root / place))), None)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0\n\t ")
    except OSError:
        return None
