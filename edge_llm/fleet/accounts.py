"""Accounts at NATS: a file of its configuration, one line for each, with a hash of the password.

A device may use subjects with its own name only. nats-server has no word for the name of who asks,
as mosquitto has ``%u``, so the line of a device has its rights in full.
"""

import ctypes
import os
import re
from collections.abc import Mapping
from pathlib import Path

from edge_llm.errors import ConfigurationError
from edge_llm.mosquitto import explain_bad_name
from edge_llm.mosquitto.files import keeping_others_out, read, write

__all__ = ["RIGHTS", "AccountsFile", "device_rights"]

RIGHTS: Mapping[str, str] = {"node": "NODE", "home-assistant": "HOME_ASSISTANT", "admin": "ADMIN"}
"""Those that are not a device's, and how ``nats/edge-llm-rights.conf`` calls them."""

HEAD = """\
# Accounts at the NATS servers of edge-llm, the same on all of a cluster; see edge-llm-rights.conf.
# edge-llm nats-user writes them, one line for each.
include edge-llm-rights.conf
users: [
  # Nobody, as the passwords are no hashes of anything: nats-server refuses a file with rights that
  # no account has, and one without accounts lets in everybody.
  { user: nobody1, password: "$2b$10$nobody", permissions: $NODE }
  { user: nobody2, password: "$2b$10$nobody", permissions: $HOME_ASSISTANT }
  { user: nobody3, password: "$2b$10$nobody", permissions: $ADMIN }
"""
TAIL = "]\n"

ACCOUNT = re.compile(r'^ *\{ user: "([^"]+)", .*\}$')

ROUNDS = 6
"""Of bcrypt, as a power of two: 4 ms on a PC. Hundreds of devices connect at the same time after a
power cut, and a password at random of 116 bits needs no more."""


OWN = ("request", "cancel")
SEEN = ("status", "activity", "info", "health")


class AccountsFile:
    """The file of all accounts; those with a node's rights and those of devices."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def names(self) -> list[str]:
        """Return whose accounts it has, in its order; none if there is no file.

        Raises:
            ConfigurationError: it can't be read, or was not written by us.
        """
        return list(self._accounts())

    def add(self, name: str, password: str, rights: str, *, replace: bool = False) -> None:
        """Add an account; the servers know it when they read the file again.

        Args:
            name: of a device, a node or a person.
            password: which is hashed.
            rights: in NATS's words, as ``device_rights`` writes them; or "$NODE".
            replace: give an account that is there this password and these rights.

        Raises:
            ConfigurationError: the name can't be one or is taken, or the file can't be written.
        """
        if reason := _explain_bad_name(name):
            raise ConfigurationError(f"{name!r}: {reason}")
        with keeping_others_out(self.file.parent):
            accounts = self._accounts()
            if name in accounts and not replace:
                raise ConfigurationError(
                    f"{name} has an account in {self.file}; --replace gives it a new password"
                )
            line = f'  {{ user: "{name}", password: "{_hash(password)}", {rights} }}\n'
            self._write({**accounts, name: line})

    def remove(self, name: str) -> None:
        """Take an account away.

        Raises:
            ConfigurationError: there is none, or the file can't be written.
        """
        with keeping_others_out(self.file.parent):
            accounts = self._accounts()
            if accounts.pop(name, None) is None:
                raise ConfigurationError(f"{name} has no account in {self.file}")
            self._write(accounts)

    def _accounts(self) -> dict[str, str]:
        try:
            text = read(self.file)
        except FileNotFoundError:
            return {}
        if not (text.startswith(HEAD) and text.endswith(TAIL)):
            raise ConfigurationError(f"{self.file} was not written by this program, or was edited")
        lines = text[len(HEAD) : -len(TAIL)].splitlines(keepends=True)
        found = {match[1]: line for line in lines if (match := ACCOUNT.match(line))}
        if len(found) != len(lines):
            raise ConfigurationError(f"{self.file} has lines that are no account of ours")
        return found

    def _write(self, accounts: Mapping[str, str]) -> None:
        owner = self.file.parent.stat()
        is_new = not self.file.exists()
        write(self.file, "".join([HEAD, *accounts.values(), TAIL]), for_broker=False)
        if is_new and owner.st_uid:  # the directory is that of the servers' user
            try:
                os.chown(self.file, owner.st_uid, owner.st_gid)
            except OSError as exc:
                raise ConfigurationError(f"{self.file}: {exc.strerror}") from exc


def device_rights(name: str, prefix: str) -> str:
    """Return what a device may do, in NATS's words: over MQTT, under its own name."""
    prefix = prefix.replace("/", ".")
    own = ", ".join(f'"{prefix}.{what}.{name}", "{prefix}.{what}.{name}.>"' for what in OWN)
    nodes = ", ".join(f'"{prefix}.node.*.{what}"' for what in SEEN)
    answers = f'"{prefix}.response.{name}", "{prefix}.response.{name}.>"'
    publish = f'{own}, "{prefix}.session.{name}.reset"'
    subscribe = f'{answers}, {nodes}, "$MQTT.sub.>"'
    return (
        "allowed_connection_types: [MQTT, MQTT_WS], "
        f"permissions: {{ publish: [{publish}], subscribe: [{subscribe}] }}"
    )


def _explain_bad_name(name: str) -> str | None:
    if "." in name:
        return "NATS has a dot between levels of a subject, so no name can have one"
    return explain_bad_name(name)


def _hash(password: str) -> str:
    """Return the bcrypt hash of a password, by the library that the system's own logins use.

    Raises:
        ConfigurationError: there is no such library, as on macOS, or it has no bcrypt.
    """
    try:
        library = ctypes.CDLL("libcrypt.so.1")  # libxcrypt; Python's own module is gone since 3.13
    except OSError as exc:
        raise ConfigurationError("libcrypt is not here: apt install libcrypt1") from exc
    library.crypt_gensalt.restype = library.crypt.restype = ctypes.c_char_p
    salt = library.crypt_gensalt(b"$2b$", ctypes.c_ulong(ROUNDS), None, 0)  # random by itself
    hashed = library.crypt(password.encode(), salt) if salt else None
    if not hashed or not hashed.startswith(b"$2b$"):
        raise ConfigurationError("libcrypt has no bcrypt: apt install libcrypt1")
    return str(hashed.decode())
