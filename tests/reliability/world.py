"""A whole installation in one directory: broker, card, its tool, a node, eight clients."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from tests.brokers import Mosquitto
from tests.reliability.clocks import FACTOR
from tests.reliability.crowd import Crowd, open_crowd
from tests.reliability.in_worker import FACTOR_VARIABLE, SPOIL_VARIABLE
from tests.reliability.surroundings import SettableClock, fill, small_disk
from tests.reliability.watch import NODE, Watch, open_watch
from tests.virtual_ax650.card import Card, open_card
from tests.virtual_ax650.shared import Shared
from tests.virtual_ax650.smi import write_smi

__all__ = [
    "EngineKind",
    "NodeProcess",
    "World",
    "open_world",
]

EngineKind = Literal["card", "cpu"]

ROOT = Path(__file__).parent.parent.parent
SITE = Path(__file__).parent / "site"
POLL_S = 0.02
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 40.0
TICK_S = 0.2  # the health that was said right before says nothing yet
# Written at every change, as otherwise what it has acknowledged dies with it.
DURABLE = {"autosave_interval": "1", "autosave_on_changes": "true"}


class NodeProcess:
    """The node: started, killed, started again, as systemd would.

    Args:
        config: its settings file.
        log: grows with each life.
        environment: of the process.
    """

    def __init__(self, config: Path, log: Path, environment: dict[str, str]) -> None:
        self._config, self._log = config, log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the core process, if it lives."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def worker_pid(self) -> int | None:
        """Of the latest worker, if it lives; one that is stopped does."""
        if self.pid is None:
            return None
        workers = [
            child
            for child in psutil.Process(self.pid).children()
            if child.status() != psutil.STATUS_ZOMBIE
            and "edge_llm.engine.worker.process" in child.cmdline()
        ]
        return max(workers, key=lambda child: child.create_time()).pid if workers else None

    def start(self) -> None:
        """Start it; it loads its model meanwhile."""
        command = [sys.executable, "-m", "tests.reliability.node", str(self._config)]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=ROOT, env=self._environment
            )

    def kill(self) -> None:
        """Kill core and worker in the same moment."""
        worker = self.worker_pid
        for pid in filter(None, (self.pid, worker)):
            os.kill(pid, signal.SIGKILL)
        if self._process:
            self._process.wait()

    def stop(self) -> int | None:
        """Stop it as systemd would; return its exit code, None if it had to be killed."""
        if not self._process:
            return 0
        worker = self.worker_pid
        self._process.terminate()
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            if worker and psutil.pid_exists(worker):
                os.kill(worker, signal.SIGKILL)
            return None


@dataclass
class World:
    """What faults are injected into.

    Attributes:
        store: the directory of what outlives a restart.
        spoil_file: what the next step of the engine does instead; see ``in_worker``.
        clock: the node's, if it needs one that can be set.
        chance: of when exactly something happens.
        is_used: something has gone wrong in it.
        notes: what was not as it should be at the end.
    """

    engine: EngineKind
    folder: Path
    broker: Mosquitto
    node: NodeProcess
    crowd: Crowd
    watch: Watch
    shared: Shared
    smi: Path
    store: Path
    spoil_file: Path
    clock: SettableClock | None
    chance: random.Random
    is_used: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def control(self) -> Path:
        """Faults of the card to come."""
        return self.folder / "control"

    @property
    def state(self) -> Path:
        """It is there while the card is dead."""
        return self.folder / "state"

    @property
    def smi_control(self) -> Path:
        """What is wrong with ``axcl-smi``."""
        return self.smi.with_suffix(".control")

    @property
    def worker_pid(self) -> int:
        """Of a worker that lives.

        Raises:
            RuntimeError: there is none.
        """
        if (pid := self.node.worker_pid) is None:
            raise RuntimeError("there is no worker")
        return pid

    def fill_store(self) -> Callable[[], None]:
        """Leave no room where answers are kept; return what makes room again."""
        if (pid := self.node.pid) is None:
            raise RuntimeError("there is no node")
        return fill(self.store, pid)

    def reset(self) -> None:
        """Take away all that tests put in the way of card, tool and engine."""
        self.control.write_text("")
        self.smi_control.write_text(f"reboot_s={10 / FACTOR}")
        self.state.unlink(missing_ok=True)
        self.spoil_file.unlink(missing_ok=True)
        self.shared["cmm_leaked"] = 0
        self.shared.celsius = 45.0

    async def until(self, condition: Callable[[], object], timeout_s: float) -> bool:
        """Wait for something; return whether it happened in time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def until_well(self, num_answers: int, timeout_s: float) -> bool:
        """Wait until the node works as usual, and has answered some requests since."""
        deadline = time.monotonic() + timeout_s
        began = time.monotonic()
        await asyncio.sleep(TICK_S)
        while time.monotonic() < deadline:
            if not self.watch.is_well:
                began = time.monotonic()
            elif self.crowd.num_texts_after(began) >= num_answers:
                return True
            await asyncio.sleep(POLL_S)
        return False

    def logged(self) -> str:
        """The end of the node's log."""
        return (self.folder / "node.log").read_text(errors="replace")[-3000:]


