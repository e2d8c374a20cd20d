"""Names at NATS: of subjects, streams, consumers and buckets, made of the prefix of our topics.

NATS writes a topic's levels with dots between them. Its MQTT door (nats-server 2.9) ends the
connection of whoever uses a dot or a space in a topic, so a level never has one.
"""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["ANY", "NODE", "ROUTE", "USUAL_PRIORITY", "Class", "FleetNames", "Ticket"]

Class = str
"""Who may serve a request: any node, those with a model, or first of all one node."""
ANY: Class = "any"
NODE = "node-"
"""Begins the classes of requests that one node can answer best."""
ROUTE = "route-"
"""Begins the classes of presses, which are answered one after another."""
USUAL_PRIORITY = 5
"""Of requests that do not say."""


class Ticket(NamedTuple):
    """What a subject in the work queue says of a request."""

    who: Class
    priority: int


@dataclass(frozen=True, slots=True)
class FleetNames:
    """The names of one fleet.

    Attributes:
        prefix: of its topics.
    """

    prefix: str

    @property
    def _name(self) -> str:
        return self.prefix.replace("/", "_").replace(".", "_").upper()

    @property
    def requests(self) -> str:
        """The stream of requests as they come in."""
        return f"{self._name}_REQUESTS"

    @property
    def work(self) -> str:
        """The stream of requests in the order in which they are to be answered."""
        return f"{self._name}_WORK"

    @property
    def answers(self) -> str:
        """The bucket of finished answers."""
        return f"{self._name}_ANSWERS"

    @property
    def sessions(self) -> str:
        """The bucket of conversations."""
        return f"{self._name}_SESSIONS"

    @property
    def locks(self) -> str:
        """The bucket of whose turn it is in a conversation."""
        return f"{self._name}_LOCKS"

    @property
    def peers(self) -> str:
        """Where nodes say that they are there."""
        return self._subject("fleet/peers")

    @property
    def presses(self) -> str:
        """The group of those who listen to buttons."""
        return f"{self._name}_PRESSES"

    @property
    def replaced(self) -> str:
        """Where nodes say that a newer press took the place of another."""
        return self._subject("fleet/replaced")

    @property
    def request_subjects(self) -> str:
        """All subjects of the first stream."""
        return f"{self._subject('request')}.>"

    @property
    def work_subjects(self) -> str:
        """All subjects of the second stream."""
        return f"{self._subject('work')}.>"

    def topic(self, subject: str) -> str:
        """Return the topic by which a request came in."""
        return subject.replace(".", "/")

    def subject(self, ticket: Ticket) -> str:
        """Return the subject of a request that waits."""
        return f"{self._subject('work')}.{ticket.who}.{ticket.priority}"

    def ticket(self, subject: str) -> Ticket | None:
        """Read a subject of the second stream; None if it is none of ours."""
        *_, who, priority = subject.split(".")
        known = subject.startswith(f"{self._subject('work')}.") and priority.isdigit()
        return Ticket(who, int(priority)) if known else None

    @staticmethod
    def of_model(model: str) -> Class:
        """Return the class of requests for a model."""
        return f"model-{_token(model)}"

    @staticmethod
    def of_node(node: str) -> Class:
        """Return the class of requests that one node can answer best, but others, too."""
        return f"{NODE}{_token(node)}"

    @staticmethod
    def only_node(node: str) -> Class:
        """Return the class of requests that one node alone may answer."""
        return f"only-{_token(node)}"

    @staticmethod
    def of_route(route: str) -> Class:
        """Return the class of the presses of one route, which any node may answer."""
        return f"{ROUTE}{_token(route)}"

    @staticmethod
    def consumer(ticket: Ticket) -> str:
        """Return the name of the consumer of one kind of request."""
        return f"{ticket.who}-{ticket.priority}"

    def _subject(self, level: str) -> str:
        return f"{self.prefix}/{level}".replace("/", ".")


def _token(name: str) -> str:
    """Make a name that NATS takes: models' have slashes and dots."""
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
