"""All nodes of a broker, as they are now: for those who look at a fleet, or command it."""

import asyncio
import secrets
import time
from contextlib import aclosing, suppress

from pydantic import ValidationError

from edge_llm.client.depth import FleetDepth, find_depth
from edge_llm.client.nodes import Nodes, RemoteNode
from edge_llm.client.receiving import Receiving
from edge_llm.errors import BrokerError
from edge_llm.mqtt import MqttConnection, Publication, Subscription
from edge_llm.protocol import ErrorBody
from edge_llm.settings import Command, MqttSettings
from edge_llm.topics import Topics

__all__ = ["Roster"]

CONFIRM_TIMEOUT_S = 5.0


class Roster(Receiving):
    """Follows what nodes say of themselves; an async context manager.

    Args:
        settings: the broker.
    """

    def __init__(self, settings: MqttSettings) -> None:
        self._settings = settings
        self._nodes = Nodes()
        self._refused: dict[str, str] = {}
        topics = Topics(settings.prefix, "+")
        self._mqtt = MqttConnection(
            settings,
            f"edge-llm-roster-{secrets.token_hex(4)}",
            [
                Subscription(topics.error, 1),
                Subscription(topics.info, 1, retained=True),
                Subscription(topics.health, 1, retained=True),
                Subscription(topics.activity, 1, retained=True),
                # The status last: of whoever is online by then the rest is known.
                Subscription(topics.status, 1, retained=True),
            ],
            clean=True,
            on_connected=self._nodes.begin,
        )

    @property
    def is_connected(self) -> bool:
        """Whether what is known is what holds now."""
        return self._mqtt.is_connected

    @property
    def nodes(self) -> list[RemoteNode]:
        """All that were ever there and not removed, by name."""
        return self._nodes.known

    @property
    def depth(self) -> FleetDepth | None:
        """How much waits in the fleet; None if no node that is online is in one."""
        told = [
            (node.health.fleet, node.health_at)
            for node in self._nodes.online
            if node.health and node.health.fleet
        ]
        return find_depth(told, time.monotonic())

    def find(self, name: str) -> RemoteNode | None:
        """Return a node, if there ever was one of this name."""
        return next((node for node in self.nodes if node.name == name), None)

    async def settle(self, timeout_s: float) -> None:
        """Wait until all that is retained has come.

        Raises:
            BrokerError: the broker does not answer.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._mqtt.wait_until_connected()
        except TimeoutError as exc:
            where = f"{self._settings.host}:{self._settings.port}"
            raise BrokerError(f"the broker at {where} does not answer") from exc
        loop = asyncio.get_running_loop()
        while (left_s := self._nodes.known_at(None) - loop.time()) > 0:
            await self.change(left_s)

    async def change(self, timeout_s: float) -> None:
        """Return when a node has said something, or after a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._nodes.change()

    async def command(self, name: str, command: Command) -> None:
        """Tell a node what to do; ``refusal`` says what it has against it.

        Raises:
            BrokerError: the broker did not take it.
        """
        self._refused.pop(name, None)
        topic = Topics(self._settings.prefix, name).command
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                await self._mqtt.publish(topic, command, 1)
        except TimeoutError as exc:
            raise BrokerError(f"the broker did not take the command for {name}") from exc

    def refusal(self, name: str) -> str | None:
        """Return what a node said against the latest command; None if nothing so far."""
        return self._refused.get(name)

    async def _receive(self) -> None:
        async with aclosing(self._mqtt.messages()) as messages:
            async for publication in messages:
                self._mqtt.ack(publication)
                self._take(publication)

    def _take(self, publication: Publication) -> None:
        below = publication.topic.removeprefix(f"{self._settings.prefix}/node/")
        name, _, kind = below.partition("/")
        if kind == "error":
            with suppress(ValidationError):
                message = ErrorBody.model_validate_json(publication.payload).message
                if "command" in message:  # others have their errors told there, too
                    self._refused[name] = message
        self._nodes.feed(name, kind, publication.payload, is_old=publication.retain)
