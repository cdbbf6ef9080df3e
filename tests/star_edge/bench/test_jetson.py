"""What a Jetson tells, from trees of files as JetPack 6 on Orin and JetPack 7 on Thor have them."""

from __future__ import annotations

import msgspec
import pytest

from star_edge.bench import jetson
from star_edge.bench.jetson import Clock, JetsonState, Rail, describe, read_jetson, read_power_mode, warnings

ORIN = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, GCID: 1, BOARD: generic, EABI: aarch64\n",
    "etc/nvpmodel.conf": "< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/devices/system/cpu/cpu0/online\n"
    "# < POWER_MODEL ID=1 NAME=COMMENT >\n< POWER_MODEL ID=0 NAME=15W >\nGPU MAX_FREQ 612000000\n"
    "< POWER_MODEL ID=1 NAME=25W >\nGPU MAX_FREQ 918000000\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< PM_CONFIG DEFAULT=1 >\n",
    "var/lib/nvpmodel/status": "pmode:0001\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "918000000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "918000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "918000000\n",
    "sys/class/devfreq/15480000.nvdec/cur_freq": "793600000\n",
    "sys/kernel/nvpmodel_clk_cap/emc": "3199000000\n",
    "sys/devices/platform/gpu.0/tpc_pg_mask": "240\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "1344000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1344000\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_min_freq": "1344000\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1344000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "51562\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "49875\n",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "3\n",
    "sys/class/thermal/cooling_device1/type": "gpu-throttle-alert\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
    "sys/class/hwmon/hwmon0/name": "pwmfan\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "5080\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1168\n",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    "sys/class/hwmon/hwmon1/in2_input": "5080\n",
    "sys/class/hwmon/hwmon1/curr2_input": "240\n",
    "sys/class/hwmon/hwmon1/in3_label": "NC\n",
    "sys/class/hwmon/hwmon1/in3_input": "0\n",
    "sys/class/hwmon/hwmon1/curr3_input": "0\n",
    "sys/class/hwmon/hwmon2/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon2/oc3_event_cnt": "7\n",
}
THOR = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0",
    "etc/nv_tegra_release": "# R38 (release), REVISION: 2.1, GCID: 1, BOARD: generic, EABI: aarch64\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n",
    "sys/class/devfreq/gpu-gpc-0/cur_freq": "1575000000\n",
    "sys/class/devfreq/gpu-gpc-0/min_freq": "315000000\n",
    "sys/class/devfreq/gpu-gpc-0/max_freq": "1575000000\n",
    "sys/class/devfreq/gpu-nvd-0/cur_freq": "1692000000\n",
    "sys/class/devfreq/gpu-nvd-0/min_freq": "315000000\n",
    "sys/class/devfreq/gpu-nvd-0/max_freq": "1692000000\n",
    "sys/class/devfreq/bwmgr/cur_freq": "4266000000\n",
    "sys/class/devfreq/bwmgr/max_freq": "4266000000\n",
    "sys/kernel/nvpmodel_clk_cap/emc": "9223372036854775807\n",
    "sys/class/thermal/thermal_zone0/type": "tj-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "59400\n",
    "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0\n",
    "sys/class/thermal/cooling_device0/cur_state": "2\n",
    "sys/class/hwmon/hwmon3/name": "ina238\n",
    "sys/class/hwmon/hwmon3/in1_input": "19800\n",
    "sys/class/hwmon/hwmon3/curr1_input": "1500\n",
}


def tree(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode("latin-1"))
    return root