def _write_settings(folder: Path, model: Path | None, card: Card, smi: Path, port: int) -> Path:
    worker = f'model = "{model}"\naxcl_library = "{card.path}"\n' if model else ""
    device = f'[device]\naxcl_smi = "{smi}"\n' if model else ""
    path = folder / "edge-llm.toml"
    path.write_text(
        f'node = "{NODE}"\n[mqtt]\nport = {port}\n[http]\nenabled = false\n'
        f'[log]\nformat = "json"\n[store]\ndirectory = "{folder / "store"}"\n'
        f"{device}[engine]\ntemperature = 0\n[engine.worker]\n{worker}"
    )
    return path


@asynccontextmanager
async def open_world(
    folder: Path,
    engine: EngineKind,
    model: Path,
    *,
    seed: int = 0,
    think_s: float | None = 0.02,
    needs: Collection[str] = (),
    **switches: object,
) -> AsyncGenerator[World]:
    """Start all of it; the clients ask from then on, and know the right answers.

    Args:
        folder: for everything; empty.
        engine: what generates: the virtual card, or the CPU.
        model: the packed model, for the card.
        seed: of who asks what.
        think_s: how long a client waits, on average, before it asks again; None: the clients ask
            nothing by themselves.
        needs: ``clock``: the node's can be set; ``small_store``: its disk can be full.
        switches: of the virtual card.
    """
    files = {"CONTROL": folder / "control", "STATE": folder / "state"}
    (folder / "store").mkdir()
    shared = Shared.create(folder / "shared")
    async with AsyncExitStack() as stack:
        stack.callback(shared.close)
        if "small_store" in needs:
            stack.enter_context(small_disk(folder / "store"))
        card = stack.enter_context(open_card("full", SHARED=shared.path, **files, **switches))
        smi = write_smi(folder, card)
        broker = stack.enter_context(Mosquitto(folder, DURABLE))
        config = _write_settings(
            folder, model if engine == "card" else None, card, smi, broker.port
        )
        clock = SettableClock(folder) if "clock" in needs else None
        variables = {
            **os.environ,
            **card.environment,
            "PYTHONPATH": f"{SITE}:{ROOT}",
            FACTOR_VARIABLE: str(FACTOR),
            SPOIL_VARIABLE: str(folder / "spoil"),
            **(clock.environment if clock else {}),
        }
        node = NodeProcess(config, folder / "node.log", variables)
        watch = await stack.enter_async_context(open_watch(broker.port, folder / "node.log"))
        crowd = await stack.enter_async_context(open_crowd(broker.port, seed))
        world = World(
            engine,
            folder,
            broker,
            node,
            crowd,
            watch,
            shared,
            smi,
            store=folder / "store",
            spoil_file=folder / "spoil",
            clock=clock,
            chance=random.Random(seed),
        )
        world.reset()
        try:
            node.start()
            if not await world.until(lambda: watch.status == "online", START_TIMEOUT_S):
                raise RuntimeError(f"the node did not start: {world.logged()}")
            await crowd.learn()
            if think_s is not None:
                crowd.start(think_s)
            yield world
        finally:
            world.reset()
            if (code := await asyncio.to_thread(node.stop)) != 0:
                world.notes.append(f"the node was stopped and ended with {code}")
