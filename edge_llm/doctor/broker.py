"""The broker: whether it lets us in, what it is, how fast it is, and what it keeps.

What it does not say is measured, on topics of our own below the node's: how long an answer takes,
how many messages it hands out that nobody acknowledges, what it keeps for a client that is away.
With MQTT 5 clients say how many messages they take unacknowledged; with MQTT 3.1.1 the broker alone
decides. Nothing is left behind.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from statistics import median

from edge_llm.doctor.case import Case
from edge_llm.doctor.check import cut
from edge_llm.doctor.credstore import with_credentials
from edge_llm.doctor.finding import Finding, fail, ok, skip, warn
from edge_llm.doctor.probe import Probe, ProbeError, Protocol, open_probe
from edge_llm.doctor.threads import in_thread
from edge_llm.errors import ConfigurationError
from edge_llm.section import is_loopback
from edge_llm.settings import MqttSettings
from edge_llm.topics import Topics

__all__ = [
    "HANGS",
    "Meeting",
    "connect",
    "examine_delay",
    "examine_reachable",
    "examine_session",
    "examine_window",
    "is_met",
    "meet",
    "new_client_id",
]

HANGS = (
    "is that machine on, in this network, and not behind a firewall? try "
    "'mosquitto_sub -h HOST -t x -W 3'; on the broker's machine: sudo systemctl restart mosquitto"
)
MEASURED = "topics below llm/node/ are not delivered to this account, so it can't be measured"
SILENCE_S = 0.7  # after which no more comes
ECHO_S = 1.0
NUM_ECHOES = 9
PAUSE_S = 0.01  # or what acknowledges the answer before acknowledges the next thing, too
DELAY_S = 0.02
"""What QoS 1 may cost beyond QoS 0; a delayed acknowledgement costs 40 ms."""
NUM_PROBES = 128
"""More than any queue that makes sense; mosquitto's own window is 20."""
AWAY_EXPIRY_S = 60


@dataclass(frozen=True, slots=True)
class Meeting:
    """How it went to be let in.

    Attributes:
        mqtt: the settings, with the password at hand.
        protocol: the version that is spoken; None if the broker did not let us in.
        found: why not.
        cure: what to do.
    """

    mqtt: MqttSettings
    protocol: Protocol | None
    found: str = ""
    cure: str = ""

    @property
    def where(self) -> str:
        """The broker's address."""
        return f"{self.mqtt.host}:{self.mqtt.port}"


def new_client_id() -> str:
    """Return a client id that nobody else has."""
    return f"edge-llm-doctor-{secrets.token_hex(4)}"


def own_topic(case: Case, client_id: str) -> str:
    """Return a topic that nobody else listens to, where a node may read and write."""
    topics = Topics(case.settings.mqtt.prefix, case.settings.node)
    return f"{topics.prefix}/node/{topics.node}/doctor/{client_id}"


async def meet(case: Case) -> Meeting:
    """Find out how the broker lets us in."""
    mqtt = await in_thread(lambda: with_credentials(case.settings.mqtt, case.machine))
    tries: tuple[Protocol, ...] = ("3.1.1",) if mqtt.protocol == "3.1.1" else ("5",)
    tries += ("3.1.1",) if mqtt.protocol == "auto" else ()
    meeting = Meeting(mqtt, None)
    for protocol in tries:
        try:
            async with open_probe(mqtt, new_client_id(), protocol):
                return Meeting(mqtt, protocol)
        except ConfigurationError as exc:
            return Meeting(mqtt, None, *cut(exc.message))
        except ProbeError as exc:
            meeting = Meeting(mqtt, None, exc.found, exc.cure)
            if not exc.is_version:
                break
    return meeting


async def is_met(case: Case) -> Meeting | None:
    """Return how the broker let us in; None if it did not, or nobody asks for one."""
    if case.settings_error or not case.settings.mqtt.enabled:
        return None
    meeting = await case.once(meet)
    return meeting if meeting.protocol else None


