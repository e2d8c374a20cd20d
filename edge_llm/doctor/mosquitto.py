"""The settings of a mosquitto on this machine: what it writes down, and how often.

A broker tells nobody whether it outlives a power cut, so its files are read. mosquitto.conf(5):
a line is a key and a value; ``include_dir`` reads the ``*.conf`` there; of a key that stands
twice the last counts.
"""

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from edge_llm.doctor.case import Case
from edge_llm.doctor.finding import Finding, ok, skip, warn
from edge_llm.doctor.machine import Machine
from edge_llm.doctor.processes import find_brokers
from edge_llm.section import is_loopback

__all__ = ["examine_persistence"]

NAME = "broker.persistence"
DEBIAN = Path("/etc/mosquitto/mosquitto.conf")
DEFAULT_PORT = "1883"
DEFAULT_AUTOSAVE_S = 1800
LONG_S = 300
"""Requests of so many seconds are too many to lose by a power cut."""
RESTART = "into /etc/mosquitto/conf.d/edge-llm.conf, and sudo systemctl restart mosquitto"


@dataclass(frozen=True, slots=True)
class _Config:
    file: Path
    values: dict[str, str]
    ports: frozenset[str]

    def is_on(self, key: str) -> bool:
        return self.values.get(key) == "true"


def examine_persistence(case: Case) -> Iterable[Finding]:
    """Whether what the broker keeps outlives its restart, and a power cut."""
    mqtt = case.settings.mqtt
    if case.settings_error or not mqtt.enabled:
        yield skip(NAME, "no broker is asked for")
        return
    if not _is_here(mqtt.host):
        what = f"{mqtt.host} is another machine, and brokers don't tell"
        yield skip(NAME, what, "have 'persistence true' in the settings of the broker there")
        return
    found = _find_config(case.machine, str(mqtt.port))
    yield found if isinstance(found, Finding) else _judge(found)


def _judge(config: _Config) -> Finding:
    if not config.is_on("persistence"):
        what = f"off ({config.file}): what it keeps is lost when it is restarted"
        return warn(NAME, what, f"put 'persistence true' and 'autosave_interval 30' {RESTART}")
    seconds = config.values.get("autosave_interval", str(DEFAULT_AUTOSAVE_S))
    each_s = int(seconds) if seconds.isdigit() else DEFAULT_AUTOSAVE_S
    if config.is_on("autosave_on_changes"):
        return ok(NAME, f"on, written after {each_s} changes at the latest")
    if each_s == 0 or each_s > LONG_S:
        often = f"every {each_s // 60} minutes only" if each_s else "at its end only"
        what = f"on, but written {often}: a power cut loses the requests since then"
        return warn(NAME, what, f"put 'autosave_interval 30' {RESTART}")
    return ok(NAME, f"on, written every {each_s} s")


def _is_here(host: str) -> bool:
    """Whether a broker's address is one of this machine."""
    if is_loopback(host):
        return True
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(_is_ours(family, address) for family, _, _, _, address in infos)


def _is_ours(family: int, address: object) -> bool:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(address)  # type: ignore[arg-type]  # as getaddrinfo made it
        except OSError:
            return False
    return True


def _find_config(machine: Machine, port: str) -> _Config | Finding:
    """Return the settings of the broker on a port, or why they can't be told."""
    brokers = find_brokers(machine)
    if not brokers:
        return skip(NAME, "no mosquitto runs on this machine, and other brokers' files are theirs")
    closed = None
    for broker in brokers:
        given = _option(broker.arguments, "-c", "--config-file")
        if given is None:
            if port == (_option(broker.arguments, "-p", "--port") or DEFAULT_PORT):
                return _Config(Path("it was started without a file"), {}, frozenset({port}))
            continue
        file = Path(given)
        try:
            config = _read(machine, file)
        except OSError as exc:
            closed = skip(NAME, f"{file} can't be read: {exc.strerror}", "sudo edge-llm doctor")
            continue
        if port in config.ports:
            return config
    return closed or skip(NAME, f"no mosquitto of this machine has port {port} in its files")


def _option(arguments: tuple[str, ...], *names: str) -> str | None:
    return next((value for name, value in pairwise(arguments) if name in names), None)


def _read(machine: Machine, file: Path) -> _Config:
    values: dict[str, str] = {}
    ports: set[str] = set()
    for key, value in _lines(machine, file, depth=0):
        values[key] = value
        if key in ("listener", "port") and value:
            ports.add(value.split()[0])
    return _Config(file, values, frozenset(ports or {DEFAULT_PORT}))


def _lines(machine: Machine, file: Path, *, depth: int) -> Iterator[tuple[str, str]]:
    for line in machine.path(file).read_text("utf-8", "replace").splitlines():
        key, _, value = line.strip().partition(" ")
        if key == "include_dir" and depth == 0:
            directory = Path(value.strip())
            for below in sorted(machine.path(directory).glob("*.conf")):
                yield from _lines(machine, directory / below.name, depth=1)
        elif key and not key.startswith("#"):
            yield key, value.strip()
