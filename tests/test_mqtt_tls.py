"""TLS to a real mosquitto, with certificates that openssl makes."""

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge_llm.errors import ConfigurationError
from edge_llm.mqtt import MqttConnection
from edge_llm.mqtt.tls import make_tls_context
from edge_llm.settings import MqttSettings, TlsSettings
from tests.brokers import Mosquitto
from tests.clients import eventually
from tests.programs import HOST, require_program
from tests.test_mqtt_connection import Protocol, connected, logged, receive
from tests.test_mqtt_trouble import trying

pytestmark = pytest.mark.usefixtures("reconnects_quickly")


@dataclass(frozen=True)
class Authority:
    """A CA made as people make them at home, and a broker's and a node's certificate by it."""

    directory: Path

    @property
    def ca_file(self) -> Path:
        return self.directory / "ca.pem"

    def file(self, name: str) -> Path:
        return self.directory / name

    def sign(self, name: str, alternative_name: str) -> None:
        extensions = self.file(f"{name}.ext")
        extensions.write_text(f"subjectAltName={alternative_name}\n")
        request, key = str(self.file(f"{name}.csr")), str(self.file(f"{name}.key"))
        openssl("req", "-new", *KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        ca = ("-CA", str(self.ca_file), "-CAkey", str(self.file("ca.key")), "-CAcreateserial")
        files = ("-in", request, "-extfile", str(extensions), "-out", str(self.file(f"{name}.pem")))
        openssl("x509", "-req", "-days", "2", *ca, *files)


KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(*arguments: str) -> None:
    program = require_program("openssl", "openssl")
    subprocess.run([program, *arguments], check=True, capture_output=True)


def make_authority(directory: Path) -> Authority:
    authority = Authority(directory)
    files = ("-keyout", str(authority.file("ca.key")), "-out", str(authority.ca_file))
    openssl("req", "-x509", *KEY, "-days", "2", "-subj", f"/CN=CA in {directory.name}", *files)
    authority.sign("broker", f"IP:{HOST}")
    authority.sign("node", "DNS:node")
    return authority


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("theirs"))


class TlsMosquitto(Mosquitto):
    """One that speaks TLS, with a certificate that can be replaced."""

    def __init__(self, directory: Path, authority: Authority, *more: str) -> None:
        self._directory = directory
        self.take_certificate(authority)
        files = {
            "cafile": str(authority.ca_file),
            "certfile": str(directory / "broker.pem"),
            "keyfile": str(directory / "broker.key"),
        }
        super().__init__(directory, files, *more)

    def take_certificate(self, authority: Authority) -> None:
        for name in ("broker.pem", "broker.key"):
            shutil.copy(authority.file(name), self._directory / name)

    def settings(self, protocol: Protocol = "5", host: str = HOST, **tls: Any) -> MqttSettings:
        values = {"enabled": True, **tls}
        return self.broker(protocol).settings(tls=values, host=host)


@contextmanager
def tls_mosquitto(directory: Path, authority: Authority, *more: str) -> Iterator[TlsMosquitto]:
    with TlsMosquitto(directory, authority, *more) as mosquitto:
        yield mosquitto


async def test_messages_go_both_ways_and_without_delay(
    tmp_path: Path, ours: Authority, protocol: Protocol
) -> None:
    with tls_mosquitto(tmp_path, ours) as mosquitto:
        settings = mosquitto.settings(protocol, ca_file=ours.ca_file)
        async with connected(settings, "t/+") as connection:
            assert connection.protocol == protocol
            sock = connection._link.client.socket()
            assert isinstance(sock, ssl.SSLSocket)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            payloads = [b"x" * size for size in (0, 1, 20_000, 500_000)]
            sent = [connection.publish("t/1", payload, 1) for payload in payloads]
            await asyncio.wait_for(asyncio.gather(*sent), 10)
            received = await receive(connection, len(payloads))
            assert [p.payload for p in received] == payloads


async def test_a_broker_that_is_restarted_is_found_again(tmp_path: Path, ours: Authority) -> None:
    with tls_mosquitto(tmp_path, ours) as mosquitto:
        async with trying(mosquitto.settings(ca_file=ours.ca_file)) as (connection, logs):
            await eventually(lambda: connection.is_connected)
            mosquitto.stop()
            await eventually(lambda: logged(logs, "mqtt.unreachable"))
            mosquitto.start()
            await eventually(lambda: connection.is_connected)
    assert not logged(logs, "mqtt.tls_failed")


async def test_the_wrong_certificate_is_said_once_until_the_broker_has_the_right_one(
    tmp_path: Path, ours: Authority, theirs: Authority
) -> None:
    with tls_mosquitto(tmp_path, theirs) as mosquitto:
        async with trying(mosquitto.settings(ca_file=ours.ca_file)) as (connection, logs):
            await eventually(lambda: connection._link._backoff._failures > 3)
            mosquitto.take_certificate(ours)
            mosquitto.reload()
            await eventually(lambda: connection.is_connected)
    assert [e["event"] for e in logs] == ["mqtt.tls_failed", "mqtt.connected"]
    assert "self-signed certificate in certificate chain" in logs[0]["reason"]
    assert "mqtt.tls.ca_file" in logs[0]["do"]


