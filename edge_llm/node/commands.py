"""What a node may be told on its command topic, and what it does then."""

from collections.abc import Callable, Sequence

import structlog

from edge_llm.engine import OpenEngine
from edge_llm.errors import InvalidRequestError
from edge_llm.settings import Command

__all__ = ["Commands"]

log = structlog.get_logger()


class Commands:
    """Does what is published on the command topic.

    Args:
        opened: the engine.
        reload: reads the settings again.
        has_card: whether there is a card that can be rebooted.
        allowed: those that are not switched off.
    """

    def __init__(
        self,
        opened: OpenEngine,
        reload: Callable[[], None],
        *,
        has_card: bool,
        allowed: Sequence[Command],
    ) -> None:
        self._opened = opened
        self._has_card = has_card
        self._allowed = frozenset(allowed)
        self._by_name: dict[str, Callable[[], None]] = {
            "pause": lambda: opened.queue.hold("paused"),
            "resume": self._resume,
            "drain": opened.queue.drain,
            "reload": reload,
            "reboot_card": self._reboot_card,
        }

    def run(self, name: str) -> None:
        """Do it.

        Raises:
            InvalidRequestError: there is no such command, it is switched off, or there is nothing
                to do it to.
        """
        if name not in self._by_name:
            known = ", ".join(sorted(self._allowed)) or "none"
            raise InvalidRequestError(f"there is no command {name[:40]!r} (there are: {known})")
        if name not in self._allowed:
            raise InvalidRequestError(f"the command {name!r} is switched off (mqtt.commands)")
        log.info("node.commanded", command=name)
        self._by_name[name]()

    def _resume(self) -> None:
        self._opened.queue.release("paused")
        self._opened.queue.drain(drain=False)

    def _reboot_card(self) -> None:
        if not self._has_card or not self._opened.worker:
            raise InvalidRequestError("there is no card here that can be rebooted")
        self._opened.worker.order("reboot_card", "it was asked for on the command topic")
