"""Processes of the machine that matter: nodes, and mosquitto, by their command lines."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath

from edge_llm.doctor.machine import Machine

__all__ = ["Process", "find_brokers", "find_nodes"]

START_TIME = 22
"""Field of ``/proc/PID/stat``, in ticks since the machine was started (proc(5))."""
TICKS_PER_S = 100  # USER_HZ; on every architecture of ours


@dataclass(frozen=True, slots=True)
class Process:
    """A process that runs."""

    pid: int
    arguments: tuple[str, ...]
    age_s: float
    """Since its start, in seconds."""


def find_nodes(machine: Machine) -> list[Process]:
    """Return the processes of ``edge-llm serve`` and ``edge-llm demo``."""
    return [process for process in _processes(machine) if _is_node(process.arguments)]


def find_brokers(machine: Machine) -> list[Process]:
    """Return the processes of mosquitto."""
    return [
        process
        for process in _processes(machine)
        if PurePath(process.arguments[0]).name == "mosquitto"
    ]


def _is_node(arguments: tuple[str, ...]) -> bool:
    for program, command in pairwise(arguments):
        if PurePath(program).name in ("edge-llm", "edge_llm") and command in ("serve", "demo"):
            return True
    return False


def _processes(machine: Machine) -> Iterator[Process]:
    uptime_s = float((machine.line("proc/uptime") or "0").split()[0])
    for directory in machine.path("proc").glob("[0-9]*"):
        command = machine.read(f"proc/{directory.name}/cmdline")
        if not command or not (arguments := tuple(command.rstrip("\0").split("\0")))[0]:
            continue
        stat = machine.read(f"proc/{directory.name}/stat") or ""
        fields = stat.rpartition(")")[2].split()  # the second field is a name, with spaces
        ticks = fields[START_TIME - 3] if len(fields) > START_TIME - 3 else "0"
        yield Process(int(directory.name), arguments, uptime_s - int(ticks) / TICKS_PER_S)
