"""What happens to a fleet at work: nodes and servers die, and lines go dead."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.clients import eventually
from tests.fleet.node import FleetNode
from tests.fleet.world import World

__all__ = ["Blow", "Faults", "Plan"]

NODE_AWAY_S = (0.3, 1.5)
SERVER_AWAY_S = (1.0, 2.5)
CUT_OFF_S = (1.0, 4.0)
"""Beyond the lease."""
MOST_S = 600.0
"""Until the next blow is due, or somebody is up whom it can hit."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many faults of each kind there are, spread over a run."""

    kills: int = 20
    server_kills: int = 6
    partitions: int = 4


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault.

    Attributes:
        at: on the monotonic clock, in seconds.
        until: when what it was done to was started or connected again.
    """

    what: str
    who: str
    at: float
    until: float


@dataclass(slots=True)
class Faults:
    """Deals blows.

    Args:
        world: to whom.
        plan: how many.
        seed: of who is hit, and how long for.
        over: tells how far the run is, from 0 to 1.
    """

    world: World
    plan: Plan
    seed: int
    over: Callable[[], float]
    blows: list[Blow] = field(default_factory=list)

    async def run(self) -> None:
        """Deal all blows; those of one kind come one after the other."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._spread(self.plan.kills, self._kill_node, 1))
            tasks.create_task(self._spread(self.plan.server_kills, self._kill_server, 2))
            tasks.create_task(self._spread(self.plan.partitions, self._cut_off, 3))

    def times(self, *kinds: str) -> list[float]:
        """Return when blows of these kinds were dealt."""
        return sorted(blow.at for blow in self.blows if blow.what in kinds)

    async def _spread(self, count: int, deal: Callable[..., object], salt: int) -> None:
        dice = random.Random(self.seed * 10 + salt)
        for number in range(count):
            due = (number + dice.uniform(0.3, 0.9)) / count * 0.97
            await eventually(lambda due=due: self.over() >= due, MOST_S)  # type: ignore[misc]
            await deal(dice)  # type: ignore[misc]

    def _pick(self, dice: random.Random, nodes: list[FleetNode]) -> FleetNode | None:
        """Choose a node that is up and not cut off."""
        up = [n for n in nodes if n.is_running and n.is_ready and not self._is_cut(n)]
        return dice.choice(up) if up else None

    def _is_cut(self, node: FleetNode) -> bool:
        return any(not line.passes.is_set() for line in self.world.lines.get(node.name, ()))

    async def _kill_node(self, dice: random.Random) -> None:
        node = await eventually(lambda: self._pick(dice, self.world.nodes), MOST_S)
        at = time.monotonic()
        node.kill()
        await asyncio.sleep(dice.uniform(*NODE_AWAY_S))
        node.start()
        self.blows.append(Blow("kill", node.name, at, time.monotonic()))
        await node.ready()

    async def _kill_server(self, dice: random.Random) -> None:
        server = dice.choice(self.world.servers)
        at = time.monotonic()
        server.kill()
        await asyncio.sleep(dice.uniform(*SERVER_AWAY_S))
        server.start()
        await asyncio.to_thread(server.wait)
        self.blows.append(Blow("server kill", server.name, at, time.monotonic()))

    async def _cut_off(self, dice: random.Random) -> None:
        lined = [node for node in self.world.nodes if node.name in self.world.lines]
        node = await eventually(lambda: self._pick(dice, lined), MOST_S)
        at = time.monotonic()
        self.world.cut_off(node)
        await asyncio.sleep(node.lease_s + dice.uniform(*CUT_OFF_S))
        self.world.reconnect(node)
        self.blows.append(Blow("partition", node.name, at, time.monotonic()))
