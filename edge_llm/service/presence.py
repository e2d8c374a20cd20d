"""What a node says of itself, retained: that it is there, what it is, what it does, how it is.

The broker publishes the will of a connection that broke, and it may do so late: after the next
life of this node has said ``online``. So the node listens to its own status, and says it anew
where somebody else had the last word.
"""

import asyncio
from collections.abc import Callable

import structlog

from edge_llm.engine.interface import Engine
from edge_llm.mqtt import MqttConnection, Will
from edge_llm.outgoing import Outgoing
from edge_llm.protocol import NodeHealth, NodeInfo
from edge_llm.topics import Topics

__all__ = ["Presence"]

log = structlog.get_logger()

ACTIVITY_EVERY_S = 0.2
CORRECT_EVERY_S = 1.0  # two nodes of one name must not contradict each other faster than this
HEALTH_EVERY_S = 30.0
HEALTH_EXPIRY_S = 90  # of a node that is gone; MQTT 5 only
ONLINE, OFFLINE = b"online", b"offline"  # Home Assistant's default availability payloads


class Presence:
    """Keeps the retained topics of a node right.

    Args:
        engine: what it does is the node's activity.
        topics: the node's.
        info: what it is; the models are filled in when they are known.
        report: says how it is.
    """

    def __init__(
        self,
        engine: Engine,
        topics: Topics,
        info: NodeInfo,
        report: Callable[[], NodeHealth] | None = None,
    ) -> None:
        self.info = info
        self._report = report
        self._engine = engine
        self._topics = topics
        self._announced = ""
        self._corrected_at = -CORRECT_EVERY_S
        self._correction: asyncio.TimerHandle | None = None

    @property
    def will(self) -> Will:
        """What the broker says for us if we vanish."""
        return Will(self._topics.status, OFFLINE)

    def open(self, mqtt: MqttConnection, publish: Callable[[Outgoing], object]) -> None:
        """Say all of it through this connection from now on."""
        self._mqtt, self._publish = mqtt, publish

    def announce(self) -> None:
        """Say that we are there; at every connect, as a restarted broker may have lost it."""
        self._announce_presence()
        self.tell_health()

    def _announce_presence(self) -> None:
        self._announced = ""
        self._retain(self._topics.status, ONLINE)
        self._announce_info()

    def update(self, **changes: object) -> None:
        """Change what the node says it is, and say so if somebody can hear it."""
        self.info = self.info.model_copy(update=changes)
        if self._mqtt.is_connected:
            self._announce_info()

    def _announce_info(self) -> None:
        info = self.info.model_dump_json(exclude_none=True).encode()
        self._retain(self._topics.info, info, "application/json")

    def listen(self, status: bytes) -> None:
        """Take what was published on our status."""
        if status == ONLINE or self._correction:
            return
        loop = asyncio.get_running_loop()
        self._correction = loop.call_at(
            max(loop.time(), self._corrected_at + CORRECT_EVERY_S), self._correct
        )

    def _correct(self) -> None:
        self._correction = None
        self._corrected_at = asyncio.get_running_loop().time()
        if self._mqtt.is_connected:
            log.warning("node.declared_offline", boot_id=self.info.boot_id, do="said online again")
            self.announce()

    async def run(self) -> None:
        """Publish the models when they are known or change, and what the engine does, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._announce_models(), name="presence.models")
            tasks.create_task(self._announce_activity(), name="presence.activity")
            tasks.create_task(self._announce_health(), name="presence.health")

    def leave(self) -> None:
        """Say that we are gone."""
        if self._correction:
            self._correction.cancel()
        self._retain(self._topics.activity, OFFLINE)
        self._retain(self._topics.status, OFFLINE)

    async def _announce_models(self) -> None:
        while True:
            if (models := self._engine.models) != self.info.models:
                self.update(models=models)
            await asyncio.sleep(ACTIVITY_EVERY_S)

    async def _announce_activity(self) -> None:
        while True:
            await self._mqtt.wait_until_connected()
            self._tell_activity()
            await asyncio.sleep(ACTIVITY_EVERY_S)

    def tell(self) -> None:
        """Publish what the node does and how it is, if somebody can hear it."""
        if self._mqtt.is_connected:
            self._tell_activity()
        self.tell_health()

    def _tell_activity(self) -> None:
        if (activity := self._engine.activity) != self._announced:
            self._announced = activity
            self._retain(self._topics.activity, activity.encode())

    def tell_health(self) -> NodeHealth | None:
        """Publish how the node is now, if somebody can hear it; return it then."""
        if self._report is None or not self._mqtt.is_connected:
            return None
        health = self._report()
        payload = health.model_dump_json().encode()
        self._retain(self._topics.health, payload, "application/json", HEALTH_EXPIRY_S)
        return health

    async def _announce_health(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_EVERY_S)
            health = self.tell_health()
            if health and health.fleet:
                # Whoever subscribes at NATS (2.9) just when something is published may be given
                # what was retained before, and nothing else.
                self._announce_presence()

    def _retain(
        self,
        topic: str,
        payload: bytes,
        content_type: str = "text/plain",
        expiry_s: int | None = None,
    ) -> None:
        self._publish(Outgoing(topic, payload, content_type, qos=1, retain=True, expiry_s=expiry_s))