def test_orin(tmp_path):
    state = read_jetson(tree(tmp_path, ORIN), lambda: "NVPM WARN: no root\nNV Power Mode: 25W\n1\n")
    assert state == JetsonState(
        board="orin-nano-8gb",
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        l4t="36.4.7",
        jetpack="6.2.1",
        power_mode="25W",
        power_mode_id=1,
        gpu_clocks=(Clock(name="17000000.gpu", mhz=918, min_mhz=918, max_mhz=918),),
        emc_clock=Clock(name="emc", max_mhz=3199),
        jetson_clocks=True,
        gpu_tpc_mask="240",
        temperatures_c={"cpu-thermal": 51.562, "gpu-thermal": 49.875},
        throttled=(),
        over_current_events={"oc1": 0, "oc3": 7},
        rails=(
            Rail(name="VDD_IN", millivolts=5080, milliamps=1168, milliwatts=5933),
            Rail(name="VDD_CPU_GPU_CV", millivolts=5080, milliamps=240, milliwatts=1219),
        ),
    )
    assert describe(state) == (
        "orin-nano-8gb, JetPack 6.2.1, power mode 25W, 17000000.gpu 918 MHz, jetson_clocks on, 52 °C at most, "
        "VDD_IN 5.9 W, VDD_CPU_GPU_CV 1.2 W"
    )
    assert msgspec.json.decode(msgspec.json.encode(state), type=JetsonState) == state


def test_thor(tmp_path):
    state = read_jetson(tree(tmp_path, THOR), lambda: "NV Power Mode: 120W\n1\n")
    assert state is not None
    assert (state.board, state.jetpack, state.power_mode, state.power_mode_id) == ("thor-t5000", "7.0", "120W", 1)
    assert [(clock.name, clock.mhz) for clock in state.gpu_clocks] == [("gpu-gpc-0", 1575), ("gpu-nvd-0", 1692)]
    assert state.emc_clock == Clock(name="bwmgr", mhz=4266, max_mhz=4266)
    assert state.jetson_clocks is False
    assert state.throttled == ("cpufreq-cpu0",)
    assert state.rails == (Rail(name="ina238", millivolts=19800, milliamps=1500, milliwatts=29700),)


@pytest.mark.parametrize(
    ("answer", "mode"),
    [
        ("NV Power Mode: MAXN_SUPER\n2\n", (2, "MAXN_SUPER")),
        ("NVPM VERB: parsing done\nNVPM VERB: Current mode: NV Power Mode: 40W\n4\nNVPM VERB: PARAM\n", (4, "40W")),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_30W\n2\n", (2, "MODE_30W")),
        ("NV Power Mode: 15W\n", (1, "15W")),  # the number from nvpmodel's own record
        ("", (1, "25W")),  # no such program: record and configuration
        ("error: cannot open\n", (1, "25W")),
    ],
)
def test_the_power_mode_by_name(tmp_path, answer, mode):
    assert read_power_mode(tree(tmp_path, ORIN), answer) == mode


def test_a_mode_that_the_configuration_does_not_name(tmp_path):
    root = tree(tmp_path, {**ORIN, "var/lib/nvpmodel/status": "pmode:0009 fmode:quiet\n"})
    assert read_power_mode(root, "") == (9, None)
    (root / "var/lib/nvpmodel/status").unlink()
    assert read_power_mode(root, "") == (None, None)


def test_clocks_are_pinned_when_all_are(tmp_path):
    free = {"sys/devices/system/cpu/cpufreq/policy4/scaling_min_freq": "729600\n"}
    state = read_jetson(tree(tmp_path, {**ORIN, **free}), str)
    assert state is not None
    assert state.jetson_clocks is False
    (tmp_path / "sys/devices/system/cpu/cpufreq/policy4/scaling_min_freq").unlink()
    state = read_jetson(tmp_path, str)
    assert state is not None
    assert state.jetson_clocks is None


def test_root_sees_the_memory_clock(tmp_path):
    state = read_jetson(tree(tmp_path, {**ORIN, "sys/kernel/debug/bpmp/debug/clk/emc/rate": "2133000000"}), str)
    assert state is not None
    assert state.emc_clock == Clock(name="emc", mhz=2133, max_mhz=3199)


def test_a_mode_without_a_cap(tmp_path):
    state = read_jetson(tree(tmp_path, {**ORIN, "sys/kernel/nvpmodel_clk_cap/emc": "9223372036854775807\n"}), str)
    assert state is not None
    assert state.emc_clock is None


def test_another_machine(tmp_path):
    assert read_jetson(tmp_path, str) is None


