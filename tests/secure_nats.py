"""The servers of a fleet with the configuration that we ship: TLS, accounts, rights."""

import os
import re
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llm.fleet.accounts import RIGHTS, AccountsFile, device_rights
from edge_llm.settings import Settings
from tests.clients import RawClient
from tests.nats import NatsServer
from tests.programs import HOST, free_port, require_program

__all__ = ["SHIPPED", "SecureServer", "make_certificates", "secure_servers"]

SHIPPED = Path(__file__).parents[1] / "nats"
DEVICES = ("esp1", "esp2")
STAFF = {"edge-llm": "node", "admin": "admin", "ha": "home-assistant"}


def make_certificates(directory: Path) -> Path:
    """Make a CA and a certificate by the commands in our configuration; return their directory."""
    require_program("openssl", "openssl")
    text = (SHIPPED / "edge-llm-3.conf").read_text()
    [commands] = re.findall(r"^# +openssl req -x509.*?^#\n", text, re.MULTILINE | re.DOTALL)
    script = re.sub(r"^#", "", commands, flags=re.MULTILINE)
    subprocess.run(
        ["/bin/sh", "-ec", script],
        cwd=directory,
        check=True,
        capture_output=True,
        env={**os.environ, "HOSTS": f"IP:{HOST}"},
    )
    return directory


@dataclass(frozen=True)
class SecureServer:
    """One server, and how to speak to it."""

    nats: NatsServer
    etc: Path
    monitor_port: int

    @property
    def url(self) -> str:
        """Where nodes connect."""
        return f"tls://{HOST}:{self.nats.port}"

    @property
    def ca_file(self) -> Path:
        return self.etc / "edge-llm-ca.pem"

    @property
    def accounts(self) -> Path:
        return self.etc / "edge-llm-users.conf"

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)

    def client(self, name: str | None, password: str | None = None, **how: Any) -> RawClient:
        """Make an MQTT client with an account; without a name it has none."""
        client = RawClient(self.nats.mqtt_port, **how)
        client.paho.tls_set_context(self.tls)
        if name:
            client.paho.username_pw_set(name, password or f"password of {name}")
        return client

    def settings(self, node: str, *urls: str, tokens_per_s: float = 1000, **fleet: Any) -> Settings:
        """What a node of this fleet is set to; it says its name, at some speed."""
        account = {"username": "edge-llm", "password": "password of edge-llm"}
        tls = {"enabled": True, "ca_file": self.ca_file}
        door = {"host": HOST, "port": self.nats.mqtt_port, "protocol": "3.1.1", "tls": tls}
        servers = {"servers": urls or (self.url,), "ca_file": self.ca_file}
        return Settings.model_validate(
            {
                "node": node,
                "mqtt": {**door, **account, "stop_timeout_s": 0.2},
                "fleet": {**servers, **account, "lease_s": 1.0, **fleet},
                "http": {"enabled": False},
                "engine": {
                    "kind": "paced",
                    "paced": {
                        "text": f"Here is {node}.",
                        "ttft_s": 0,
                        "tokens_per_s": tokens_per_s,
                    },
                },
            }
        )


@contextmanager
def secure_servers(
    folder: Path,
    certificates: Path,
    count: int = 1,
    accounts: Sequence[str] = (*DEVICES, *STAFF),
    *,
    start: bool = True,
) -> Iterator[list[SecureServer]]:
    """Run servers until the context is left, or only write their files."""
    require_program("nats-server", "nats-server")
    routes = [free_port() for _ in range(count)]
    servers = [
        _install(folder / f"n{number}", certificates, port, routes, accounts)
        for number, port in enumerate(routes, 1)
    ]
    with ExitStack() as stack:
        for server in servers if start else ():
            server.nats.start()
            stack.callback(server.nats.stop)
        for server in servers if start else ():
            server.nats.wait()
        yield servers


def _install(
    folder: Path, certificates: Path, route: int, routes: Sequence[int], accounts: Sequence[str]
) -> SecureServer:
    """Put the files in place as their comments say, with other places and ports."""
    etc = folder / "etc" / "nats"
    etc.mkdir(parents=True)
    server = NatsServer(
        folder.name, free_port(), free_port(), etc.with_name("nats-server.conf"), folder / "log"
    )
    secure = SecureServer(server, etc, free_port())
    places = {
        "/etc/nats": str(etc),
        "/var/lib/nats": str(folder / "store"),
        "0.0.0.0:4222": f"{HOST}:{server.port}",
        "0.0.0.0:8883": f"{HOST}:{server.mqtt_port}",
        "0.0.0.0:6222": f"{HOST}:{route}",
        "127.0.0.1:8222": f"127.0.0.1:{secure.monitor_port}",
    }
    for file in SHIPPED.glob("*.conf"):
        text = file.read_text()
        if file.name != "edge-llm-here.conf":
            for ours, here in places.items():
                text = text.replace(ours, here)
        else:
            text = _here(text, server.name, routes)
        (etc / file.name).write_text(text)
    for name in ("edge-llm.pem", "edge-llm.key", "edge-llm-ca.pem"):
        (etc / name).write_bytes((certificates / name).read_bytes())
    for name in accounts:
        kind = STAFF.get(name)
        rights = f"permissions: ${RIGHTS[kind]}" if kind else device_rights(name, "llm")
        AccountsFile(secure.accounts).add(name, f"password of {name}", rights)
    number = 1 if len(routes) == 1 else 3
    server.config.write_text(f"include nats/edge-llm-{number}.conf\n")
    return secure


def _here(text: str, name: str, routes: Sequence[int]) -> str:
    text = text.replace("NAME: fleet1", f"NAME: {name}")
    if len(routes) == 1:
        return text
    text = re.sub(r"^#   ", "", text, flags=re.MULTILINE).replace("PASSWORD@", "sesame@")
    text = text.replace('"PASSWORD"', '"sesame"')
    for number, port in enumerate(routes, 5):
        text = text.replace(f"10.0.0.{number}:6222", f"{HOST}:{port}")
    return text
