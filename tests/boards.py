"""A board with a button, as programs for microcontrollers find it where they run on Linux.

What stands in for its pins and its Wi-Fi (``tests/real_clients/micropython``, ``.../arduino``)
reads files in its folder; what it says on its serial line goes to another one.
"""

import asyncio
from pathlib import Path

from tests.clients import eventually

# The levels of a pin, one for each time that it is read: contacts bounce, and then stay as they are
# for longer than bouncing may last.
PRESSED = "0101001" + "0" * 40
RELEASED = "1101011" + "1" * 40
TIMEOUT_S = 15.0


class Board:
    """A board that runs.

    Args:
        folder: where its files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log = folder / "serial.log"

    @property
    def printed(self) -> str:
        """All that has come over its serial line."""
        return self.log.read_text()

    async def prints(self, text: str, times: int = 1) -> None:
        """Wait until it has printed a text so many times."""
        await eventually(lambda: self.printed.count(text) >= times, TIMEOUT_S, lambda: self.printed)

    async def press(self) -> None:
        """Press the button, and let it go."""
        for levels in (PRESSED, RELEASED):
            new, button = self._folder / "button.new", self._folder / "button"
            await asyncio.to_thread(new.write_text, levels)
            await asyncio.to_thread(new.rename, button)
            await eventually(lambda b=button: not b.exists(), TIMEOUT_S)  # type: ignore[misc]

    def set_wifi(self, *, is_there: bool) -> None:
        """Switch the Wi-Fi on or off."""
        if is_there:
            (self._folder / "no-wifi").unlink()
        else:
            (self._folder / "no-wifi").touch()
