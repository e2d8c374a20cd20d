"""What nodes of a fleet are told from outside: to drain, to go on, to be upgraded one by one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from edge_llm.client.nodes import UNABLE, RemoteNode
from edge_llm.client.roster import Roster
from edge_llm.errors import EdgeLLMError, ExpiredError, InvalidRequestError, NodeOfflineError

__all__ = ["Upgrade", "drain", "resume"]

LOOK_EVERY_S = 1.0
"""For time to pass; whatever a node says is seen at once."""

Tell = Callable[[str], None]


async def drain(roster: Roster, name: str, *, timeout_s: float, tell: Tell) -> None:
    """Have a node end what it has in hand and take nothing new; return when it has nothing.

    Args:
        roster: of the broker.
        name: the node.
        timeout_s: how long that may take; the node goes on draining afterwards.
        tell: hears how far it is.

    Raises:
        NodeOfflineError: the node is not there, or goes.
        InvalidRequestError: it does not do that; it says why.
        ExpiredError: it still has something in hand.
    """
    _need(roster, name)
    await roster.command(name, "drain")

    def is_over(node: RemoteNode) -> bool:
        return "draining" in _holds(node) and not _num_in_hand(node)

    await _wait(roster, name, is_over, timeout_s, tell)


async def resume(roster: Roster, name: str, *, timeout_s: float, tell: Tell) -> None:
    """Have a node take requests again; return when it says so.

    Raises:
        EdgeLLMError: as for ``drain``.
    """
    _need(roster, name)
    await roster.command(name, "resume")

    def is_over(node: RemoteNode) -> bool:
        return node.health is not None and not {"draining", "paused"} & set(_holds(node))

    await _wait(roster, name, is_over, timeout_s, tell)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Does something to one node after the other, while the others answer.

    Attributes:
        roster: of the broker.
        run: does it to a node, which is started again by that; gives an exit code.
        drain_s: how long a node may take to end what it has in hand.
        return_s: how long it may take to be ready again.
        tell: hears how far it is.
    """

    roster: Roster
    run: Callable[[str], Awaitable[int]]
    drain_s: float
    return_s: float
    tell: Tell

    async def __call__(self, names: Sequence[str], *, alone: bool = False) -> None:
        """Do it to these nodes, and stop at the first that does not come back.

        Args:
            names: of the nodes, in this order.
            alone: also where no other node could answer meanwhile.

        Raises:
            EdgeLLMError: what went wrong. A node that was not started again is resumed before.
        """
        for number, name in enumerate(names, 1):
            self.tell(f"{name}: {number} of {len(names)}")
            node = _need(self.roster, name)
            if not alone:
                self._check_others(node)
            await self._upgrade(name, _boot_id(node))
            self.tell(f"{name}: done")

    async def _upgrade(self, name: str, before: str | None) -> None:
        try:
            await drain(self.roster, name, timeout_s=self.drain_s, tell=self.tell)
            self.tell(f"{name}: has nothing in hand")
            if code := await self.run(name):
                raise EdgeLLMError(f"{name}: the command failed with exit code {code}")
            await self._wait_for_return(name, before)
        except BaseException:
            node = self.roster.find(name)
            if node and node.is_online and _boot_id(node) == before:
                # As it was; nobody else would ever tell it.
                self.tell(f"{name}: takes requests again, as it was not started anew")
                await self.roster.command(name, "resume")
            raise

    async def _wait_for_return(self, name: str, before: str | None) -> None:
        def is_back(node: RemoteNode) -> bool:
            health = node.health
            if health is None or not node.is_online or health.boot_id == before:
                return False
            return health.state == "ready" and (health.fleet is None or health.fleet.joined)

        await _wait(self.roster, name, is_back, self.return_s, self.tell, may_be_away=True)

    def _check_others(self, node: RemoteNode) -> None:
        others = [other for other in self.roster.nodes if other is not node and _can_answer(other)]
        if not others:
            raise EdgeLLMError(f"{node.name}: no other node could answer meanwhile (--alone)")
        there = {model.id for other in others for model in other.models}
        if missing := [model.id for model in node.models if model.id not in there]:
            what = ", ".join(missing)
            raise EdgeLLMError(f"{node.name}: no other node has {what} meanwhile (--alone)")


async def _wait(
    roster: Roster,
    name: str,
    is_over: Callable[[RemoteNode], bool],
    timeout_s: float,
    tell: Tell,
    *,
    may_be_away: bool = False,
) -> None:
    """Return when something holds for a node; tell what it does meanwhile."""
    loop = asyncio.get_running_loop()
    until, told = loop.time() + timeout_s, ""
    while not is_over(node := roster.find(name) or RemoteNode(name)):
        if why := roster.refusal(name):
            raise InvalidRequestError(f"{name}: {why}")
        if roster.is_connected and not (node.is_online or may_be_away):
            raise NodeOfflineError(f"{name} went offline")
        if (words := f"{name}: {_describe(node)}") != told:
            tell(words)
            told = words
        if (left_s := until - loop.time()) <= 0:
            raise ExpiredError(f"after {timeout_s:g} s {words}")
        await roster.change(min(left_s, LOOK_EVERY_S))


def _need(roster: Roster, name: str) -> RemoteNode:
    node = roster.find(name)
    if node is None or not node.is_online:
        there = ", ".join(node.name for node in roster.nodes if node.is_online) or "none"
        raise NodeOfflineError(f"node {name!r} is not online (there are: {there})")
    return node


def _holds(node: RemoteNode) -> tuple[str, ...]:
    return node.health.queue.holds if node.health else ()


def _num_in_hand(node: RemoteNode) -> int:
    if node.health is None:
        return 0
    queue, fleet = node.health.queue, node.health.fleet
    # The activity is told at once when the last one ends, the health not.
    in_queue = 0 if node.activity == "draining" else queue.waiting + queue.running
    return max(in_queue, fleet.held if fleet else 0)


def _describe(node: RemoteNode) -> str:
    if not node.is_online:
        return "offline"
    num_in_hand = _num_in_hand(node)
    return f"{node.activity}, {num_in_hand} in hand" if num_in_hand else node.activity


def _boot_id(node: RemoteNode) -> str | None:
    return node.health.boot_id if node.health else None


def _can_answer(node: RemoteNode) -> bool:
    is_unable = node.activity in UNABLE or node.activity.startswith("loading")
    return node.is_online and bool(node.models) and not is_unable
