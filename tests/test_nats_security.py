"""What our configuration of nats-server promises, at a real one: who comes in, and who may what."""

import asyncio
import gc
import json
import re
import signal
import ssl
import subprocess
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge_llm.cli import run
from edge_llm.fleet.accounts import AccountsFile
from edge_llm.fleet.connection import connect_fleet
from edge_llm.node import open_node
from edge_llm.settings import Settings
from tests.accounts import answer_to, shown
from tests.clients import RawClient, eventually
from tests.nats import NatsServer
from tests.programs import HOST, free_port
from tests.secure_nats import SecureServer, make_certificates, secure_servers

NOT_AUTHORIZED = 135  # what paho makes of 5, MQTT 3.1.1, section 3.2.2.3
RELOADED = "Reloaded server configuration"
REFUSED = 0x80  # MQTT 3.1.1, section 3.9.3
OTHERS = (
    "#",
    "+/+/+",
    "llm/#",
    "llm/response/#",
    "llm/response/+",
    "llm/response/esp2",
    "llm/response/esp2/#",
    "llm/response/+/delta",
    "llm/request/#",
    "llm/work/#",
    "llm/node/#",
    "llm/node/+/command",
    "$MQTT/sub/#",
    "$MQTT/#",
    "$JS/#",
    "$KV/#",
    "$SYS/#",
    "_INBOX/#",
)


# nats-py leaves the writers of connections that were refused to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")