async def examine_reachable(case: Case) -> AsyncGenerator[Finding]:
    """Whether the broker lets us in, which MQTT it speaks, and what it is."""
    name = "broker.reachable"
    if case.settings_error:
        yield skip(name, "the settings can't be read")
        return
    if not case.settings.mqtt.enabled:
        yield skip(name, "MQTT is switched off (mqtt.enabled)")
        return
    meeting = await case.once(meet)
    if meeting.protocol is None:
        cure = await in_thread(lambda: _cure(case, meeting))
        yield fail(name, f"{meeting.where}: {meeting.found}", cure)
        return
    yield ok(name, f"{meeting.where} lets us in")
    if meeting.protocol == "5":
        yield ok("broker.protocol", "MQTT 5")
    else:
        yield _judge_old_protocol(case)
    yield await _read_version(meeting)


def _judge_old_protocol(case: Case) -> Finding:
    name, mqtt = "broker.protocol", case.settings.mqtt
    if case.settings.fleet.servers:
        return ok(name, "MQTT 3.1.1, as nats-server speaks it")
    found = "MQTT 3.1.1 only: requests do not expire at the broker, and replies go to one place"
    if mqtt.protocol == "3.1.1":
        return ok(name, "MQTT 3.1.1, as mqtt.protocol says")
    return warn(name, found, "sudo apt install mosquitto, which speaks MQTT 5, as the broker")


def _cure(case: Case, meeting: Meeting) -> str:
    """Return what to do about a broker that does not let us in."""
    if case.settings.fleet.servers:  # their door for MQTT
        return meeting.cure
    if meeting.found != "connection refused" or not is_loopback(meeting.mqtt.host):
        return meeting.cure
    if not case.machine.which("mosquitto"):
        return "sudo apt install mosquitto, and 'edge-llm doctor' again"
    return "sudo systemctl start mosquitto; if it does not start: journalctl -u mosquitto -n 20"


async def _read_version(meeting: Meeting) -> Finding:
    name, topic = "broker.version", "$SYS/broker/version"
    async with connect(meeting) as probe:
        await probe.subscribe(topic, 0)
        message = await probe.receive(ECHO_S)
    if message is None:
        return skip(name, "it does not say what it is ($SYS/broker/version)")
    text = message.payload.decode(errors="replace")[:80]
    if "amqtt" in text.lower():
        found = f"{text}: forgets what it held for a client that was away"
        return warn(name, found, "sudo apt install mosquitto, for anything but a trial")
    words = text.split()
    if "mosquitto" in text and words[-1][:2] in ("0.", "1."):
        return warn(name, f"{text}: old", "sudo apt install mosquitto: 2.0 or later")
    return ok(name, text)


async def examine_delay(case: Case) -> AsyncGenerator[Finding]:
    """Whether both ends send small packets at once (TCP_NODELAY), by the time of an answer."""
    name = "broker.nodelay"
    meeting = await is_met(case)
    if meeting is None:
        yield skip(name, "no connection to the broker")
        return
    topic = own_topic(case, new_client_id())
    async with connect(meeting) as asker, connect(meeting) as answerer:
        await asker.subscribe(f"{topic}/back", 1)
        await answerer.subscribe(f"{topic}/there", 1)
        try:
            fast_s = await _ask(asker, answerer, topic, 0)
            slow_s = await _ask(asker, answerer, topic, 1)
        except TimeoutError:
            yield skip(name, MEASURED)
            return
    found = f"an answer takes {1000 * fast_s:.1f} ms at QoS 0, {1000 * slow_s:.1f} ms at QoS 1"
    if slow_s - fast_s < DELAY_S:
        yield ok(name, found)
        return
    yield warn(
        name,
        f"{found}: the broker waits for delayed acknowledgements",
        "put 'set_tcp_nodelay true' into /etc/mosquitto/conf.d/edge-llm.conf, and "
        "sudo systemctl restart mosquitto",
    )


async def _ask(asker: Probe, answerer: Probe, topic: str, qos: int) -> float:
    """Return how long a question and its answer take, in seconds.

    It takes two clients: the answer must be the second thing that the broker sends to the one who
    asked, soon after the acknowledgement of the question.
    """
    times = []
    for number in range(NUM_ECHOES):
        payload = b"%d %d" % (qos, number)
        await asyncio.sleep(PAUSE_S)
        began = time.monotonic()
        asker.send(f"{topic}/there", payload, qos)
        await answerer.expect(payload, ECHO_S)
        answerer.send(f"{topic}/back", payload, qos)
        await asker.expect(payload, ECHO_S)
        times.append(time.monotonic() - began)
    return median(times)  # some are slow as the machine is busy


