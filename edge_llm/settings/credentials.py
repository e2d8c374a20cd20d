"""Secrets: in the settings, in files that they name, or handed over by systemd.

A file is read when the secret is needed, as certificates are, so that it can be replaced.
"""

import os
from pathlib import Path

from pydantic import SecretStr

from edge_llm.errors import ConfigurationError
from edge_llm.section import Section

__all__ = ["check_one_secret", "find_credential", "read_secret"]

MAX_BYTES = 65_535
"""Of a password, as MQTT counts it; a larger file is a mistake."""


def check_one_secret(section: Section, name: str) -> None:
    """Refuse a section that has a secret and names a file of it, too.

    Raises:
        ValueError: it has both.
    """
    if getattr(section, name) is not None and getattr(section, f"{name}_file") is not None:
        raise ValueError(f"give either {name!r} or '{name}_file'")


def read_secret(
    setting: str, value: SecretStr | None, file: Path | None, credential: str
) -> str | None:
    """Return a secret; None if there is none.

    Args:
        setting: how the settings call it; ``mqtt.password``.
        value: what they hold.
        file: what they name; holds the secret and nothing else.
        credential: what systemd may call it, in ``$CREDENTIALS_DIRECTORY``; taken if the settings
            have neither of the others.

    Raises:
        ConfigurationError: a file can't be read, or holds no secret; nothing of it is shown.
    """
    if value is not None:
        return value.get_secret_value()
    setting = f"{setting}_file"
    if file is None and (file := find_credential(credential)) is None:
        return None
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as exc:
        raise ConfigurationError(f"{setting}: can't read {file}: {exc.strerror}") from exc
    try:
        secret = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{setting}: {file} is not UTF-8") from None
    if not secret:
        raise ConfigurationError(f"{setting}: {file} is empty")
    if len(data) > MAX_BYTES or "\n" in secret:
        raise ConfigurationError(f"{setting}: {file} has more than one line; it must have one only")
    return secret


def find_credential(name: str) -> Path | None:
    """Return the file of a credential that systemd hands over (``LoadCredential=``), if it does."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    file = Path(directory or ".") / name
    return file if directory and file.exists() else None
