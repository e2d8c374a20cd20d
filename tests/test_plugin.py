"""Bridges are found by their entry points, opened one by one, and kept open."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge_llm.errors import ConfigurationError
from edge_llm.node import bridges as node_bridges
from edge_llm.node import open_node
from edge_llm.node.bridges import open_bridges
from edge_llm.plugin import Bridge, BridgeContext, BridgePlugin, BridgeSection, find_bridges
from edge_llm.settings import HttpSettings, MqttSettings, Settings, load_settings
from tests.clients import eventually
from tests.fakes import ScriptedEngine

LAMP = """
from contextlib import asynccontextmanager
from edge_llm.plugin import BridgePlugin, BridgeSection

class LampSettings(BridgeSection):
    pin: int

@asynccontextmanager
async def open_lamp(settings, context):
    yield f"lamp {settings.pin} of {context.node}"

PLUGIN = BridgePlugin(LampSettings, open_lamp)
SOMETHING_ELSE = 5
"""


@pytest.fixture
def lamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a package that offers a bridge named lamp, as pip would leave it behind."""

    def install(value: str) -> None:
        (tmp_path / "lamp_bridge.py").write_text(LAMP)
        info = tmp_path / "lamp_bridge-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lamp-bridge\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[edge_llm.bridges]\nlamp = {value}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "lamp_bridge", raising=False)

    return install


def settings_with(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "edge-llm.toml"
    file.write_text(text)
    return load_settings(file)


def names(settings: Settings) -> list[str]:
    return [bridge.name for bridge in find_bridges(settings)]


def test_bridges_run_if_the_settings_say_so(tmp_path: Path) -> None:
    assert names(settings_with(tmp_path, "")) == ["http"]
    text = "[home_assistant]\nenabled = true\n[bridge.osc]\nport = 9100\n[http]\nenabled = false"
    assert names(settings_with(tmp_path, text)) == ["home_assistant", "osc"]
    assert names(settings_with(tmp_path, "[bridge.osc]\nenabled = false")) == ["http"]


def test_one_of_another_package_is_found(tmp_path: Path, lamp: Callable[[str], None]) -> None:
    lamp("lamp_bridge:PLUGIN")
    assert names(settings_with(tmp_path, "")) == ["http"]
    assert "lamp_bridge" not in sys.modules  # what is not named is not imported
    found = find_bridges(settings_with(tmp_path, "[bridge.lamp]\npin = 17"))
    assert found[-1].section.model_dump() == {"enabled": True, "pin": 17}


@pytest.mark.parametrize(
    ("value", "text", "says"),
    [
        ("lamp_bridge:PLUGIN", "[bridge.lamp]", "bridge.lamp.pin: Field required"),
        ("lamp_bridge:PLUGIN", "[bridge.lamp]\npin = 1\npim = 2", "bridge.lamp.pim: there is no"),
        ("lamp_bridge:PLUGIN", "[bridge.lamb]\npin = 1", r"installed: lamp, osc\)"),
        ("no_such_module:PLUGIN", "[bridge.lamp]\npin = 1", "can't be imported: No module named"),
        ("lamp_bridge:NOTHING", "[bridge.lamp]\npin = 1", "can't be imported: module"),
        ("lamp_bridge:SOMETHING_ELSE", "[bridge.lamp]\npin = 1", "is not a BridgePlugin"),
        ("lamp_bridge:PLUGIN", "[bridge.http]\nport = 1", r"a section of their own, \[http\]"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, lamp: Callable[[str], None], value: str, text: str, says: str
) -> None:
    lamp(value)
    with pytest.raises(ConfigurationError, match=says):
        find_bridges(settings_with(tmp_path, text))


async def test_a_node_opens_them_and_hands_out_what_they_give(
    tmp_path: Path, lamp: Callable[[str], None]
) -> None:
    lamp("lamp_bridge:PLUGIN")
    settings = Settings(
        node="stage",
        mqtt=MqttSettings(enabled=False),
        http=HttpSettings(port=0),
        bridge={"lamp": {"pin": 17}},
        engine={"kind": "paced"},
    )
    async with open_node(settings) as node:
        assert node.bridges["lamp"] == "lamp 17 of stage"
        assert node.http is not None


@dataclass
class Doors:
    """Bridges that note what is done to them, and fail when they are told to."""

    events: list[str] = field(default_factory=list)
    fail: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    def make(self, name: str) -> Bridge:
        @asynccontextmanager
        async def open_it(_section: BridgeSection, _context: BridgeContext) -> AsyncGenerator[str]:
            if self.error and name == "b":
                raise self.error
            self.events.append(f"open {name}")
            try:
                async with asyncio.TaskGroup() as tasks:
                    if name == "b":
                        tasks.create_task(self._fail_when_told())
                    yield name
            finally:
                await asyncio.sleep(0)
                self.events.append(f"close {name}")

        return Bridge(name, BridgePlugin(BridgeSection, open_it), BridgeSection())

    async def _fail_when_told(self) -> None:
        await self.fail.wait()
        self.fail.clear()
        raise ValueError("a plugin made a mistake")


def context() -> BridgeContext:
    return BridgeContext("stage", ScriptedEngine())


async def test_they_are_opened_in_order_and_closed_in_reverse() -> None:
    doors = Doors()
    async with open_bridges([doors.make("a"), doors.make("b")], context()) as given:
        assert given == {"a": "a", "b": "b"}
    assert doors.events == ["open a", "open b", "close b", "close a"]


async def test_one_that_fails_at_first_ends_the_start() -> None:
    doors = Doors(error=ConfigurationError("the port is taken"))
    with pytest.raises(ConfigurationError, match="taken"):
        async with open_bridges([doors.make("a"), doors.make("b")], context()):
            pytest.fail("it was opened")
    assert doors.events == ["open a", "close a"]


async def test_one_that_fails_later_is_opened_again_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node_bridges, "RETRY_DELAY_S", (0.02, 0.05))
    doors = Doors()
    async with open_bridges([doors.make("a"), doors.make("b")], context()):
        for count in (2, 3):
            doors.fail.set()
            await eventually(lambda count=count: doors.events.count("open b") == count)  # type: ignore[misc]
        assert doors.events.count("open a") == 1
    assert "bridge.failed" in capsys.readouterr().out
    assert doors.events[-1] == "close a"


def test_a_bridge_knows_the_node_by_what_is_documented() -> None:
    fields: Any = BridgeContext.__dataclass_fields__
    known = ["node", "engine", "mqtt", "presets", "report", "stats", "monitor", "is_in_fleet"]
    assert list(fields) == known
