"""Routes in use: whose a message is, and whether this press of the button counts."""

import time
from collections.abc import Callable, Sequence

import paho.mqtt.client as paho

from edge_llm.mqtt import Publication, Subscription
from edge_llm.route import Route

__all__ = ["Router"]

FIRST_IDENTIFIER = 16  # of our subscriptions; lower ones are for the node's own topics


class Router:
    """The routes of a node.

    Args:
        routes: as in the settings.
        is_busy: whether a request of this id has no final message yet.
    """

    def __init__(self, routes: Sequence[Route], is_busy: Callable[[str], bool]) -> None:
        self._is_busy = is_busy
        self._ended_at: dict[str, float] = {}
        self.routes = routes
        filters: dict[str, int] = {}  # and the highest quality of service for it
        for route in routes:
            filters[route.topic] = max(filters.get(route.topic, 0), route.qos)
        self._identifiers = {name: FIRST_IDENTIFIER + n for n, name in enumerate(filters)}
        self.subscriptions = [
            Subscription(
                topic_filter,
                qos,
                identifier=self._identifiers[topic_filter],
                # So that what is retained is only marked where it is old; that is no press.
                retain_as_published=False,
            )
            for topic_filter, qos in filters.items()
        ]

    def find(self, publication: Publication) -> list[Route]:
        """Return the routes whose message this is.

        Where filters overlap, MQTT 5 brokers deliver one copy for each subscription and say
        which; brokers of 3.1.1 deliver one copy for all.
        """
        if publication.route is not None:
            return [route for route in self.routes if route.id == publication.route]
        ids = publication.subscriptions
        return [
            route
            for route in self.routes
            if paho.topic_matches_sub(route.topic, publication.topic)
            and (not ids or self._identifiers[route.topic] in ids)
        ]

    def counts(self, route: Route) -> bool:
        """Tell whether a press asks anything, or does nothing."""
        if self._is_busy(route.id):
            return route.while_busy != "drop"
        ended_at = self._ended_at.get(route.id)
        return ended_at is None or time.monotonic() - ended_at >= route.cooldown_s

    def note_end(self, request_id: str) -> None:
        """Begin the cooldown of a route whose answer has ended."""
        if any(route.id == request_id for route in self.routes):
            self._ended_at[request_id] = time.monotonic()
