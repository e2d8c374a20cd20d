"""Who has rights of its own in mosquitto's ACL file."""

from pathlib import Path

from edge_llm.mosquitto.files import read

__all__ = ["STAFF", "read_users"]

STAFF = frozenset({"admin", "edge-llm", "homeassistant"})
"""Those of the file that we ship."""


def read_users(acl_file: Path) -> frozenset[str] | None:
    """Return the names that have lines of their own; None if there is no such file.

    Raises:
        ConfigurationError: it can't be read.
    """
    try:
        lines = read(acl_file).splitlines()
    except FileNotFoundError:
        return None
    words = (line.split(maxsplit=1) for line in lines)
    return frozenset(word[1].strip() for word in words if len(word) == 2 and word[0] == "user")
