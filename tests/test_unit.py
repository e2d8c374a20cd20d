"""The units that we ship: as systemd-analyze judges them, and as a systemd runs them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.programs import POLL_S, free_port, require_program
from tests.systemd_machine import UNITS, Machine, reachable, shipped, systemd_machine

SERVICE, DRIVER = "edge-llm.service", "edge-llm-driver.service"
HTTP = "edge-llm-http.service"
OUT = "/run/out"
CORE = Path(__file__).parent / "unit_core.py"

QUICK = f"""\
[Service]
ExecStart=
ExecStart={sys.executable} {CORE} core
RestartSec=0
ExecStopPost=
ExecStopPost={sys.executable} -m edge_llm.systemd --wait 3
"""
"""The service's own settings, but with a core and a worker that do as a test wants, at once."""


def quick(*lines: str) -> dict[str, str]:
    drop_in = QUICK + "".join(f"{line}\n" for line in lines)
    return {
        SERVICE: shipped(SERVICE),
        f"{SERVICE}.d/1.conf": reachable(),
        f"{SERVICE}.d/2.conf": drop_in,
    }


def said(machine: Machine) -> list[str]:
    return machine.run("cat", OUT, check=False).splitlines()


def wait_until_said(machine: Machine, line: str, count: int = 1, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while sum(line in found for found in said(machine)) < count:
        assert time.monotonic() < deadline, said(machine)
        time.sleep(POLL_S * 5)


@pytest.mark.parametrize("name", [SERVICE, HTTP, DRIVER, "edge-llm-driver.path"])
def test_systemd_finds_no_fault_with_a_unit(tmp_path: Path, name: str) -> None:
    program = require_program("systemd-analyze", "systemd")
    # A path has its service beside it.
    for each in [*UNITS.glob("*.service"), *UNITS.glob("*.path")]:
        (tmp_path / each.name).write_text(shipped(each.name))
    verify = [program, "verify", "--man=no", str(tmp_path / name)]
    outcome = subprocess.run(verify, check=False, capture_output=True, text=True)
    assert (outcome.returncode, outcome.stderr) == (0, "")


@pytest.mark.parametrize("name", [SERVICE, HTTP, DRIVER])
def test_a_unit_is_exposed_at_most_2_of_10(name: str) -> None:
    program = require_program("systemd-analyze", "systemd")
    security = [program, "security", "--offline=true", "--threshold=20", str(UNITS / name)]
    outcome = subprocess.run(security, check=False, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout[-300:] + outcome.stderr


def test_it_is_ready_when_it_says_so_and_tells_how_it_is(tmp_path: Path) -> None:
    with systemd_machine(tmp_path / "m", quick()) as machine:
        machine.run("systemctl", "start", SERVICE)  # returns when it is ready
        assert machine.show(SERVICE, "ActiveState") == "active"
        assert machine.show(SERVICE, "StatusText") == "serving"
        assert machine.show(SERVICE, "WatchdogUSec") == "1min"
        machine.run("systemctl", "stop", SERVICE)
        assert machine.show(SERVICE, "ActiveState") == "inactive"
        assert [line for line in said(machine) if "worker" in line] == [
            "worker: begins",
            "worker: ends its step",
        ]


def test_a_worker_whose_core_is_killed_ends_its_step(tmp_path: Path) -> None:
    with systemd_machine(tmp_path / "m", quick("Environment=STEP_S=1")) as machine:
        machine.run("systemctl", "start", SERVICE)
        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", SERVICE)
        wait_until_said(machine, "core: begins", 2)
        assert said(machine)[:4] == [
            "core: begins",
            "worker: begins",
            "worker: ends its step",
            "core: begins",
        ]
        assert machine.show(SERVICE, "NRestarts") == "1"


def test_a_worker_that_hangs_is_killed_in_the_end(tmp_path: Path) -> None:
    with systemd_machine(tmp_path / "m", quick("Environment=STEP_S=1000")) as machine:
        machine.run("systemctl", "start", SERVICE)
        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", SERVICE)
        wait_until_said(machine, "core: begins", 2)
        assert any("leftover.killed" in line for line in said(machine))
        assert len(machine.pids(SERVICE)) == 2


def test_a_core_that_does_not_stop_is_killed_and_its_worker_is_not(tmp_path: Path) -> None:
    units = quick("Environment=STEP_S=1", "Environment=DEAF=1", "TimeoutStopSec=2")
    with systemd_machine(tmp_path / "m", units) as machine:
        machine.run("systemctl", "start", SERVICE)
        machine.run("systemctl", "stop", SERVICE)
        assert machine.pids(SERVICE) == []
        assert any("core.killed" in line for line in said(machine))
        assert "worker: ends its step" in said(machine)


def test_a_core_that_hangs_is_started_again_and_says_where_it_hung(tmp_path: Path) -> None:
    units = quick("Environment=HANG_AFTER_S=0.5", "WatchdogSec=1")
    with systemd_machine(tmp_path / "m", units) as machine:
        machine.run("systemctl", "start", SERVICE)
        wait_until_said(machine, "core: begins", 2)
        text = "\n".join(said(machine))
        assert "Fatal Python error: Aborted" in text
        assert "in hang" in text  # the function, of the traceback
        assert text.index("worker: ends its step") < text.rindex("core: begins")


def test_a_slow_stop_is_not_taken_for_a_hang(tmp_path: Path) -> None:
    with systemd_machine(
        tmp_path / "m", quick("Environment=STEP_S=2.5", "WatchdogSec=1")
    ) as machine:
        machine.run("systemctl", "start", SERVICE)
        machine.run("systemctl", "stop", SERVICE)
        assert machine.show(SERVICE, "Result") == "success"
        assert said(machine) == ["core: begins", "worker: begins", "worker: ends its step"]


def test_it_is_never_given_up(tmp_path: Path) -> None:
    with systemd_machine(tmp_path / "m", quick("Environment=CRASH=1")) as machine:
        machine.run("systemctl", "start", "--no-block", SERVICE)
        wait_until_said(machine, "core: begins", 8)  # systemd's own limit is 5 in 10 s
        assert machine.show(SERVICE, "ActiveState") in ("activating", "deactivating")


def test_the_sandbox_leaves_what_the_service_needs(tmp_path: Path) -> None:
    """The real one: it loads a model, answers, keeps answers, reads the host."""
    require_program("curl", "curl")
    port = free_port()
    settings = f"[mqtt]\nenabled = false\n[http]\nport = {port}\n"
    units = {
        SERVICE: shipped(SERVICE),
        f"{SERVICE}.d/1.conf": reachable(),
    }
    url = f"http://127.0.0.1:{port}"
    body = '{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}'
    with systemd_machine(tmp_path / "m", units, {"edge-llm.toml": settings}) as machine:
        machine.run("systemctl", "start", SERVICE)  # returns when the model is loaded
        assert "edge-llm-tiny" in machine.show(SERVICE, "StatusText")
        answer = machine.run("curl", "-s", f"{url}/v1/chat/completions", "-d", body)
        assert '"finish_reason": "length"' in answer
        metrics = machine.run("curl", "-s", f"{url}/metrics")
        assert "edge_llm_host_memory" in metrics
        core, worker = machine.pids(SERVICE)
        assert machine.run("cat", f"/proc/{worker}/oom_score_adj").strip() == "500"
        status = machine.run("cat", f"/proc/{core}/status")
        assert "CapEff:\t0000000000000000" in status
        user = machine.run("id", "-u", "edge-llm").strip()
        assert f"Uid:\t{user}\t{user}\t" in status
        machine.run("systemctl", "stop", SERVICE)
        assert "Traceback" not in "\n".join(said(machine))


def test_the_sandbox_has_the_card_and_no_disk_and_no_secret_of_others(tmp_path: Path) -> None:
    probe = (
        "for file in /dev/fuse /run/test/disk /run/test/secret /etc/shadow /root/.bashrc; do "
        "if head -c0 $file 2>/dev/null; then echo opens $file; fi; done; "
        "cat $CREDENTIALS_DIRECTORY/mqtt-password; "
        "touch /run/edge-llm/reload-driver && echo asked; "
        "touch /etc/x 2>/dev/null && echo writes; unshare -r true 2>/dev/null && echo escapes; "
        "head -c0 /proc/1/environ 2>/dev/null && echo spies; true"
    )
    files = {"probe": probe, "secret": "theirs", "edge-llm.mqtt-password": "ours\n"}
    units = quick(
        "Type=oneshot", "ExecStart=", "ExecStart=/bin/sh /run/probe", "Restart=no", "ExecStopPost="
    )
    with systemd_machine(tmp_path / "m", units, files) as machine:
        machine.run("sh", "-c", "mkdir /run/credstore; mv /run/test/edge-llm.* /run/credstore")
        machine.run("sh", "-c", "mv /run/test/probe /run; chmod 600 /run/test/secret")
        machine.run("mknod", "-m", "666", "/run/test/disk", "b", "254", "0")
        machine.run("systemctl", "start", SERVICE)
        expected = ["ours", "asked"]
        if os.access("/dev/fuse", os.F_OK):  # a device of the card's kind that anybody may open
            expected.insert(0, "opens /dev/fuse")
        assert said(machine) == expected


def test_the_driver_is_loaded_anew_when_the_service_asks_and_not_again_at_once(
    tmp_path: Path,
) -> None:
    modprobe = tmp_path / "modprobe"
    modprobe.write_text(f"#!/bin/sh\necho modprobe $* >>{OUT}\n")
    modprobe.chmod(0o755)
    driver = (
        shipped(DRIVER).replace("/sbin/modprobe", "/run/modprobe").replace("sleep 300", "sleep 2")
    )
    assert "ReadWritePaths=-/run/edge-llm" in driver
    units = quick() | {
        DRIVER: driver.replace("-/run/edge-llm", "-/run"),  # for what the stand-in writes
        "edge-llm-driver.path": shipped("edge-llm-driver.path"),
    }
    request = "/run/edge-llm/reload-driver"
    with systemd_machine(tmp_path / "m", units) as machine:
        machine.run("sh", "-c", f"cp {modprobe} /run/modprobe && : >{OUT}")
        machine.run("systemctl", "start", "edge-llm-driver.path")
        machine.run("systemctl", "start", SERVICE)
        machine.run("touch", request)
        wait_until_said(machine, "modprobe ax_pcie_p2p_rc")
        reload = [line for line in said(machine) if line.startswith("modprobe")]
        assert reload == [
            "modprobe -r ax_pcie_net_host",
            "modprobe -r ax_pcie_p2p_rc",
            "modprobe -r axcl_host ax_pcie_mmb ax_pcie_msg ax_pcie_host_dev",
            "modprobe -a ax_pcie_host_dev ax_pcie_msg ax_pcie_mmb axcl_host",
            "modprobe ax_pcie_p2p_rc",
        ]
        begun = time.monotonic()
        machine.run("sh", "-c", f"while test -e {request}; do sleep 0.05; done; touch {request}")
        wait_until_said(machine, "modprobe ax_pcie_p2p_rc", 2)
        assert time.monotonic() - begun > 1.5
        machine.wait_for("edge-llm-driver.path", ActiveState="active")
