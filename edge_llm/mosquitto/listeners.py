"""What mosquitto listens to, as its configuration says."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_llm.mosquitto.files import read

__all__ = ["Listener", "find_listeners"]


@dataclass(frozen=True, slots=True)
class Listener:
    """One port of the broker."""

    port: int
    address: str
    """Empty for all of this machine's."""
    file: Path
    """Where it stands."""
    options: dict[str, str] = field(default_factory=dict)
    """What follows it there, up to the next."""

    @property
    def password_file(self) -> Path | None:
        """Whose accounts it takes."""
        return self._path("password_file")

    @property
    def certificate(self) -> Path | None:
        """The broker's; None where it does not speak TLS."""
        return self._path("certfile")

    @property
    def is_websockets(self) -> bool:
        """Whether it is for web pages."""
        return self.options.get("protocol") == "websockets"

    def _path(self, option: str) -> Path | None:
        value = self.options.get(option)
        return Path(value) if value else None


def find_listeners(directory: Path) -> list[Listener]:
    """Return the listeners of ``mosquitto.conf`` and of all that is in ``conf.d``.

    Raises:
        ConfigurationError: one of the files can't be read.
    """
    conf_d = directory / "conf.d"
    files = [directory / "mosquitto.conf", *sorted(conf_d.glob("*.conf"))]
    return [listener for file in files if file.exists() for listener in _listeners(file)]


def _listeners(file: Path) -> Iterator[Listener]:
    current: Listener | None = None
    for line in read(file).splitlines():
        name, _, value = line.strip().partition(" ")
        value = value.strip()
        if name in {"listener", "port"}:
            if current:
                yield current
            port, _, address = value.partition(" ")
            current = Listener(int(port) if port.isdigit() else 0, address.strip(), file)
        elif current and name and not name.startswith("#"):
            current.options[name] = value
    if current:
        yield current
