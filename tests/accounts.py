"""Accounts at a broker, and the broker of an installation, which asks for them."""

import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge_llm.cli import run
from edge_llm.settings import MqttSettings
from tests.brokers import Broker
from tests.clients import RawClient, eventually
from tests.programs import HOST, accepts, free_port, require_program, running
from tests.test_mqtt_tls import Authority

__all__ = [
    "DEVICES",
    "NOT_AUTHORIZED",
    "SHIPPED",
    "STAFF",
    "Accounts",
    "Lan",
    "answer_to",
    "blocks_of",
    "make_etc",
    "mqtt_user",
    "open_lan",
    "refused",
    "set_up_lan",
    "shown",
]

SHIPPED = Path(__file__).parents[1] / "mosquitto"
DEVICES = ("esp1", "esp2")
STAFF = ("edge-llm", "admin", "stranger")
NOT_AUTHORIZED = 135  # MQTT 5, section 3.4.2.1
FILES = ("edge-llm-lan.conf", "edge-llm-websockets.conf", "edge-llm.conf")


def blocks_of(page: str, test: str) -> list[str]:
    """Return the commands of a page that a test runs in its own way."""
    text = (SHIPPED.parent / "docs" / page).read_text()
    mark = re.escape(f"<!-- run: tests/{test} -->")
    return re.findall(rf"{mark}\n```sh\n(.*?)```", text, re.DOTALL)


class Accounts:
    """A file of mosquitto's with names and passwords."""

    def __init__(self, file: Path, *names: str) -> None:
        self.file = file
        self._program = require_program("mosquitto_passwd", "mosquitto")
        self.file.touch(mode=0o600)
        for name in names:
            self.set(name, f"password of {name}")

    def set(self, name: str, password: str) -> None:
        """Add an account, or change its password."""
        command = [self._program, "-b", str(self.file), name, password]
        subprocess.run(command, check=True, capture_output=True)


