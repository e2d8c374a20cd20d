"""What goes wrong with a broker: said once, with its cure, and over when its cause is."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge_llm.errors import ConfigurationError
from edge_llm.mqtt import MqttConnection
from edge_llm.mqtt import backoff as mqtt_backoff
from edge_llm.mqtt import connection as mqtt
from edge_llm.mqtt import link as mqtt_link
from edge_llm.mqtt.trouble import Trouble
from edge_llm.settings import MqttSettings
from tests.brokers import Mosquitto, Proxy
from tests.clients import eventually
from tests.programs import HOST, do_without, free_port, require_program
from tests.test_mqtt_connection import Protocol, connected, logged

pytestmark = pytest.mark.usefixtures("reconnects_quickly")


@pytest.fixture(autouse=True)
def answers_are_due_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_link, "ANSWER_TIMEOUT_S", 0.3)
    monkeypatch.setattr(mqtt_link, "CONNECT_TIMEOUT_S", 0.2)


@asynccontextmanager
async def trying(
    settings: MqttSettings, client_id: str = "ours"
) -> AsyncGenerator[tuple[MqttConnection, list[Any]]]:
    """Open a connection that need not come about, and give what is logged, too."""
    with capture_logs() as logs:
        async with MqttConnection(settings, client_id, []) as connection:
            yield connection, logs


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that lets nobody in: its queue is full, as when packets are thrown away."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        fillers = [socket.socket() for _ in range(2)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((HOST, port))
        yield port
        for filler in fillers:
            filler.close()


async def test_nobody_listens(mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    async with trying(mosquitto.broker().settings()) as (connection, logs):
        await eventually(lambda: connection._link._backoff._failures > 3)
        mosquitto.start()
        await eventually(lambda: connection.is_connected)
        mosquitto.stop()  # it is news again
        await eventually(lambda: len(logged(logs, "mqtt.unreachable")) > 1)
        await eventually(lambda: connection._link._backoff._failures > 3)
    said = logged(logs, "mqtt.unreachable")
    assert [entry["reason"] for entry in said] == ["connection refused"] * 2
    assert "mqtt.port" in said[0]["do"]


async def test_the_name_is_unknown() -> None:
    settings = MqttSettings(host="nowhere.invalid", port=free_port())
    async with trying(settings) as (_, logs):
        await eventually(lambda: logs)
    assert logs[0]["reason"] == "name unknown"
    assert "mqtt.host" in logs[0]["do"]


async def test_the_machine_does_not_answer(deaf_port: int) -> None:
    async with trying(MqttSettings(host=HOST, port=deaf_port)) as (_, logs):
        await eventually(lambda: logs)
    assert [(e["event"], e["reason"]) for e in logs] == [("mqtt.unreachable", "timed out")]


@pytest.mark.parametrize("host", ["", "a..b", ".local", "x" * 64])
async def test_a_host_that_can_be_none_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"mqtt\.host"):
        async with MqttConnection(MqttSettings(host=host), "ours", []):
            pass


async def test_the_delays_of_a_bad_hour_are_forgotten_when_it_is_over(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "RECONNECT_DELAY_S", (0.02, 60))
    async with Proxy(mosquitto.port) as proxy:
        proxy.refuses = True
        async with trying(mosquitto.broker().settings(port=proxy.port)) as (connection, _):
            await eventually(lambda: connection._link._backoff._failures == 7, 10)
            proxy.refuses = False
            await eventually(lambda: connection.is_connected)
            proxy.cut()  # the next delay would have been 0.64 s or more
            await eventually(lambda: connection.connection == 2, 0.5)


@pytest.mark.parametrize("what", ["refuses", "swallows"])
async def test_who_has_left_says_nothing_more(mosquitto: Mosquitto, what: str) -> None:
    async with Proxy(mosquitto.port) as proxy:
        setattr(proxy, what, True)
        settings = mosquitto.broker("3.1.1").settings(port=proxy.port)
        for delay_s in (0, 0.001, 0.002, 0.005):
            with capture_logs() as logs:
                async with MqttConnection(settings, "ours", []):
                    await asyncio.sleep(delay_s)
                before = len(logs)
                for _ in range(4):
                    await asyncio.sleep(0.1)
            assert len(logs) == before


async def test_whoever_breaks_off_before_the_answer_is_said_once(mosquitto: Mosquitto) -> None:
    async with Proxy(mosquitto.port) as proxy:
        proxy.refuses = True
        settings = mosquitto.broker().settings(port=proxy.port)
        async with trying(settings) as (connection, logs):
            await eventually(lambda: proxy.num_connections > 3)
            proxy.refuses = False
            await eventually(lambda: connection.is_connected)
            assert connection.protocol == "5"
    assert [e["event"] for e in logs] == ["mqtt.dropped", "mqtt.connected"]
    assert "mqtt.tls.enabled" in logs[0]["do"]


def make_account(passwords: Path, name: str, password: str) -> None:
    program = require_program("mosquitto_passwd", "mosquitto")
    subprocess.run([program, "-b", str(passwords), name, password], check=True)


async def test_an_account_that_is_made_meanwhile_is_enough(
    tmp_path: Path, protocol: Protocol
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    changes = {"allow_anonymous": "false", "password_file": str(passwords)}
    with Mosquitto(tmp_path, changes) as mosquitto:
        settings = mosquitto.broker(protocol).settings(username="llm", password="right")
        async with trying(settings) as (connection, logs):
            await eventually(lambda: mosquitto.log.read_text().count("not authorised") > 2)
            make_account(passwords, "llm", "right")
            mosquitto.reload()
            await eventually(lambda: connection.is_connected)
            assert connection.protocol == protocol
    assert [e["event"] for e in logs] == ["mqtt.refused", "mqtt.connected"]


async def test_a_broker_that_forgets_mqtt_5_gets_what_it_had_not_confirmed(
    mosquitto: Mosquitto,
) -> None:
    async with Proxy(mosquitto.port) as proxy, mosquitto.broker().client() as client:
        await client.subscribe("t/+")
        settings = mosquitto.broker().settings(port=proxy.port)
        async with trying(settings) as (connection, _):
            await eventually(lambda: connection.is_connected)
            proxy.reads.clear()
            sent = [connection.publish(f"t/{number}", b"", 1) for number in range(30)]
            await asyncio.sleep(0.05)
            proxy.only_3_1_1 = "refuse"
            proxy.cut()
            proxy.reads.set()
            sent.append(connection.publish("t/30", b"", 1))
            await asyncio.wait_for(asyncio.gather(*sent), 5)
            assert connection.protocol == "3.1.1"
            await client.wait_for("t/30")
    assert [m.topic for m in client.messages] == [f"t/{number}" for number in range(31)]


async def test_a_broker_that_learns_3_1_1_meanwhile_is_spoken_to(mosquitto: Mosquitto) -> None:
    async with Proxy(mosquitto.port) as proxy:
        proxy.only_5 = True
        settings = mosquitto.broker("3.1.1").settings(port=proxy.port)
        async with trying(settings) as (connection, logs):
            await eventually(lambda: proxy.num_connections > 6)
            assert "mqtt.protocol" in logs[0]["do"]
            proxy.only_5 = False
            await eventually(lambda: connection.is_connected)
            # paho alone would speak 3.1 from now on, which mosquitto knows as protocol 3.
            assert "as ours (p2, " in mosquitto.log.read_text()
    assert [e["event"] for e in logs] == ["mqtt.refused", "mqtt.connected"]


async def test_a_broker_that_is_busy_for_once_keeps_mqtt_5(mosquitto: Mosquitto) -> None:
    async with Proxy(mosquitto.port) as proxy:
        settings = mosquitto.broker().settings(port=proxy.port)
        async with trying(settings) as (connection, logs):
            await eventually(lambda: connection.is_connected)
            proxy.swallows = True
            proxy.cut()
            await eventually(lambda: logged(logs, "mqtt.unanswered"))
            proxy.swallows = False
            proxy.cut()
            await eventually(lambda: connection.is_connected)
            assert connection.protocol == "5"
    assert not logged(logs, "mqtt.downgraded")


async def test_a_broker_that_answers_neither_is_asked_for_mqtt_5_again(
    mosquitto: Mosquitto,
) -> None:
    async with Proxy(mosquitto.port) as proxy:
        proxy.swallows = True
        settings = mosquitto.broker().settings(port=proxy.port)
        async with trying(settings) as (connection, logs):
            await eventually(lambda: logged(logs, "mqtt.unanswered"))
            assert connection.protocol == "3.1.1"
            proxy.swallows = False
            proxy.cut()
            await eventually(lambda: connection.is_connected)
            assert connection.protocol == "5"
    assert [e["event"] for e in logs] == [
        "mqtt.downgraded",
        "mqtt.unanswered",
        "mqtt.connected",
    ]


async def test_a_broker_that_says_who_took_our_place(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_backoff, "STABLE_S", 0.5)
    async with Proxy(mosquitto.port) as proxy:
        settings = mosquitto.broker().settings(port=proxy.port)
        async with trying(settings, "edge-llm-stage") as (connection, logs):
            for count in (1, 2, 3):
                await eventually(lambda count=count: connection.connection == count)  # type: ignore[misc]
                proxy.take_over()
                await eventually(lambda: not connection.is_connected)
            assert [e["reason"] for e in logged(logs, "mqtt.disconnected")] == [
                "Session taken over"
            ] * 3
            [said] = logged(logs, "mqtt.taken_over")
            await eventually(lambda: connection.connected_for_s > 0.5)
            proxy.take_over()
            await eventually(lambda: len(logged(logs, "mqtt.taken_over")) == 2)
    assert "node = " in said["do"]
    assert "'edge-llm-stage'" in said["do"]


async def test_two_nodes_of_one_name_let_each_other_live(
    mosquitto: Mosquitto, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_backoff, "TAKEN_OVER_FIRST", 20)  # 1 s, as the usual delay is 0.05 s
    monkeypatch.setattr(mqtt_backoff, "TAKEN_OVER_LONGEST", 1000)
    settings = mosquitto.broker(protocol).settings()
    async with AsyncExitStack() as both, trying(settings) as (first, logs):
        second = await both.enter_async_context(MqttConnection(settings, "ours", []))
        await eventually(lambda: len(logged(logs, "mqtt.taken_over")) == 2, 10)
        before = first.connection + second.connection
        for _ in range(10):
            await asyncio.sleep(0.1)
        assert first.connection + second.connection <= before + 4
        await both.aclose()
        await eventually(lambda: first.is_connected, 10)
    assert len(logged(logs, "mqtt.taken_over")) == 2  # each said it once


async def test_a_broker_that_is_restarted_again_and_again_is_no_other_node(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    async with trying(mosquitto.broker(protocol).settings()) as (connection, logs):
        for count in range(1, 6):
            await eventually(lambda count=count: connection.connection == count)  # type: ignore[misc]
            mosquitto.stop()
            await eventually(lambda: connection._link._backoff._failures > 0)
            mosquitto.start()
    assert not logged(logs, "mqtt.taken_over")


@pytest.fixture
def plugin() -> Path:
    """The part of mosquitto that refuses subscriptions."""
    found = next(Path("/usr/lib").glob("**/mosquitto_dynamic_security.so"), None)
    return found or do_without("this mosquitto has no mosquitto_dynamic_security.so")


async def test_a_subscription_that_is_refused_is_said_once(tmp_path: Path, plugin: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(
        '{"defaultACLAccess": {"publishClientSend": true, "publishClientReceive": true, '
        '"subscribe": false, "unsubscribe": true}}'
    )
    more = (f"plugin {plugin}", f"plugin_opt_config_file {rules}")
    with Mosquitto(tmp_path, {}, *more) as mosquitto, capture_logs() as logs:
        async with Proxy(mosquitto.port) as proxy:
            settings = mosquitto.broker().settings(port=proxy.port)
            async with connected(settings, "llm/request/+") as connection:
                proxy.cut()
                await eventually(lambda: connection.connection == 2)
                await asyncio.wait_for(connection.publish("t", b"", 1), 5)
    [said] = logged(logs, "mqtt.subscription_refused")
    assert "llm/request/+" in said["do"]
    assert said["reason"] == "Not authorized"


def tls_error(kind: type[ssl.SSLError], **attributes: Any) -> ssl.SSLError:
    exc = kind(1, "failed")
    for name, value in attributes.items():
        setattr(exc, name, value)
    return exc


@pytest.mark.parametrize(
    ("exc", "event", "cure"),
    [
        (OSError(113, "No route to host"), "mqtt.unreachable", "network"),
        (TimeoutError("timed out"), "mqtt.unreachable", "firewall"),
        (ConnectionRefusedError(111, "refused"), "mqtt.unreachable", "running"),
        (TimeoutError("_ssl.c:1: The handshake operation timed out"), "mqtt.tls_failed", "8883"),
        (ConnectionResetError(104, "reset"), "mqtt.tls_failed", "8883"),
        (ssl.SSLEOFError(8, "EOF"), "mqtt.tls_failed", "8883"),
        (tls_error(ssl.SSLError, reason="WRONG_VERSION_NUMBER"), "mqtt.tls_failed", "8883"),
        (
            tls_error(ssl.SSLError, reason="TLSV1_ALERT_UNKNOWN_CA"),
            "mqtt.tls_failed",
            "mqtt.tls.cert_file",
        ),
        (
            tls_error(ssl.SSLError, reason="TLSV1_ALERT_PROTOCOL_VERSION"),
            "mqtt.tls_failed",
            "broker's log",
        ),
        *(
            (
                tls_error(
                    ssl.SSLCertVerificationError, verify_code=code, verify_message="is wrong."
                ),
                "mqtt.tls_failed",
                cure,
            )
            for code, cure in (
                (9, "clock"),
                (10, "renew"),
                (18, "ca_file"),
                (19, "ca_file"),
                (20, "ca_file"),
                (62, "mqtt.host"),
                (64, "mqtt.host"),
            )
        ),
        (None, "mqtt.unreachable", "mqtt.host"),
    ],
)
def test_each_failure_has_a_reason_and_a_cure(
    exc: BaseException | None, event: str, cure: str
) -> None:
    trouble = Trouble("broker:8883", has_tls=True)
    with capture_logs() as logs:
        trouble.could_not_connect(exc)
        trouble.could_not_connect(exc)
    [said] = logs
    assert said["event"] == event
    assert said["reason"]
    assert cure in said["do"]
    assert said["broker"] == "broker:8883"


def test_another_reason_is_news() -> None:
    trouble = Trouble("broker:1883", has_tls=False)
    with capture_logs() as logs:
        for _ in range(3):
            trouble.could_not_connect(TimeoutError("timed out"))
            trouble.could_not_connect(OSError(113, "No route to host"))
    assert [e["reason"] for e in logs] == ["timed out", "No route to host"]


@pytest.mark.parametrize(
    ("away_s", "told", "cure"),
    [(5, True, "persistence"), (3600, True, "session_expiry_s"), (3600, False, "persistence")],
)
def test_a_session_that_just_expired_has_another_cure(away_s: float, told: bool, cure: str) -> None:
    with capture_logs() as logs:
        Trouble("broker:1883", has_tls=False).session_lost(away_s, 3600, told=told)
    assert cure in logs[0]["do"]
