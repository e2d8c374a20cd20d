"""What a node says of itself to systemd: ready, how it is, and why it should be started again."""

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edge_llm.engine import OpenEngine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.engine.worker import WorkerEngine
from edge_llm.node import Node
from edge_llm.node.node import SILENCE_S
from edge_llm.service import Service
from edge_llm.settings import EngineSettings, QueueSettings, Settings
from tests.fakes import ScriptedEngine


@pytest.fixture
async def worker() -> WorkerEngine:
    return WorkerEngine(EngineSettings())


def make_node(engine: Any, worker: WorkerEngine | None = None) -> Node:
    settings = Settings(node="stage")
    opened = OpenEngine(QueuedEngine(engine, QueueSettings()), worker)
    return Node(settings, lambda: settings, opened)


async def test_it_is_ready_when_it_answers_whatever_the_answer_is(worker: WorkerEngine) -> None:
    engine = ScriptedEngine()
    node = make_node(engine, worker)
    for state, is_ready in {
        "loading": False,
        "ready": True,
        "recovering": False,
        "failed": True,  # a person is needed, and is told so
        "offline": True,
    }.items():
        engine.state = cast(Any, state)
        assert node.is_ready is is_ready, state


async def test_its_status_says_what_it_does_and_what_a_person_should_do() -> None:
    node = make_node(ScriptedEngine())
    assert node.status == "idle; scripted; 0 waiting"
    node.engine.stats.attention = "look at the card"
    assert node.status == "idle; scripted; 0 waiting; look at the card"


async def test_a_line_that_is_silent_for_too_long_is_dead(worker: WorkerEngine) -> None:
    node = make_node(ScriptedEngine(), worker)
    assert node.trouble is None
    line = SimpleNamespace(silent_s=SILENCE_S - 1)
    node.service = cast(Service, line)
    assert node.trouble is None  # whatever it does: it tries to connect, at the least
    line.silent_s = SILENCE_S + 1
    assert node.trouble == "the line to the broker has been silent for 301 s"


async def test_a_supervisor_that_hangs_is_dead(worker: WorkerEngine) -> None:
    node = make_node(ScriptedEngine(), worker)
    assert node.trouble is None
    worker._supervisor._due_at = time.monotonic() - 5
    assert node.trouble == "the worker's supervisor is overdue by 5 s"


async def test_what_must_come_next_is_given_time_enough(worker: WorkerEngine) -> None:
    """An idle worker, one that loads, and one that is ended gently must not be taken for dead."""
    settings = EngineSettings().worker
    for within_s in (0.0, 3600.0):  # a wait for help is the longest
        worker._supervisor._expect(within_s)
        given_s = worker._supervisor._due_at - time.monotonic()
        assert given_s > within_s + settings.load_timeout_s + 3 * settings.stop_timeout_s