@pytest.fixture(autouse=True)
def no_writer_is_left_to_another_test() -> Iterator[None]:
    """Collect them here, where they are expected."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[SecureServer]:
    with secure_servers(tmp_path_factory.mktemp("nats"), certificates) as [server]:
        yield server


@asynccontextmanager
async def joined(settings: Settings) -> AsyncGenerator[None]:
    """Have a node join a fleet, until the context is left."""
    with capture_logs() as logs:
        async with open_node(settings):
            await eventually(lambda: "fleet.joined" in [entry["event"] for entry in logs], 10)
            yield
    events = {entry["event"] for entry in logs}
    assert not events & {"fleet.not_permitted", "mqtt.publish_refused", "mqtt.subscription_refused"}


async def granted(client: RawClient, topic_filter: str, qos: int = 1) -> int:
    """Subscribe, and return what the server says to it."""
    codes: list[int] = []
    client.paho.on_subscribe = lambda _c, _d, _mid, reasons, _p: codes.append(reasons[0].value)
    client.paho.subscribe(topic_filter, qos)
    await eventually(lambda: codes)
    return codes[0]


async def publish(client: RawClient, topic: str, payload: str = "x", *, retain: bool) -> None:
    """Publish at QoS 1, and wait until the server has acknowledged it."""
    info = client.publish(topic, payload, retain=retain)
    await eventually(info.is_published)


async def said_to(server: SecureServer, name: str, **how: Any) -> str:
    """Return what the server says to a NATS client; empty if it lets it in."""
    from nats.aio.client import Client
    from nats.errors import Error

    async def ignore(_exc: Exception) -> None:
        pass

    client = Client()
    how = {"tls": server.tls, "user": name, "password": f"password of {name}", **how}
    try:
        await client.connect(server.url, allow_reconnect=False, error_cb=ignore, **how)
    except (Error, OSError) as exc:
        return str(exc)
    await client.close()
    return ""


async def test_nobody_comes_in_without_an_account(server: SecureServer) -> None:
    assert await answer_to(server.client(None)) == NOT_AUTHORIZED
    assert await answer_to(server.client("nobody", "$2b$10$nobody")) == NOT_AUTHORIZED
    assert await answer_to(server.client("esp1", "wrong")) == NOT_AUTHORIZED
    assert await answer_to(server.client("esp1")) == 0
    assert "Authorization" in await said_to(server, "", user=None, password=None)
    assert "Authorization" in await said_to(server, "edge-llm", password="wrong")
    assert "Authorization" in await said_to(server, "esp1")  # devices speak MQTT
    assert await said_to(server, "edge-llm") == ""


async def test_nobody_comes_in_without_tls_or_to_a_server_of_others(server: SecureServer) -> None:
    reader, writer = await asyncio.open_connection(HOST, server.nats.mqtt_port)
    writer.write(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")  # CONNECT, with an empty id
    assert (await reader.read(4))[:1] != b"\x20"  # no CONNACK
    writer.close()
    assert "certificate verify failed" in await said_to(
        server, "edge-llm", tls=ssl.create_default_context()
    )
    with pytest.raises(ssl.SSLCertVerificationError):  # who does not know the CA
        await asyncio.open_connection(HOST, server.nats.mqtt_port, ssl=ssl.create_default_context())


async def test_a_device_reads_its_own_answers_and_no_others(server: SecureServer) -> None:
    async with server.client("esp1") as device, server.client("edge-llm") as node:
        for topic_filter in ("llm/response/esp1/#", "llm/node/+/status", "llm/node/n1/health"):
            for qos in (0, 1):
                assert await granted(device, topic_filter, qos) == qos
        for topic_filter in OTHERS:
            for qos in (0, 1):
                assert await granted(device, topic_filter, qos) == REFUSED, topic_filter
        node.publish("llm/response/esp2", "for the other")
        node.publish("llm/response/esp1/7", "for us")
        assert await device.wait_for("llm/response/esp1/7") == [b"for us"]
        assert [message.topic for message in device.messages] == ["llm/response/esp1/7"]


async def test_a_device_publishes_under_its_own_name_only(server: SecureServer) -> None:
    forbidden = (
        "llm/request/esp2",
        "llm/cancel/esp2",
        "llm/session/esp2/reset",
        "llm/response/esp1",
        "llm/work/any/9",
        "llm/fleet/peers",
        "llm/node/n1/command",
        "llm/node/n1/status",
        "$JS/API/STREAM/CREATE/EVIL",
        "$KV/LLM_ANSWERS/x",
        "$MQTT/sub/x",
        "homeassistant/device/x/config",
    )
    async with server.client("admin") as admin, server.client("esp1") as device:
        await admin.subscribe("llm/#", "homeassistant/#", "$KV/#")
        for topic in forbidden:  # it is acknowledged, and dropped
            for retain in (False, True):
                await publish(device, topic, retain=retain)
        await publish(device, "llm/cancel/esp1/last", retain=False)
        await admin.wait_for("llm/cancel/esp1/last")
        assert [message.topic for message in admin.messages] == ["llm/cancel/esp1/last"]
    async with server.client("admin") as later:
        await later.subscribe("llm/#", "homeassistant/#")
        await publish(later, "llm/end", retain=False)
        await later.wait_for("llm/end")
        assert [message.topic for message in later.messages] == ["llm/end"]  # nothing retained


async def test_a_will_has_no_more_rights_than_who_made_it(server: SecureServer) -> None:
    async with server.client("admin") as admin:
        await admin.subscribe("llm/#")
        for topic in ("llm/node/n1/status", "llm/cancel/esp1/will"):
            device = server.client("esp1")
            device.paho.will_set(topic, "gone", 1)
            async with device:
                device.paho._sock_close()  # as a power cut does
        await admin.wait_for("llm/cancel/esp1/will")
        assert [message.topic for message in admin.messages] == ["llm/cancel/esp1/will"]


async def test_the_client_id_of_another_gives_none_of_its_messages(server: SecureServer) -> None:
    ours: dict[str, Any] = {"client_id": "esp1", "clean": False}
    async with server.client("edge-llm") as node:
        async with server.client("esp1", **ours) as device:
            await device.subscribe("llm/response/esp1/#")
        node.publish("llm/response/esp1/away", "secret")
        async with server.client("esp2", **ours) as thief:
            node.publish("llm/response/esp1/live", "secret")
            await thief.subscribe("llm/response/esp2/#")
            node.publish("llm/response/esp2/end", "last")
            await thief.wait_for("llm/response/esp2/end")
            assert [message.topic for message in thief.messages] == ["llm/response/esp2/end"]
        async with server.client("esp1", **ours) as device:
            await device.wait_for("llm/response/esp1/away")
            await device.wait_for("llm/response/esp1/live")


async def test_a_node_answers_a_device_with_the_rights_of_its_account(server: SecureServer) -> None:
    begin = len(server.nats.log.read_text())
    async with (
        joined(server.settings("n1", tokens_per_s=10)),
        server.client("esp1") as device,
        server.client("esp2") as other,
        server.client("ha") as home,
    ):
        await device.subscribe("llm/response/esp1/#", "llm/node/+/status")
        await other.subscribe("llm/response/esp2/#")
        await home.subscribe("llm/node/+/activity")
        assert await device.wait_for("llm/node/n1/status") == [b"online"]
        device.publish("llm/request/esp1", "Who is there?")
        assert await device.wait_for("llm/response/esp1") == [b"Here is n1."]
        device.publish("llm/request/esp1/2", json.dumps({"prompt": "Hi", "session": "esp1"}))
        await device.wait_for("llm/response/esp1/2")
        device.publish("llm/session/esp1/reset", b"")
        device.publish("llm/request/esp1/3", json.dumps({"prompt": 1}))
        await device.wait_for("llm/response/esp1/3")  # refused
        device.publish("llm/request/esp1/4", json.dumps({"prompt": "Hi", "stream": "token"}))
        await device.wait_for("llm/response/esp1/4/delta")
        device.publish("llm/cancel/esp1/4", b"", 0)
        [cancelled] = await device.wait_for("llm/response/esp1/4")
        assert json.loads(cancelled)["finish_reason"] == "cancelled"
        home.publish("llm/node/n1/command", "pause")
        await eventually(lambda: b"paused" in home.payloads("llm/node/n1/activity"))
        assert not other.messages
    assert "Violation" not in server.nats.log.read_text()[begin:]


async def test_a_node_can_not_change_or_delete_what_all_rely_on(server: SecureServer) -> None:
    from nats.errors import TimeoutError as NoAnswer

    forbidden = (
        "STREAM.DELETE.LLM_WORK",
        "STREAM.UPDATE.LLM_WORK",
        "STREAM.PURGE.LLM_REQUESTS",
        "STREAM.MSG.DELETE.LLM_REQUESTS",
        "STREAM.DELETE.$MQTT_sess",
        "STREAM.PURGE.$MQTT_msgs",
        "CONSUMER.DELETE.$MQTT_msgs.x",
        "STREAM.SNAPSHOT.LLM_WORK",
    )
    async with joined(server.settings("n1")):
        with capture_logs() as logs:
            settings = server.settings("n1").fleet
            async with connect_fleet(settings, "thief") as client:
                for call in forbidden:
                    with pytest.raises(NoAnswer):
                        await client.request(f"$JS.API.{call}", b"{}", timeout=0.02)
                known = await client.jetstream().stream_info("LLM_WORK")
                assert known.config.name == "LLM_WORK"
        told = [e["reason"] for e in logs if e["event"] == "fleet.not_permitted"]
        assert len(told) == len(forbidden)


def test_the_server_has_limits_and_asks_for_accounts(server: SecureServer) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.monitor_port}/varz") as answer:
        said = json.load(answer)
    assert said["max_payload"] == 1_000_000 or said["max_payload"] == 1 << 20
    assert said["max_connections"] == 400
    assert said["max_pending"] in (16_000_000, 16 << 20)
    assert said["jetstream"]["config"]["max_storage"] in (2_000_000_000, 2 << 30)
    assert said["auth_required"]
    assert said["tls_required"]
    assert said["mqtt"]["tls_timeout"] == 10
    assert said["http_host"] == "127.0.0.1"


async def test_a_device_comes_and_goes_and_nobody_else_notices(
    tmp_path: Path, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with secure_servers(tmp_path, certificates) as [server]:
        ends: list[str] = []

        async def reload() -> None:
            before = server.nats.log.read_text().count(RELOADED)
            server.nats.process.send_signal(signal.SIGHUP)
            # Who connects meanwhile is let in after 4 s only (nats-server 2.9.10).
            await eventually(lambda: server.nats.log.read_text().count(RELOADED) > before)

        file = ("--file", str(server.accounts))
        async with joined(server.settings("n1")), server.client("esp1") as device:
            device.paho.on_disconnect = lambda *_: ends.append("esp1")
            await device.subscribe("llm/response/esp1/#")
            assert run(["nats-user", "add", "button7", *file]) == 0
            password = shown(capsys.readouterr().out, "password")
            assert server.accounts.stat().st_mode & 0o777 == 0o600
            assert password not in server.accounts.read_text()
            await reload()
            async with server.client("button7", password) as button:
                await button.subscribe("llm/response/button7/#")
                button.publish("llm/request/button7", "Who is there?")
                assert await button.wait_for("llm/response/button7") == [b"Here is n1."]
                assert await granted(button, "llm/response/esp1") == REFUSED
                gone: list[bool] = []
                button.paho.on_disconnect = lambda *_: gone.append(True)
                assert run(["nats-user", "remove", "button7", *file]) == 0
                await reload()
                await eventually(lambda: gone)
            assert await answer_to(server.client("button7", password)) == NOT_AUTHORIZED
            device.publish("llm/request/esp1", "Still there?")
            assert await device.wait_for("llm/response/esp1") == [b"Here is n1."]
            assert ends == []


async def test_without_any_account_nobody_comes_in(tmp_path: Path, certificates: Path) -> None:
    with secure_servers(tmp_path, certificates, accounts=("esp1",)) as [server]:
        AccountsFile(server.accounts).remove("esp1")
        server.nats.stop()
        server.nats.start()
        await asyncio.to_thread(server.nats.wait)
        assert await answer_to(server.client(None)) == NOT_AUTHORIZED
        assert "Authorization" in await said_to(server, "", user=None, password=None)


def test_the_configuration_for_three_servers_is_taken(tmp_path: Path, certificates: Path) -> None:
    with secure_servers(tmp_path, certificates, 3, start=False) as servers:
        for server in servers:
            command = ["nats-server", "-t", "-c", str(server.nats.config)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert "is valid" in done.stderr, done.stderr


@pytest.mark.soak
async def test_three_servers_answer_devices_also_when_one_dies(
    tmp_path: Path, certificates: Path
) -> None:
    with secure_servers(tmp_path, certificates, 3) as servers:
        first, second, third = servers
        urls = [server.url for server in servers]
        async with (
            joined(second.settings("n2", *urls)),
            third.client("esp1", client_id="esp1", clean=False) as device,
            second.client("esp2") as other,
        ):
            await device.subscribe("llm/response/esp1/#")
            device.publish("llm/request/esp1/1", "Who is there?")
            assert await device.wait_for("llm/response/esp1/1", timeout_s=20) == [b"Here is n2."]
            assert await granted(other, "llm/response/esp1/1") == REFUSED
            first.nats.kill()
            for number in (2, 3):
                device.publish(f"llm/request/esp1/{number}", "Who is there?")
                topic = f"llm/response/esp1/{number}"
                # It may be disconnected, too, where the server that died led the messages of MQTT.
                assert await device.wait_for(topic, timeout_s=40) == [b"Here is n2."]


async def test_a_server_without_certificate_or_password_does_not_join(
    tmp_path: Path, certificates: Path
) -> None:
    with secure_servers(tmp_path, certificates, 3, start=False) as [server, *_]:
        server.nats.start()  # without the others it listens for them, and for nobody else
        log = server.nats.log
        await eventually(lambda: "Listening for route" in log.read_text(), 10)
        here = (server.etc / "edge-llm-here.conf").read_text()
        route = re.findall(r"nats://cluster:sesame@(\S+)\"", here)[0]
        places = {"cert": "edge-llm.pem", "key": "edge-llm.key", "ca": "edge-llm-ca.pem"}
        files = ", ".join(f'{kind}_file: "{server.etc / name}"' for kind, name in places.items())
        strangers = {
            f"nats://cluster:sesame@{route}": ("", "TLS route handshake error"),
            f"nats://cluster:wrong@{route}": (f"tls {{ {files} }},", "authentication error"),
        }
        try:
            for number, (url, (tls, refusal)) in enumerate(strangers.items()):
                stranger = NatsServer(
                    "x", free_port(), 0, tmp_path / f"x{number}.conf", tmp_path / f"x{number}.log"
                )
                stranger.config.write_text(
                    f'server_name: x\nlisten: "{HOST}:{stranger.port}"\ncluster {{ name: edge-llm, '
                    f'{tls} listen: "{HOST}:{free_port()}", routes: ["{url}"] }}\n'
                )
                stranger.start()
                try:
                    await eventually(partial(says, log, refusal), 10, log.read_text)
                finally:
                    stranger.stop()
        finally:
            server.nats.stop()


def says(log: Path, words: str) -> bool:
    return words in log.read_text()
