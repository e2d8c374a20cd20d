"""What Home Assistant is told, and when: at each connect, and whenever it has been started anew.

It has a connection of its own, without a will: whether the node is there, the node's status tells.
The announcement is retained, so a Home Assistant that starts finds it; it is said again all the
same when Home Assistant says that it is there, as a broker may have lost it.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress

import structlog
from pydantic_core import from_json

from bridges.home_assistant.announcement import Announcement, discovery_topic
from bridges.home_assistant.last_answer import make_last_answer
from edge_llm.engine import Ended
from edge_llm.errors import BrokerError
from edge_llm.mqtt import MqttConnection, Publication, Subscription
from edge_llm.plugin import BridgeContext, BridgePlugin
from edge_llm.settings import HomeAssistantSettings, MqttSettings
from edge_llm.topics import Topics

__all__ = ["PLUGIN", "open_home_assistant", "remove_from_home_assistant"]

log = structlog.get_logger()

BIRTH = b"online"
BIRTH_DELAY_S = (0.2, 2.0)  # or all devices of a house speak in the moment that it comes up
SETTLE_S = 0.5  # after a connect, for what the health on the broker says
REMOVE_TIMEOUT_S = 10.0


@asynccontextmanager
async def open_home_assistant(
    settings: HomeAssistantSettings, context: BridgeContext
) -> AsyncGenerator[None]:
    """Keep a node announced to Home Assistant until the context is left.

    The announcement stays at the broker then: the device is shown as unavailable until the node
    is back. ``remove_from_home_assistant`` takes it away. A node without a broker has nobody to be
    announced to.

    Args:
        settings: how it is to appear.
        context: the node.

    Raises:
        ConfigurationError: the host can't be one, or a certificate can't be used.
    """
    mqtt, stats = context.mqtt, context.stats
    if not mqtt.enabled or stats is None:
        yield
        return
    topics = Topics(mqtt.prefix, context.node)
    announcement = Announcement(settings, topics, mqtt.commands)
    announcer = _Announcer(announcement, settings.prefix, mqtt, topics)
    async with announcer.mqtt, asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(announcer.listen(), name="home_assistant")
        if settings.last_answer:
            stats.watchers.append(announcer.tell_answer)
        try:
            yield
        finally:
            if settings.last_answer:
                stats.watchers.remove(announcer.tell_answer)
            announcer.stop()
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening


async def remove_from_home_assistant(
    settings: HomeAssistantSettings, mqtt: MqttSettings, node: str
) -> bool:
    """Take a node's announcement away, and with it the device; return whether there was one.

    A node that runs, and is set to, announces itself again when it can.

    Raises:
        BrokerError: no broker within 10 s, or it does not let us.
        ConfigurationError: the host can't be one, or a certificate can't be used.
    """
    topic = discovery_topic(settings, node)
    client_id = f"edge-llm-{node}-ha-{secrets.token_hex(4)}"
    # We hear what is retained, and then our own word, if the broker took it.
    subscription = Subscription(topic, 1, retained=True)
    there_was = False
    try:
        async with (
            asyncio.timeout(REMOVE_TIMEOUT_S),
            MqttConnection(mqtt, client_id, [subscription], clean=True) as connection,
            aclosing(connection.messages()) as messages,
        ):
            await connection.wait_until_connected()
            connection.publish(topic, b"", 1, retain=True)
            async for publication in messages:
                connection.ack(publication)
                if not publication.payload:
                    break
                there_was = True
    except TimeoutError as exc:
        raise BrokerError(
            f"{topic} was not cleared within {REMOVE_TIMEOUT_S:.0f} s: is the broker there, and "
            "may this account read and write that topic?"
        ) from exc
    return there_was


class _Announcer:
    """Says what there is to say, in its own time.

    Args:
        announcement: of the node.
        prefix: Home Assistant's, below which it says that it is there.
        mqtt: the broker.
        topics: the node's.
    """

    def __init__(
        self, announcement: Announcement, prefix: str, mqtt: MqttSettings, topics: Topics
    ) -> None:
        self._announcement = announcement
        self._birth = f"{prefix}/status"
        self._topics = topics
        self._has_card = False
        self._next: asyncio.TimerHandle | None = None
        self.mqtt = MqttConnection(
            mqtt,
            f"edge-llm-{topics.node}-ha",
            [Subscription(self._birth, 0), Subscription(topics.health, 0, retained=True)],
            clean=True,
            on_connected=lambda: self._announce_in(SETTLE_S),
        )

    async def listen(self) -> None:
        """Take what comes in, for ever."""
        async with aclosing(self.mqtt.messages()) as messages:
            async for publication in messages:
                self._take(publication)

    def tell_answer(self, ended: Ended) -> None:
        """Publish an answer to whoever is there; retained, it would be spoken at each restart."""
        if answer := make_last_answer(ended):
            self.mqtt.publish(self._topics.last_answer, answer, content_type="application/json")

    def stop(self) -> None:
        """Say no more."""
        if self._next:
            self._next.cancel()

    def _take(self, publication: Publication) -> None:
        if publication.topic == self._topics.health:
            if not self._has_card and _has_card(publication.payload):
                self._has_card = True
                self._announce_in(0)
        elif publication.payload == BIRTH:
            self._announce_in(random.uniform(*BIRTH_DELAY_S))

    def _announce_in(self, delay_s: float) -> None:
        if self._next:  # it will say what is true by then
            return
        self._next = asyncio.get_running_loop().call_later(delay_s, self._announce)

    def _announce(self) -> None:
        self._next = None
        if not self.mqtt.is_connected:  # it is said at the next connect
            return
        payload = self._announcement.payload(has_card=self._has_card)
        topic = self._announcement.topic
        self.mqtt.publish(topic, payload, 1, retain=True, content_type="application/json")
        log.info("home_assistant.announced", topic=topic)


def _has_card(health: bytes) -> bool:
    try:
        body = from_json(health)
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("card") is not None


PLUGIN = BridgePlugin(HomeAssistantSettings, open_home_assistant)
