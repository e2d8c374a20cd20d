"""TLS to the broker: which certificates to trust, and which to show."""

import ssl
from contextlib import suppress
from pathlib import Path

from edge_llm.errors import ConfigurationError
from edge_llm.settings import TlsSettings

__all__ = ["load_again", "make_tls_context"]


class _Socket(ssl.SSLSocket):
    """Closes itself when the handshake fails, which paho leaves to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def make_tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """Read the certificates; blocks for some 20 ms where the system's are taken.

    Raises:
        ConfigurationError: names the file that can't be read or used.
    """
    for name in ("ca_file", "cert_file", "key_file"):
        _check(f"mqtt.tls.{name}", getattr(tls, name))
    if tls.key_file and not tls.cert_file:
        raise ConfigurationError("mqtt.tls.key_file is of no use without mqtt.tls.cert_file")
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except ssl.SSLError as exc:
        raise ConfigurationError(
            f"mqtt.tls.ca_file: {tls.ca_file} holds no certificate in PEM form"
        ) from exc
    if tls.ca_file:
        # Python 3.13 insists on extensions that home-made CAs, as from mosquitto's manual, lack.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.sslsocket_class = _Socket
    try:
        _load_own(context, tls)
    except ssl.SSLError as exc:
        raise ConfigurationError(
            f"mqtt.tls.cert_file: {tls.cert_file} and its key {tls.key_file or 'in it'} can't be "
            "used together: they must be PEM, belong together, and have no passphrase"
        ) from exc
    return context


def load_again(context: ssl.SSLContext, tls: TlsSettings) -> None:
    """Read files that may have been replaced; does not block, and ignores what is half written.

    What was trusted before stays so.
    """
    with suppress(OSError):
        if tls.ca_file:
            context.load_verify_locations(tls.ca_file)
        _load_own(context, tls)


def _load_own(context: ssl.SSLContext, tls: TlsSettings) -> None:
    if tls.cert_file:
        # Without a password OpenSSL would ask for one on the terminal, and wait.
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")


def _check(name: str, path: Path | None) -> None:
    if path is not None:
        try:
            path.open("rb").close()
        except OSError as exc:
            raise ConfigurationError(f"{name}: can't read {path}: {exc.strerror}") from exc
