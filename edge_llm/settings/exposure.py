"""What settings leave open to whoever is on the network, or on this machine; said at each start."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_llm.section import is_loopback
from edge_llm.settings.credentials import find_credential
from edge_llm.settings.fleet import FleetSettings
from edge_llm.settings.http import HttpSettings
from edge_llm.settings.mqtt import MqttSettings
from edge_llm.settings.root import Settings

__all__ = ["Exposure", "find_exposures"]


@dataclass(frozen=True, slots=True)
class Exposure:
    """One thing that is left open."""

    event: str
    """For the log."""
    reason: str
    do: str


def find_exposures(settings: Settings) -> tuple[Exposure, ...]:
    """Return what is left open; empty if nothing is.

    A broker or a server of the fleet on another host must be spoken to by TLS, or everyone on the
    way reads what is said, the password too; and it must know who we are, by a password or a
    certificate, or everyone may be us. Each is said by itself: one without the other protects from
    somebody else.
    """
    found = [*_of_files(settings)]
    if settings.mqtt.enabled:
        found += _of_broker(settings.mqtt)
        found += _of_fleet(settings.fleet)
    if settings.http.enabled:
        found += _of_http(settings.http)
    return tuple(found)


def _of_broker(mqtt: MqttSettings) -> Iterator[Exposure]:
    if is_loopback(mqtt.host):
        return
    if not mqtt.tls.enabled:
        yield Exposure(
            "broker.unprotected",
            f"what goes to and from {mqtt.host} is not encrypted: whoever is on the network reads "
            "what visitors say, and the password",
            "set mqtt.tls.enabled and mqtt.tls.ca_file; see docs/broker.md",
        )
    secret = mqtt.password or mqtt.password_file or find_credential("mqtt-password")
    if not ((mqtt.username and secret) or (mqtt.tls.enabled and mqtt.tls.cert_file)):
        yield Exposure(
            "broker.unprotected",
            f"{mqtt.host} lets us in without a password or certificate, and so whoever else is on "
            "the network: they can ask, listen and command",
            "give the broker accounts, and set mqtt.username and mqtt.password_file; "
            "mosquitto/edge-llm-lan.conf is one that does",
        )


def _of_fleet(fleet: FleetSettings) -> Iterator[Exposure]:
    hosts = [host for host in fleet.hosts if not is_loopback(host)]
    if not hosts:
        return
    if not fleet.is_tls:
        yield Exposure(
            "fleet.unprotected",
            f"what goes to and from {hosts[0]} is not encrypted: whoever is on the network reads "
            "what visitors say, and the password",
            'begin each of fleet.servers with "tls://", and set fleet.ca_file; see docs/fleet.md',
        )
    secret = fleet.password or fleet.password_file or find_credential("nats-password")
    if not (fleet.username and secret):
        yield Exposure(
            "fleet.unprotected",
            f"{hosts[0]} lets us in without an account, and so whoever else is on the network: "
            "they can take requests away and answer them",
            "give the servers accounts (edge-llm nats-user), and set fleet.username and "
            "fleet.password_file; nats/edge-llm-1.conf is one that asks for them",
        )


def _of_http(http: HttpSettings) -> Iterator[Exposure]:
    if not (is_loopback(http.host) or http.key):
        yield Exposure(
            "http.unprotected",
            f"whoever reaches {http.host or 'this machine'} may use the model, as "
            "http.allow_anonymous_on says",
            "make a key: edge-llm api-key NAME",
        )


def _of_files(settings: Settings) -> Iterator[Exposure]:
    mqtt, openai = settings.mqtt, settings.engine.openai
    fleet = settings.fleet
    files = (mqtt.password_file, mqtt.tls.key_file, openai.api_key_file, fleet.password_file)
    for file in files:
        if file is not None and _is_read_by_all(file):
            yield Exposure(
                "secret.exposed",
                f"every user of this machine can read {file}",
                f"chmod 600 {file}, or let systemd hand it over: LoadCredential=",
            )


def _is_read_by_all(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & 0o004)
    except OSError:  # who needs it says so
        return False