@pytest.mark.parametrize("files", [ORIN, THOR], ids=["orin", "thor"])
@pytest.mark.parametrize("garbage", ["", "\xff\xfe\x00", "n/a", "-", "1e9", "0x10", "9" * 40, "\n\n1\n2\n"])
def test_garbled_files_are_not_told(tmp_path, files, garbage):
    """All but the device tree, which says that it is a Jetson."""
    known = {name: text for name, text in files.items() if name.startswith("proc/")}
    state = read_jetson(tree(tmp_path, dict.fromkeys(files, garbage) | known), lambda: garbage)
    assert state is not None
    assert state.board
    assert (state.power_mode, state.power_mode_id) == (None, None)
    assert state.gpu_clocks == ()
    assert state.emc_clock is None
    assert state.jetson_clocks is None
    assert state.temperatures_c == {}
    assert state.throttled is None
    assert state.rails == ()
    msgspec.json.encode(state)
    describe(state)


@pytest.mark.parametrize("files", [ORIN, THOR], ids=["orin", "thor"])
def test_any_file_may_be_missing_or_a_folder(tmp_path, files):
    names = [name for name in files if not name.startswith("proc/")]
    for number, name in enumerate(names):
        root = tree(tmp_path / str(number), files)
        (root / name).unlink()
        if number % 2:
            (root / name).mkdir()
        state = read_jetson(root, str)
        assert state is not None, name
    bare = read_jetson(tree(tmp_path / "bare", {name: text for name, text in files.items() if name.startswith("proc/")}), str)
    assert bare is not None
    assert bare.jetson_clocks is None


def test_a_program_that_fails_or_hangs_answers_nothing(monkeypatch, tmp_path):
    script = tmp_path / "nvpmodel"
    script.write_text("#!/bin/sh\necho 'NV Power Mode: 15W'; echo 0\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert jetson.ask_nvpmodel() == "NV Power Mode: 15W\n0\n"
    script.write_text("#!/bin/sh\nread forever < /dev/zero\n")
    monkeypatch.setattr(jetson, "_LIMIT_S", 0.1)
    assert jetson.ask_nvpmodel() == ""
    script.write_text("not a program")
    assert jetson.ask_nvpmodel() == ""
    script.unlink()
    assert jetson.ask_nvpmodel() == ""


def test_what_makes_a_measurement_doubtful():
    calm = JetsonState(power_mode="25W", power_mode_id=1, jetson_clocks=True, throttled=(), over_current_events={"oc3": 7})
    assert warnings(calm, calm) == warnings(calm, None) == []

    def after(**changes):
        return " ".join(warnings(calm, msgspec.structs.replace(calm, **changes)))

    assert "from 25W to 15W" in after(power_mode="15W", power_mode_id=0)
    assert "throttled by gpu-throttle-alert" in after(throttled=("gpu-throttle-alert",))
    assert "oc3 2 times" in after(over_current_events={"oc3": 9, "oc4": 1})
    assert after(throttled=None) == ""
    free = msgspec.structs.replace(calm, jetson_clocks=False)
    assert warnings(free, free) == ["The clocks were free to change: sudo jetson_clocks pins them."]


def test_the_page_shows_it(tmp_path):
    from star_edge.bench.host import read_host
    from star_edge.bench.report import BenchReport
    from star_edge.report.provenance import _host

    state = read_jetson(tree(tmp_path, ORIN), str)
    host = msgspec.structs.replace(read_host(), jetson=state, jetson_after=state)
    report = BenchReport(
        star_edge_version="0", bundle="b", bundle_id="0", host=host, device="cpu", threads=1, rounds=1, workloads=(), results=(),
        limit=(), latency=(),
    )  # fmt: skip
    rows = dict(_host(report).rows)
    assert rows["Jetson before"] == rows["Jetson after"] == describe(state)
    other = msgspec.structs.replace(report, host=msgspec.structs.replace(host, jetson=None, jetson_after=None))
    assert not [name for name, _ in _host(other).rows if name.startswith("Jetson")]
