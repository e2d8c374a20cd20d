"""``examples/micropython`` in the real MicroPython, at a real broker and a node.

It is MicroPython's port for Linux, with MicroPython's own umqtt; ``tests/real_clients/micropython``
stands in for what a board has and Linux has not: pins, a watchdog, Wi-Fi.
"""

import asyncio
import errno
import os
import platform
import shutil
import sysconfig
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_llm.errors import EdgeLLMError
from edge_llm.preset import Preset, Presets
from edge_llm.service import Rules
from tests.boards import TIMEOUT_S, Board
from tests.brokers import Mosquitto
from tests.clients import eventually
from tests.environments import require_python
from tests.programs import HOST, running
from tests.small_client import SmallClient
from tests.stage import open_stage

EXAMPLE = Path(__file__).parent.parent / "examples" / "micropython" / "button.py"
STAND_INS = Path(__file__).parent / "real_clients" / "micropython"
# Only what must differ here: where the broker is, and how long things take.
MAIN = """
import button
button.BROKER, button.PORT = "{host}", {port}
button.PAGE_MS, button.RETRY_MS, button.ANSWER_TIMEOUT_MS = 10, (20, 100), 3000
button.main()
"""
STORY = ("Die alte Fähre grüßt den müden Mond über der Brücke. " * 12).strip()
PRESET = Preset(prompt=f"say {STORY}", fallback="The oracle sleeps.")

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="no MicroPython for other machines"),
    pytest.mark.timeout(120),  # with installing it
]


class Display(Board):
    """A board whose display is shown on its serial line."""

    @property
    def shown(self) -> list[str]:
        """All that the display has shown, two lines each."""
        lines = [line for line in self.printed.splitlines() if line.startswith("|")]
        assert all(len(line) == 35 for line in lines)  # two of 16 columns, and their frame
        return [f"{line[1:17].strip()} {line[18:34].strip()}".strip() for line in lines]

    async def shows(self, text: str) -> None:
        """Wait until the last that the display has shown is this text."""
        await eventually(
            lambda: " ".join(self.shown).endswith(text), TIMEOUT_S, lambda: self.printed
        )


@asynccontextmanager
async def board(port: int, folder: Path) -> AsyncGenerator[Display]:
    python = await asyncio.to_thread(require_python, STAND_INS / "micropython.txt", only=True)
    library = folder / "lib"
    shutil.copytree(Path(sysconfig.get_path("purelib")) / "umqtt", library / "umqtt")
    (folder / "main.py").write_text(MAIN.format(host=HOST, port=port))
    path = f"{EXAMPLE.parent}:{STAND_INS}:{library}"
    run = f"cd {folder} && exec {python.parent / 'micropython'} main.py"
    board = Display(folder)
    with running(["sh", "-c", run], board.log, lambda: True, os.environ | {"MICROPYPATH": path}):
        yield board
        assert "Traceback" not in board.printed
        assert "watchdog" not in board.printed


@pytest.mark.usefixtures("reconnects_quickly")
async def test_the_button_asks_and_the_display_shows_the_answer_whatever_breaks(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    rules = Rules(Presets({"": PRESET}, ""))
    async with (
        open_stage(mosquitto.broker("3.1.1"), rules=rules) as stage,
        board(mosquitto.port, tmp_path) as button,
    ):
        await button.prints("connected\n")
        async with SmallClient(mosquitto.port) as listener:
            await listener.subscribe("llm/response/button1/#")
            await button.press()
            await button.shows(STORY)
            topics = [topic for topic, _ in listener.messages]
            assert len(topics) >= 4
            assert topics[-1] == "llm/response/button1"
            assert listener.num_discarded == 0  # none needs more than 256 bytes
        assert button.shown[0] == "Press the button."
        assert " ".join(button.shown[2:]) == STORY
        assert len(stage.engine.asked) == 1  # however often the contacts bounced

        stage.engine.error = EdgeLLMError("it was told to fail")
        await button.press()
        await button.prints("internal: it was told to fail\n")
        await button.shows("The oracle sleeps.")
        stage.engine.error = None

        button.set_wifi(is_there=False)
        mosquitto.stop()
        await button.prints("no line: OSError('no Wi-Fi yet',)\n", 2)
        await button.press()
        await button.shows("No connection.")
        button.set_wifi(is_there=True)
        await button.prints(f"no line: OSError({errno.ECONNREFUSED},)\n")
        mosquitto.start()
        await button.prints("connected\n", 2)
        await eventually(stage.client.paho.is_connected)
        await button.press()
        await button.shows(STORY)

        stage.task.cancel()  # as a node that is switched off
        await asyncio.wait({stage.task})
        await button.press()
        await button.shows("No answer.")
        await button.prints("connected\n", 3)