async def test_the_right_ca_file_is_taken_up_when_it_comes(
    tmp_path: Path, ours: Authority, theirs: Authority
) -> None:
    ca_file = tmp_path / "ca.pem"
    shutil.copy(theirs.ca_file, ca_file)
    with tls_mosquitto(tmp_path, ours) as mosquitto:
        async with trying(mosquitto.settings(ca_file=ca_file)) as (connection, logs):
            await eventually(lambda: logged(logs, "mqtt.tls_failed"))
            ca_file.write_text("half wri")
            await eventually(lambda: connection._link._backoff._failures > 3)
            assert not connection.is_connected
            shutil.copy(ours.ca_file, ca_file)
            await eventually(lambda: connection.is_connected)


async def test_the_system_does_not_know_a_home_made_ca(tmp_path: Path, ours: Authority) -> None:
    with tls_mosquitto(tmp_path, ours) as mosquitto:
        async with trying(mosquitto.settings()) as (_, logs):
            await eventually(lambda: logs)
    assert "mqtt.tls.ca_file" in logs[0]["do"]


async def test_a_certificate_for_another_name_is_named(tmp_path: Path, ours: Authority) -> None:
    with tls_mosquitto(tmp_path, ours) as mosquitto:
        settings = mosquitto.settings(host="localhost", ca_file=ours.ca_file)
        async with trying(settings) as (_, logs):
            await eventually(lambda: logs)
    assert "'localhost'" in logs[0]["reason"]
    assert "mqtt.host" in logs[0]["do"]


async def test_a_broker_that_wants_our_certificate_gets_it(tmp_path: Path, ours: Authority) -> None:
    own: dict[str, Any] = {"cert_file": ours.file("node.pem"), "key_file": ours.file("node.key")}
    with tls_mosquitto(tmp_path, ours, "require_certificate true") as mosquitto:
        async with trying(mosquitto.settings(ca_file=ours.ca_file)) as (connection, logs):
            await eventually(lambda: connection._link._backoff._failures > 2)
        assert [e["event"] for e in logs] == ["mqtt.dropped"]
        assert "mqtt.tls.cert_file" in logs[0]["do"]
        async with connected(mosquitto.settings(ca_file=ours.ca_file, **own)):
            pass


async def test_a_port_that_speaks_no_tls_is_named(mosquitto: Mosquitto, ours: Authority) -> None:
    tls = {"enabled": True, "ca_file": ours.ca_file}
    async with trying(mosquitto.broker().settings(tls=tls)) as (connection, logs):
        await eventually(lambda: connection._link._backoff._failures > 3)
    [said] = logs
    assert said["event"] == "mqtt.tls_failed"
    assert "does that port speak TLS" in said["do"]


async def test_a_port_that_speaks_nothing_else_is_named(tmp_path: Path, ours: Authority) -> None:
    with tls_mosquitto(tmp_path, ours) as mosquitto:
        async with trying(mosquitto.broker().settings()) as (connection, logs):
            await eventually(lambda: connection._link._backoff._failures > 3)
    [said] = logs
    assert said["event"] == "mqtt.dropped"
    assert "mqtt.tls.enabled" in said["do"]


async def test_a_file_that_cannot_be_used_is_named_before_anything_is_tried(
    tmp_path: Path,
) -> None:
    missing = tmp_path / "missing.pem"
    settings = MqttSettings(host=HOST, port=1, tls=TlsSettings(enabled=True, ca_file=missing))
    with capture_logs() as logs, pytest.raises(ConfigurationError, match=str(missing)):
        async with MqttConnection(settings, "ours", []):
            pass
    assert not logs


@pytest.mark.parametrize("field", ["ca_file", "cert_file", "key_file"])
def test_a_file_that_is_missing_is_named(tmp_path: Path, ours: Authority, field: str) -> None:
    files = {"cert_file": ours.file("node.pem"), "key_file": ours.file("node.key")}
    files[field] = tmp_path / "missing.pem"
    with pytest.raises(ConfigurationError, match=rf"mqtt\.tls\.{field}.*missing\.pem: No such"):
        make_tls_context(TlsSettings(enabled=True, **files))


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("-----BEGIN SHOPPING LIST-----")
    with pytest.raises(ConfigurationError, match=r"rubbish\.pem holds no certificate"):
        make_tls_context(TlsSettings(enabled=True, ca_file=rubbish))


def test_a_key_without_a_certificate_is_refused(ours: Authority) -> None:
    with pytest.raises(ConfigurationError, match=r"mqtt\.tls\.cert_file"):
        make_tls_context(TlsSettings(enabled=True, key_file=ours.file("node.key")))


@pytest.mark.parametrize("what", ["of another certificate", "with a passphrase", "not there"])
def test_a_key_that_does_not_fit_is_refused(tmp_path: Path, ours: Authority, what: str) -> None:
    key_file: Path | None = tmp_path / "key.pem"
    match what:
        case "of another certificate":
            key_file = ours.file("broker.key")
        case "with a passphrase":
            files = ("-in", str(ours.file("node.key")), "-out", str(key_file))
            openssl("ec", "-aes128", "-passout", "pass:secret", *files)
        case _:
            key_file = None
    with pytest.raises(ConfigurationError, match=r"node\.pem"):
        make_tls_context(
            TlsSettings(enabled=True, cert_file=ours.file("node.pem"), key_file=key_file)
        )


def test_a_key_may_be_in_the_file_of_its_certificate(tmp_path: Path, ours: Authority) -> None:
    both = tmp_path / "both.pem"
    both.write_text(ours.file("node.key").read_text() + ours.file("node.pem").read_text())
    make_tls_context(TlsSettings(enabled=True, cert_file=both))
