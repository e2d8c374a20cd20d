"""The broker, and how requests come from it."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from edge_llm.protocol import MAX_PAYLOAD_BYTES
from edge_llm.section import Section, TopicFilter, TopicPrefix
from edge_llm.settings.credentials import check_one_secret, read_secret

__all__ = [
    "ClientSettings",
    "Command",
    "MqttSettings",
    "TlsSettings",
]


Command = Literal["pause", "resume", "drain", "reload", "reboot_card"]


def _host(text: str) -> str:
    if not re.fullmatch(r"[^\s:/]+(:\d{1,5})?|\[[0-9a-fA-F:]+\](:\d{1,5})?", text):
        raise ValueError('use a name or an address, and a port if it is another: "10.0.0.6:1884"')
    return text


class TlsSettings(Section):
    """Encryption of the connection to the broker."""

    enabled: bool = False
    """Speak TLS; brokers do on a port of its own, often 8883."""
    ca_file: Path | None = None
    """Certificate of the CA that signed the broker's, PEM; the system's CAs if not given."""
    cert_file: Path | None = None
    """Our own certificate, PEM, for brokers that ask for one."""
    key_file: Path | None = None
    """Its key, PEM, without a passphrase; looked for in ``cert_file`` if not given."""


class ClientSettings(Section):
    """What holds for the devices whose requests have certain ids."""

    match: Annotated[str, Field(min_length=1)]
    """The first level of the request id, with wildcards: ``esp*`` is for ``esp1/42``. MQTT does not
    tell who published a message, so the id is all there is to go by."""
    max_bytes: Annotated[int, Field(ge=16, le=MAX_PAYLOAD_BYTES)]
    """Most bytes of a reply, if the request does not say; smaller than the device's buffer, which
    holds the topic too: 200 for a buffer of 256."""


class MqttSettings(Section):
    """The broker, and how requests come from it."""

    enabled: bool = True
    """Take requests over MQTT."""
    host: str = "127.0.0.1"
    """The broker's name or address."""
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    """The broker's TCP port."""
    more_hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = ()
    """Further servers of the same cluster, tried in turn while one can't be reached:
    ``["10.0.0.6", "10.0.0.7:1884"]``. A single broker has none."""
    username: str | None = None
    """User name at the broker."""
    password: SecretStr | None = None
    """Password at the broker."""
    password_file: Path | None = None
    """A file that holds the password and nothing else. If neither is given, the credential
    ``mqtt-password`` of systemd is taken, if there is one."""
    tls: TlsSettings = TlsSettings()
    prefix: TopicPrefix = "llm"
    """First level or levels of all topics."""
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    """MQTT version; auto tries 5, and goes back to 3.1.1 where the broker refuses it."""
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 30
    """Seconds of silence after which either side checks that the other is there."""
    session_expiry_s: Annotated[int, Field(ge=0, le=0xFFFFFFFE)] = 3600
    """How long the broker keeps requests for a node that is away, in seconds."""
    ack: Literal["response", "receipt"] = "response"
    """Acknowledge a request after its response, so that the broker keeps it until then; or at
    once, for brokers that forget what is not acknowledged within seconds (amqtt)."""
    max_age_s: Annotated[float, Field(ge=0, le=86_400)] = 120.0
    """How long a request that does not say may wait for its turn, counted from when it first came
    in, in seconds; then it is answered ``expired``, and not spoken late. 0 is for ever."""
    repeat_window_s: Annotated[float, Field(ge=0, le=3600)] = 15.0
    """After a broken connection, how long the same request under the same id is taken for a
    repetition by its sender, and given the same answer, in seconds."""
    response_topics: tuple[TopicFilter, ...] | None = None
    """Where MQTT 5 requesters may have their replies sent; ``<prefix>/response/#`` and
    ``+/reply/#`` if not given."""
    client: tuple[ClientSettings, ...] = ()
    """Limits by device, the first that matches counts: ``[[mqtt.client]]``."""
    commands: tuple[Command, ...] = ("pause", "resume", "drain", "reload", "reboot_card")
    """What the node may be told on its command topic; the broker's ACL says by whom."""
    stop_timeout_s: Annotated[float, Field(ge=0)] = 10.0
    """How long an answer that has begun may take to end when the node is stopped, in seconds."""

    @property
    def servers(self) -> tuple[tuple[str, int], ...]:
        """Return the host and port of each server, the first to try first."""
        others = []
        for text in self.more_hosts:
            host, _, port = (
                text.rpartition(":") if re.search(r"[^:]:\d+$", text) else (text, "", "")
            )
            others.append((host.strip("[]"), int(port or self.port)))
        return ((self.host, self.port), *others)

    @model_validator(mode="after")
    def _has_one_password(self) -> Self:
        check_one_secret(self, "password")
        return self

    def read_password(self) -> str | None:
        """Return the password at the broker, wherever it is; None if there is none.

        Raises:
            ConfigurationError: its file can't be used.
        """
        return read_secret("mqtt.password", self.password, self.password_file, "mqtt-password")
