"""Who brought a message, and is to hear what became of it: the broker, or the queue of a fleet."""

import asyncio
from collections.abc import Sequence

from edge_llm.mqtt import MqttConnection, Publication
from edge_llm.outgoing import Outgoing
from edge_llm.service.source import RequestSource
from edge_llm.settings import MqttSettings

__all__ = ["Origins"]


class Origins:
    """Tells whoever brought a message.

    Args:
        mqtt: the broker.
        settings: what the broker keeps.
        source: brings requests in place of the broker's topics, if there is one.
    """

    def __init__(
        self, mqtt: MqttConnection, settings: MqttSettings, source: RequestSource | None
    ) -> None:
        self._mqtt, self._settings, self._source = mqtt, settings, source

    def is_source(self, publication: Publication) -> bool:
        """Tell whether a message came from the source, and not from the broker."""
        return self._source is not None and self._source.owns(publication)

    def ack(self, publication: Publication) -> None:
        """Say that a message may be forgotten."""
        if self._source and self._source.owns(publication):
            self._source.ack(publication)
        else:
            self._mqtt.ack(publication)

    def can_go_back(self, publication: Publication) -> bool:
        """Tell whether a request that is not acknowledged comes again, to us or to another."""
        if self.is_source(publication):
            return True
        is_kept = self._settings.ack == "response" and self._settings.session_expiry_s > 0
        return is_kept and publication.qos > 0

    def give_back(self, publication: Publication) -> None:
        """Let another have a request now; the broker does so by itself when we have gone."""
        if self._source and self._source.owns(publication):
            self._source.give_back(publication)

    def keep(
        self, publication: Publication, finals: Sequence[Outgoing]
    ) -> asyncio.Future[Sequence[Outgoing]] | None:
        """Have an answer remembered before it is said; None where nobody else needs to know."""
        if self._source and self._source.owns(publication):
            return self._source.keep(publication, finals)
        return None