@dataclass(frozen=True)
class Lan:
    """The broker of an installation: who may connect where, and as whom."""

    directory: Path
    authority: Authority
    local: int = field(default_factory=free_port)
    devices: int = field(default_factory=free_port)
    staff: int = field(default_factory=free_port)
    pages: int = field(default_factory=free_port)

    @property
    def etc(self) -> Path:
        """Where /etc/mosquitto is."""
        return self.directory / "etc"

    @property
    def pid_file(self) -> Path:
        return self.directory / "mosquitto.pid"

    @property
    def config(self) -> Path:
        """Debian's own configuration, with other places."""
        return self.etc / "mosquitto.conf"

    def write(self, changes: Mapping[str, str], files: Sequence[str] = FILES) -> None:
        """Write our files as their comments say, and Debian's."""
        (self.etc / "certs").mkdir(parents=True)
        (self.etc / "conf.d").mkdir()
        for name, file in (("edge-llm.pem", "broker.pem"), ("edge-llm.key", "broker.key")):
            (self.etc / "certs" / name).write_bytes(self.authority.file(file).read_bytes())
        (self.etc / "certs" / "edge-llm-ca.pem").write_bytes(self.authority.ca_file.read_bytes())
        Accounts(self.etc / "edge-llm.devices", *DEVICES)
        Accounts(self.etc / "edge-llm.staff", *STAFF)
        (self.etc / "edge-llm.acl").write_text((SHIPPED / "edge-llm.acl").read_text())
        (self.etc / "edge-llm.acl").chmod(0o600)
        for file in files:
            text = (SHIPPED / file).read_text().replace("/etc/mosquitto", str(self.etc))
            (self.etc / "conf.d" / file).write_text(text)
        self.adapt(changes)

    def adapt(self, changes: Mapping[str, str] | None = None) -> None:
        """Give what is in conf.d other ports, and change lines of it; add Debian's part."""
        changes = {
            "listener 8883": f"listener {self.devices} {HOST}",
            "listener 8884": f"listener {self.staff} {HOST}",
            "listener 9001": f"listener {self.pages} {HOST}",
            "listener 1883": f"listener {self.local}",
            **(changes or {}),
        }
        for file in (self.etc / "conf.d").glob("*.conf"):
            text = file.read_text()
            for old, new in changes.items():
                text = text.replace(old, new)
            file.write_text(text)
        user = ["user root"] if os.geteuid() == 0 else []  # the test's directory is nobody else's
        places = (
            f"pid_file {self.pid_file}",
            f"persistence_location {self.directory}/",
            f"include_dir {self.etc / 'conf.d'}",
        )
        self.config.write_text("\n".join([*user, *places, ""]))

    def client(
        self, name: str | None, port: int | None = None, *, password: str | None = None, **how: Any
    ) -> RawClient:
        """Make a client with an account; without a name it has none."""
        client = RawClient(port or self.devices, **{"protocol": "5", **how})
        client.paho.tls_set_context(ssl.create_default_context(cafile=self.authority.ca_file))
        if name:
            client.paho.username_pw_set(name, password or f"password of {name}")
        return client

    def node_at_home(self) -> Broker:
        """How a node on the broker's machine speaks to it."""
        return Broker(self.local, "5")

    def node_elsewhere(self, directory: Path) -> MqttSettings:
        """What a node on another machine is set to."""
        file = directory / "mqtt-password"
        file.write_text("password of edge-llm\n")
        tls = {"enabled": True, "ca_file": self.authority.ca_file}
        account = {"username": "edge-llm", "password_file": file, "tls": tls}
        return MqttSettings.model_validate({"host": HOST, "port": self.staff, **account})

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Run mosquitto with what was written, until the context is left."""
        program = require_program("mosquitto", "mosquitto")
        text = "".join(file.read_text() for file in (self.etc / "conf.d").glob("*.conf"))
        ports = [
            port
            for port in (self.local, self.devices, self.staff, self.pages)
            if f"listener {port}" in text
        ]
        command = [program, "-c", str(self.config)]
        log = self.directory / "log"
        with running(command, log, lambda: all(map(accepts, ports)), None) as process:
            yield process


@contextmanager
def open_lan(
    directory: Path,
    authority: Authority,
    changes: Mapping[str, str] | None = None,
    files: Sequence[str] = FILES,
) -> Iterator[Lan]:
    """Run mosquitto with all that we ship."""
    lan = Lan(directory, authority)
    lan.write(changes or {}, files)
    with lan.running():
        yield lan


async def answer_to(client: RawClient) -> int:
    """Return the broker's answer to a connection: 0 is yes, -1 none, as without TLS."""
    answers: list[int] = []

    def note(answer: int) -> None:
        answers.append(answer)
        client.paho.disconnect()  # or it waits a second, to try again

    client.paho.on_connect = lambda _c, _d, _f, reason, _p: note(reason.value)
    client.paho.on_connect_fail = lambda _c, _d: note(-1)
    client.paho.connect_async(HOST, client._port, 60)
    client.paho.loop_start()
    try:
        await eventually(lambda: answers)
        return answers[0]
    finally:
        await client.stop()


def make_etc(directory: Path) -> Path:
    """Make what Debian's package makes of /etc/mosquitto."""
    for program in ("mosquitto_passwd", "openssl"):
        require_program(program, program.partition("_")[0])
    etc = directory / "etc"
    for name in ("certs", "conf.d"):
        (etc / name).mkdir(parents=True)
    return etc


def set_up_lan(directory: Path) -> Lan:
    """Make the broker that ``edge-llm mqtt-user setup`` makes, at free ports; it does not run."""
    etc = make_etc(directory)
    hosts = ("--host", HOST, "--host", "stage.local")
    assert run(["mqtt-user", "setup", "--websockets", "--directory", str(etc), *hosts]) == 0
    authority = Authority(directory)
    shutil.copy(etc / "certs" / "edge-llm-ca.pem", authority.ca_file)
    lan = Lan(directory, authority)
    lan.adapt()
    return lan


def mqtt_user(lan: Lan, action: str, *arguments: str) -> int:
    """Run the command at a broker of a test; return its exit code."""
    places = ("--directory", str(lan.etc), "--pid-file", str(lan.pid_file))
    return run(["mqtt-user", action, *arguments, *places])


def shown(output: str, name: str) -> str:
    """Return what the command shows below a name."""
    [value] = re.findall(rf"^  {name} +(.*)$", output, re.MULTILINE)
    return str(value)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, which must refuse; return why."""
    assert run(["mqtt-user", *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    return said.err
