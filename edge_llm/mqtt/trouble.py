"""What goes wrong with a broker: each thing said once, with what to do about it.

What kept us from connecting is over when the broker accepts us, and news when it comes again.
"""

import socket
import ssl

import structlog

__all__ = ["Trouble"]

log = structlog.get_logger()

# OpenSSL's x509_vfy.h
NOT_YET_VALID, EXPIRED = 9, 10
WRONG_NAMES = (62, 64)


class Trouble:
    """Says what is wrong with a broker.

    Args:
        broker: its host and port.
        has_tls: whether we speak TLS to it.
    """

    def __init__(self, broker: str, *, has_tls: bool) -> None:
        self._broker = broker
        self._has_tls = has_tls
        self._said: set[tuple[str, str]] = set()
        self.latest: tuple[str, str] | None = None
        """The reason of the latest one, and what to do about it."""

    def end(self) -> None:
        """Forget what was said of tries that failed, as the broker accepted us since."""
        self._said = {said for said in self._said if said[0] == "mqtt.subscription_refused"}

    def could_not_connect(self, exc: BaseException | None) -> None:
        """Say why there is no connection, going by what the operating system or OpenSSL raised."""
        closed_in_handshake = self._has_tls and isinstance(exc, ConnectionError)
        refused = isinstance(exc, ConnectionRefusedError)
        if isinstance(exc, ssl.SSLCertVerificationError):
            self._say("mqtt.tls_failed", exc.verify_message.rstrip("."), _cure_certificate(exc))
        elif isinstance(exc, ssl.SSLError) or (closed_in_handshake and not refused):
            self._say("mqtt.tls_failed", _name_tls_failure(exc), _cure_handshake(exc))
        elif isinstance(exc, TimeoutError) and "handshake" in str(exc):
            self._say("mqtt.tls_failed", "no answer to the handshake", _cure_handshake(exc))
        else:
            self._say("mqtt.unreachable", *_explain_unreachable(exc))

    def refused(self, reason: str) -> None:
        """Say that the broker answered, but does not want us."""
        self._say("mqtt.refused", reason, _cure_refusal(reason))

    def downgraded(self) -> None:
        """Say that the broker is spoken to in an older version."""
        said = ("mqtt.downgraded", "")
        if said not in self._said:
            self._said.add(said)
            log.info("mqtt.downgraded", broker=self._broker, protocol="3.1.1")

    def unanswered(self) -> None:
        """Say that the broker, or whoever listens there, does not speak."""
        self._say("mqtt.unanswered", "no answer", "is that an MQTT broker?")

    def dropped(self) -> None:
        """Say that the broker closed the connection in place of an answer."""
        do = (
            "does that port want TLS (mqtt.tls.enabled = true)? does an old broker want "
            "mqtt.protocol = '3.1.1'? see its log"
        )
        if self._has_tls:
            do = "does the broker want a certificate of ours (mqtt.tls.cert_file)? see its log"
        self._say("mqtt.dropped", "closed before it answered", do)

    def taken_over(self, client_id: str, *, is_sure: bool) -> None:
        """Say, each time that it begins, that two clients have the same id, and take turns."""
        reason = "another client took our place"
        if not is_sure:
            reason = "closed each time within seconds, as when another client takes our place"
        self._say(
            "mqtt.taken_over",
            reason,
            f"give one of the two nodes another name (node = ...), as both are {client_id!r} at "
            "the broker; if there is only one, see the broker's log",
        )

    def session_lost(self, away_s: float, session_expiry_s: int, *, told: bool) -> None:
        """Say, each time, that the broker forgot what it held for us.

        Args:
            away_s: how long we were not connected, in seconds.
            session_expiry_s: how long it was to keep it.
            told: it knows that; MQTT 3.1.1 has no words for it.
        """
        do = "have it keep sessions over a restart (mosquitto: persistence true)"
        if told and away_s >= session_expiry_s:
            do = f"raise mqtt.session_expiry_s, which is {session_expiry_s}"
        log.warning(
            "mqtt.session_lost",
            broker=self._broker,
            away_s=round(away_s, 1),
            lost="the requests that it held for us",
            do=do,
        )

    def subscription_refused(self, topic_filter: str, reason: str) -> None:
        """Say that nothing will come on a topic."""
        do = f"allow this account to read {topic_filter!r} at the broker"
        self._say("mqtt.subscription_refused", reason, do, topic_filter)

    def _say(self, event: str, reason: str, do: str, about: str = "") -> None:
        self.latest = (reason, do)
        if (event, reason + about) not in self._said:
            self._said.add((event, reason + about))
            do = f"{do}{' ' if do.endswith('?') else '; '}trying again"
            log.warning(event, broker=self._broker, reason=reason, do=do)


def _explain_unreachable(exc: BaseException | None) -> tuple[str, str]:
    match exc:
        case ConnectionRefusedError():
            return "connection refused", "is the broker running there? see mqtt.host and mqtt.port"
        case socket.gaierror():
            return "name unknown", "see mqtt.host, and this machine's network and DNS"
        case TimeoutError():
            return "timed out", "is that machine on, in this network, and not behind a firewall?"
        case OSError():
            return exc.strerror or str(exc), "see mqtt.host, and this machine's network"
    return repr(exc), "see mqtt.host and mqtt.port"


def _cure_certificate(exc: ssl.SSLCertVerificationError) -> str:
    if exc.verify_code in WRONG_NAMES:
        return "set mqtt.host to a name that is in the broker's certificate, or make a new one"
    if exc.verify_code == EXPIRED:
        return "renew the broker's certificate, or set this machine's clock"
    if exc.verify_code == NOT_YET_VALID:
        return "set this machine's clock"
    return "set mqtt.tls.ca_file to the certificate of the CA that signed the broker's"


def _name_tls_failure(exc: BaseException | None) -> str:
    if isinstance(exc, ssl.SSLError) and not isinstance(exc, ssl.SSLEOFError):
        return (exc.reason or str(exc)).lower().replace("_", " ")
    return "closed in the handshake"


def _cure_handshake(exc: BaseException | None) -> str:
    reason = str(getattr(exc, "reason", None))
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return "the broker does not take our certificate: see mqtt.tls.cert_file, and its log"
    if "ALERT" in reason or "PROTOCOL" in reason:
        return "see the broker's log"
    return "does that port speak TLS? see mqtt.port: 8883 is usual, 1883 is plain"


def _cure_refusal(reason: str) -> str:
    match reason:
        case "Not authorized" | "Bad user name or password":
            return "set mqtt.username and mqtt.password to an account of the broker"
        case "Unsupported protocol version":
            return "set mqtt.protocol = 'auto'"
        case "Client identifier not valid":
            return "give the node another name (node = ...), or allow it at the broker"
    return "see the broker's log"
