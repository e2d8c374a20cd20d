"""Brokers for whoever asks for one."""

import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import hypothesis
import pytest

from edge_llm.mqtt import connection as mqtt
from tests.brokers import Broker, Mosquitto, open_amqtt
from tests.cards import pack_built_in
from tests.docs import summary
from tests.programs import require_program
from tests.stage import Stage, open_stage
from tests.virtual_ax650.card import Card, open_card
from tests.virtual_ax650.shared import Shared

# Timings never gate a test; all else is hypothesis' own, which draws the same examples in CI.
hypothesis.settings.register_profile("edge-llm", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("edge-llm")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many of the commands that the documentation shows were run."""
    reports = (report for reports in terminalreporter.stats.values() for report in reports)
    if recorded := list(summary.outcomes(reports)):
        terminalreporter.write_line(summary.describe(recorded))


@pytest.fixture(autouse=True)
def no_state_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that a test starts remember nothing of another test, and leave nothing behind."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg_state_home"))


@pytest.fixture(autouse=True)
def no_client_is_left() -> Iterator[None]:
    """A client that was not ended would try its broker's port for ever, whoever has it then."""
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert not [name for name in left if name.startswith("paho-mqtt-client")]


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A mosquitto that can be stopped and started."""
    with Mosquitto(tmp_path) as mosquitto:
        yield mosquitto


@pytest.fixture(scope="session")
def card_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model, as it would be on the card."""
    require_program("cc", "build-essential")
    return pack_built_in(tmp_path_factory.mktemp("card") / "model")


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Card]:
    """The card of the processes that a test starts; files in its folder steer it and tell of it."""
    (tmp_path / "control").write_text("")
    Shared.create(tmp_path / "shared").close()
    files = {name: tmp_path / name.lower() for name in ("CONTROL", "STATS", "STATE", "SHARED")}
    with open_card("full", **files) as card:
        yield card


@pytest.fixture(params=["5", "3.1.1"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Each MQTT version in turn."""
    return str(request.param)


@pytest.fixture(params=["mosquitto-5", "mosquitto-3.1.1", "amqtt"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Broker]:
    """Each broker in turn, with what it can do."""
    match request.param:
        case "amqtt":
            async with open_amqtt() as port:
                yield Broker(port, "3.1.1", ack="receipt", is_mosquitto=False)
        case "mosquitto-5":
            with Mosquitto(tmp_path) as mosquitto:
                yield mosquitto.broker("5")
        case _:
            with Mosquitto(tmp_path) as mosquitto:
                yield mosquitto.broker("3.1.1")


@pytest.fixture
async def stage(broker: Broker) -> AsyncGenerator[Stage]:
    """A node at each broker in turn."""
    async with open_stage(broker) as stage:
        yield stage


@pytest.fixture
def reconnects_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a second for a reconnect."""
    monkeypatch.setattr(mqtt, "RECONNECT_DELAY_S", (0.05, 0.1))
