"""Many nodes behind one address, on NATS JetStream."""

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from edge_llm.section import Section
from edge_llm.settings.credentials import read_secret

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

    @model_validator(mode="after")
    def _has_one_password(self) -> Self:
        if self.password is not None and self.password_file is not None:
            raise ValueError("give either 'password' or 'password_file'")
        return self

    def read_password(self) -> str | None:
        """Return the password at the servers, wherever it is; None if there is none.

        Raises:
            ConfigurationError: its file can't be used.
        """
        return read_secret("fleet.password", self.password, self.password_file, "nats-password")