async def examine_window(case: Case) -> AsyncGenerator[Finding]:
    """How many requests the broker hands out at once: as many as the queue holds, or fewer."""
    name = "broker.inflight"
    meeting = await is_met(case)
    if meeting is None:
        yield skip(name, "no connection to the broker")
        return
    held = case.settings.engine.queue.limit + 1
    window = await _measure_window(case, meeting, held)
    if window == 0:
        yield skip(name, MEASURED)
    elif window >= min(held, NUM_PROBES):
        yield ok(name, f"it hands out {window} requests at once; the queue holds {held}")
    else:
        yield warn(
            name,
            f"it hands out {window} requests at once, and keeps the others; the queue would hold "
            f"{held}, so priorities and queue_full come late",
            f"put 'max_inflight_messages {held}' into /etc/mosquitto/conf.d/edge-llm.conf, and "
            "sudo systemctl restart mosquitto",
        )


async def _measure_window(case: Case, meeting: Meeting, held: int) -> int:
    """Return how many messages are sent to a client that does not acknowledge any."""
    client_id = new_client_id()
    topic = own_topic(case, client_id)
    async with (
        connect(meeting, client_id, window=held) as ours,
        connect(meeting) as sender,
    ):
        await ours.subscribe(topic, 1)
        for number in range(min(held, NUM_PROBES)):
            sender.send(topic, b"%d" % number, 1)
        return await _count(ours, min(held, NUM_PROBES))


async def examine_session(case: Case) -> AsyncGenerator[Finding]:
    """Whether the broker keeps requests for a node that is away for a moment, and how many."""
    name = "broker.session"
    meeting = await is_met(case)
    if meeting is None:
        yield skip(name, "no connection to the broker")
        return
    client_id = new_client_id()
    topic = own_topic(case, client_id)
    sent = min(case.settings.engine.queue.limit + 1, NUM_PROBES)
    async with connect(meeting, client_id, session_s=AWAY_EXPIRY_S) as probe:
        await probe.subscribe(topic, 1)
        is_read = await _is_delivered(probe, topic)
    async with connect(meeting) as sender:
        for number in range(sent):
            await sender.publish(topic, b"%d" % number, 1)
    async with connect(meeting, client_id, session_s=AWAY_EXPIRY_S, clean=False) as probe:
        is_known, count = probe.session_present, await _count(probe, sent)
    async with connect(meeting, client_id):  # which ends the session
        pass
    yield _judge_session(name, is_read=is_read, is_known=is_known, count=count, sent=sent)


def _judge_session(name: str, *, is_read: bool, is_known: bool, count: int, sent: int) -> Finding:
    if not is_read:
        return skip(name, MEASURED)
    if not is_known or count == 0:
        return fail(
            name,
            "it forgets a client that is away: requests meanwhile are lost",
            "sudo apt install mosquitto, as the broker; with amqtt set mqtt.ack = 'receipt'",
        )
    if count < sent:
        return warn(
            name,
            f"of {sent} requests for a node that is away it kept {count}; the others are lost",
            "put 'max_queued_messages 1000' into /etc/mosquitto/conf.d/edge-llm.conf, and "
            "sudo systemctl restart mosquitto",
        )
    return ok(name, f"{count} of {sent} requests for a node that is away are kept")


async def _count(probe: Probe, most: int) -> int:
    """Return how many messages come, up to a number."""
    count = 0
    while count < most and await probe.receive(SILENCE_S if count else ECHO_S) is not None:
        count += 1
    return count


async def _is_delivered(probe: Probe, topic: str) -> bool:
    probe.send(topic, b"ready", 1)
    try:
        await probe.expect(b"ready", ECHO_S)
    except TimeoutError:
        return False
    return True


def connect(
    meeting: Meeting,
    client_id: str | None = None,
    *,
    session_s: int = 0,
    clean: bool = True,
    window: int | None = None,
) -> AbstractAsyncContextManager[Probe]:
    """Connect as the node does, but under a client id of our own; see ``open_probe``."""
    return open_probe(
        meeting.mqtt,
        client_id or new_client_id(),
        meeting.protocol or "5",
        session_s=session_s,
        clean=clean,
        window=window,
    )
