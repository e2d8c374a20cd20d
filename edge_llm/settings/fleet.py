"""Many nodes behind one address, on NATS JetStream."""

import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from edge_llm.section import Section
from edge_llm.settings.credentials import check_one_secret, read_secret

__all__ = ["FleetSettings"]


def _server(url: str) -> str:
    if not re.fullmatch(r"(nats|tls)://[^\s/@]+:\d{1,5}", url):
        raise ValueError('use a URL such as "nats://10.0.0.5:4222", without a password in it')
    return url


class FleetSettings(Section):
    """The servers of a fleet; without any, the node has its broker for itself."""

    servers: tuple[Annotated[str, AfterValidator(_server)], ...] = ()
    """Where NATS listens, one or all of a cluster: ``["nats://10.0.0.5:4222"]``."""
    username: str | None = None
    """User name at the servers; that of ``[mqtt]`` is for their MQTT door."""
    password: SecretStr | None = None
    """Password at the servers."""
    password_file: Path | None = None
    """A file that holds the password and nothing else. If neither is given, the credential
    ``nats-password`` of systemd is taken, if there is one."""
    ca_file: Path | None = None
    """Certificate of the CA that signed the servers', PEM, for ``tls://``; the system's if not
    given."""
    lease_s: Annotated[float, Field(ge=1, le=300)] = 10.0
    """How long a request stays with a node that says nothing, in seconds; then another begins it
    again."""
    max_waiting: Annotated[int, Field(ge=1, le=100_000)] = 500
    """Most requests that may wait in the fleet; more are refused with ``queue_full``."""
    session_wait_s: Annotated[float, Field(ge=0, le=60)] = 2.0
    """How long a conversation waits for the node that has computed its beginning, in seconds."""
    answers_age_s: Annotated[float, Field(ge=60, le=604_800)] = 3600.0
    """How long answers are kept for requests that are delivered again, in seconds."""

    sessions_age_s: Annotated[float, Field(ge=60, le=604_800)] = 1800.0
    """How long a conversation is remembered after its last turn, in seconds."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names or addresses of the servers."""
        return tuple(urlsplit(url).hostname or "" for url in self.servers)

    @property
    def is_tls(self) -> bool:
        """Tell whether the servers are spoken to by TLS; all are, or none is."""
        return any(url.startswith("tls://") for url in self.servers)

    @model_validator(mode="after")
    def _has_one_way(self) -> Self:
        if self.is_tls and not all(url.startswith("tls://") for url in self.servers):
            raise ValueError("use 'tls://' for all servers or none: they get the same password")
        if self.servers and self.ca_file is not None and not self.is_tls:
            raise ValueError("'ca_file' is for 'tls://'")
        return self

    @model_validator(mode="after")
    def _has_one_password(self) -> Self:
        check_one_secret(self, "password")
        return self

    def read_password(self) -> str | None:
        """Return the password at the servers, wherever it is; None if there is none.

        Raises:
            ConfigurationError: its file can't be used.
        """
        return read_secret("fleet.password", self.password, self.password_file, "nats-password")
