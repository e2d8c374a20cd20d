"""Files that mosquitto reads: written whole or not at all, and by nobody else meanwhile."""

import fcntl
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_llm.errors import ConfigurationError

__all__ = ["find_program", "keeping_others_out", "read", "write"]

PRIVATE = 0o600
"""Of files with accounts, rights or keys; newer mosquittos insist on it."""

BROKER_USER = "mosquitto"
"""Who the broker is, once it runs; it reads its files again as this user."""

INSTALL = "apt install mosquitto makes mosquitto's"


def read(file: Path) -> str:
    """Return what a file holds.

    Raises:
        ConfigurationError: it can't be read; ``FileNotFoundError`` is left to the caller.
    """
    try:
        return file.read_text()
    except FileNotFoundError:
        raise
    except PermissionError as exc:
        raise ConfigurationError(f"{file} can't be read: run this as root, with sudo") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{file} can't be read: {exc}") from exc


def write(file: Path, content: str, mode: int = PRIVATE, *, for_broker: bool = True) -> None:
    """Write a file so that a power cut leaves the old one or the new one; it is on the disk then.

    A file that was there keeps its owner. A new one is given to the broker's user, if this machine
    has one and we may.

    Args:
        file: a link to a file stays one.
        content: of the file.
        mode: its rights, whatever they were before.
        for_broker: give a new file to the broker's user.

    Raises:
        ConfigurationError: it can't be written.
    """
    file = file.resolve()
    owner = _owner(file, for_broker=for_broker)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(handle, "w") as new:
                os.fchmod(handle, mode)
                if owner:
                    os.fchown(handle, *owner)
                new.write(content)
                new.flush()
                os.fsync(handle)
            Path(name).replace(file)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
    except PermissionError as exc:
        raise ConfigurationError(f"{file} can't be written: run this as root, with sudo") from exc
    except FileNotFoundError as exc:
        raise ConfigurationError(f"there is no directory {file.parent}: {INSTALL}") from exc
    except OSError as exc:
        raise ConfigurationError(f"{file} can't be written: {exc.strerror}") from exc


def _owner(file: Path, *, for_broker: bool) -> tuple[int, int] | None:
    """Return whose a file shall be; None if that is ourselves."""
    try:
        status = file.stat()
        owner = (status.st_uid, status.st_gid)
    except FileNotFoundError:
        if not for_broker or os.geteuid() != 0:
            return None
        try:
            account = pwd.getpwnam(BROKER_USER)
        except KeyError:
            return None
        owner = (account.pw_uid, account.pw_gid)
    return None if owner == (os.geteuid(), os.getegid()) else owner


@contextmanager
def keeping_others_out(directory: Path) -> Iterator[None]:
    """Let nobody else change files of a directory by this program meanwhile.

    Raises:
        ConfigurationError: there is no such directory.
    """
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        raise ConfigurationError(f"{directory}: {exc.strerror}; {INSTALL}") from exc
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def find_program(name: str, package: str) -> str:
    """Return where a program is.

    Raises:
        ConfigurationError: it is not installed; the message names Debian's package.
    """
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/bin")
    if path is None:
        raise ConfigurationError(f"the program {name} is not here: apt install {package}")
    return path
