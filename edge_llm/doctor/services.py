"""The units of systemd, where the node is installed as a service."""

from collections.abc import Iterable, Iterator

from edge_llm.doctor.case import Case
from edge_llm.doctor.finding import Finding, fail, ok, skip, warn
from edge_llm.doctor.machine import Machine, ProgramError
from edge_llm.doctor.processes import find_nodes
from edge_llm.section import is_loopback

__all__ = ["examine_services"]

PROPERTIES = "LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts"
MANY_RESTARTS = 5
UNITS = ("edge-llm", "edge-llm-http", "mosquitto")


def examine_services(case: Case) -> Iterable[Finding]:
    """Whether the services run, start by themselves, and stay up; and what runs beside them."""
    machine = case.machine
    nodes = find_nodes(machine)
    if not machine.has_systemd:
        yield skip("services.edge-llm", "this machine is not run by systemd")
    else:
        has_broker = is_loopback(case.settings.mqtt.host)
        try:
            for unit in UNITS if has_broker else UNITS[:-1]:
                yield from _examine(machine, unit)
        except ProgramError as exc:
            yield fail("services.edge-llm", str(exc), "sudo systemctl daemon-reexec; else reboot")
    if len(nodes) > 1:
        pids = ", ".join(str(node.pid) for node in nodes)
        yield warn(
            "services.nodes",
            f"{len(nodes)} nodes run on this machine (processes {pids})",
            "each needs a name, ports and a card of its own; else stop one: sudo kill PID",
        )


def _examine(machine: Machine, unit: str) -> Iterator[Finding]:
    name = f"services.{unit}"
    ran = machine.run("systemctl", "show", f"{unit}.service", f"--property={PROPERTIES}")
    if ran is None or ran.code != 0:
        yield skip(name, "systemctl does not tell")
        return
    values = dict(line.split("=", 1) for line in ran.output.splitlines() if "=" in line)
    if values.get("LoadState") != "loaded":
        if unit == "edge-llm":
            yield skip(name, "not installed as a service", "sudo systemd/install.sh, in a clone")
        return
    yield _judge(unit, values)


def _judge(unit: str, values: dict[str, str]) -> Finding:
    name = f"services.{unit}"
    state, below = values.get("ActiveState", ""), values.get("SubState", "")
    restarts = values.get("NRestarts", "0")
    log = f"journalctl -u {unit} -n 50"
    if state == "failed":
        return fail(name, f"failed ({values.get('Result')})", log)
    if below == "auto-restart" or (restarts.isdigit() and int(restarts) > MANY_RESTARTS):
        return warn(name, f"{state} ({below}), started again {restarts} times", log)
    if state not in ("active", "activating", "reloading"):
        if unit == "edge-llm-http":
            return ok(name, f"{state}; it is for a machine without an engine")
        return warn(name, f"{state}", f"sudo systemctl enable --now {unit}; then {log}")
    if values.get("UnitFileState") == "disabled":
        what = f"{state}, and will not be after a reboot"
        return warn(name, what, f"sudo systemctl enable {unit}")
    return ok(name, f"{state} ({below})")
