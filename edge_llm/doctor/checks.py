"""All checks, in the order in which they are told."""

from collections.abc import AsyncGenerator

from edge_llm.doctor import (
    broker,
    card,
    configuration,
    disk,
    fleet,
    host,
    kernel_log,
    models,
    mosquitto,
    pcie,
    ports,
    python,
    rights,
    services,
    twin,
)
from edge_llm.doctor.case import Case
from edge_llm.doctor.check import Check, run_checks
from edge_llm.doctor.finding import Finding

__all__ = ["diagnose"]

BROKER_S = 10.0
"""For a name to be looked up, a connection tried in two versions of MQTT, and a measurement."""
LOG_S = 10.0
"""For two programs that may hang."""
CARD_S = 12.0
"""Longer than the tool's own time, which tells better what hangs."""
LOAD_S = 3600.0
"""A whole model, on a slow link."""

KERNEL = "the kernel does not answer: see 'sudo dmesg', and reboot"
DISK = "that disk or network share does not answer: see 'mount' and 'sudo dmesg'"
SYSTEMD = "sudo systemctl daemon-reexec; else sudo reboot"
DISKS = (
    ("disk.system", disk.examine_system_disk),
    ("disk.models", disk.examine_models_disk),
    ("disk.store", disk.examine_store),
    ("disk.broker", disk.examine_broker_disk),
)


def _checks(case: Case) -> tuple[Check, ...]:
    look_s = LOAD_S if case.load else models.LOOK_TIMEOUT_S
    return (
        Check("python.version", python.examine_version, KERNEL),
        Check("python.packages", python.examine_packages, DISK),
        Check("python.imports", python.examine_imports, DISK, python.IMPORT_TIMEOUT_S + 1),
        Check("settings.file", configuration.examine_settings, DISK),
        Check("settings.exposed", configuration.examine_exposure, DISK),
        Check("settings.bridges", configuration.examine_bridges, DISK),
        Check("broker.reachable", broker.examine_reachable, broker.HANGS, BROKER_S),
        Check("broker.nodelay", broker.examine_delay, broker.HANGS, BROKER_S),
        Check("broker.session", broker.examine_session, broker.HANGS, BROKER_S),
        Check("broker.inflight", broker.examine_window, broker.HANGS, BROKER_S),
        Check("broker.acl", rights.examine_rights, broker.HANGS, BROKER_S),
        Check("broker.name", twin.examine_twin, broker.HANGS, BROKER_S),
        Check("broker.persistence", mosquitto.examine_persistence, DISK),
        Check("fleet.servers", fleet.examine_servers, fleet.HANGS, BROKER_S),
        Check("fleet.streams", fleet.examine_streams, fleet.HANGS, BROKER_S),
        Check("fleet.nodes", fleet.examine_nodes, fleet.HANGS, BROKER_S),
        Check("card.link", pcie.examine_link, KERNEL),
        Check("card.driver", pcie.examine_driver, KERNEL),
        Check("card.answers", card.examine_card, card.HANGS, CARD_S),
        Check("card.log", kernel_log.examine_card_log, KERNEL, LOG_S),
        Check("model.directory", models.examine_model, models.HANGS),
        Check("model.memory", models.examine_fit, card.HANGS, CARD_S),
        Check("model.server", models.examine_server, "see engine.openai.base_url", 5.0),
        Check("model.runtime", models.look_into, card.HANGS, look_s),
        Check("machine.memory", host.examine_memory, KERNEL),
        Check("machine.clock", host.examine_clock, SYSTEMD),
        Check("machine.power", host.examine_power, "see vcgencmd get_throttled"),
        Check("machine.temperature", host.examine_heat, KERNEL),
        Check("machine.log", kernel_log.examine_machine_log, KERNEL, LOG_S),
        *(Check(name, examine, DISK) for name, examine in DISKS),
        Check("ports.http", ports.examine_ports, KERNEL),
        Check("services.edge-llm", services.examine_services, SYSTEMD, LOG_S),
    )


def diagnose(case: Case, only: tuple[str, ...] = ("",)) -> AsyncGenerator[Finding]:
    """Run checks at once, and yield what they find, heading by heading.

    Args:
        case: the installation.
        only: what the names of the checks begin with; all if not given.
    """
    return run_checks([check for check in _checks(case) if check.name.startswith(only)], case)
