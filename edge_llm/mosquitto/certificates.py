"""A CA of one's own and the broker's certificate by it, made with openssl.

The certificates have what strict readers ask for (RFC 5280: key usage and key identifiers), as
Python does since 3.13; mosquitto's manual leaves that out.
"""

import hashlib
import ipaddress
import re
import secrets
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edge_llm.errors import ConfigurationError
from edge_llm.mosquitto.files import find_program

__all__ = [
    "check_hosts",
    "default_hosts",
    "fingerprint",
    "host_names",
    "make_authority",
    "make_certificate",
]

DAYS = 3650
"""An installation is not visited to renew them."""

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
"""P-256: what microcontrollers verify fastest, and all of them know."""

TIMEOUT_S = 30.0

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")

AUTHORITY = """\
[req]
distinguished_name = name
x509_extensions = authority
prompt = no
[name]
CN = {name}
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""

SERVER = """\
subjectAltName = {names}
basicConstraints = CA:FALSE
keyUsage = digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def default_hosts() -> list[str]:
    """Return what devices may call this machine: its names in multicast DNS and in the network."""
    name = socket.gethostname().split(".")[0]
    return [f"{name}.local", name]


def check_hosts(hosts: Sequence[str]) -> None:
    """See whether a certificate can be for these.

    Raises:
        ConfigurationError: one is no name or address of a host.
    """
    for host in hosts:
        _alternative_name(host)


def make_authority() -> tuple[str, str]:
    """Make a CA; return its certificate and its key, in PEM form.

    Raises:
        ConfigurationError: openssl is not here, or failed.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = directory / "ca.conf"
        config.write_text(AUTHORITY.format(name=f"edge-llm on {socket.gethostname()}"[:64]))
        key, certificate = directory / "key", directory / "pem"
        out = ("-keyout", str(key), "-out", str(certificate))
        _openssl("req", "-x509", *KEY, "-days", str(DAYS), "-config", str(config), *out)
        return certificate.read_text(), key.read_text()


def make_certificate(ca_file: Path, ca_key: Path, hosts: Sequence[str]) -> tuple[str, str]:
    """Make a broker's certificate; return it and its key, in PEM form.

    Args:
        ca_file: who signs it.
        ca_key: with what.
        hosts: names and addresses that devices may connect to.

    Raises:
        ConfigurationError: a host is none, openssl is not here, or failed.
    """
    names = ", ".join(map(_alternative_name, hosts))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        extensions = directory / "ext"
        extensions.write_text(SERVER.format(names=names))
        key, request, certificate = (str(directory / part) for part in ("key", "csr", "pem"))
        _openssl("req", "-new", *KEY, "-subj", "/CN=edge-llm", "-keyout", key, "-out", request)
        ca = ("-CA", str(ca_file), "-CAkey", str(ca_key), "-days", str(DAYS))
        serial = ("-set_serial", f"0x{secrets.randbits(127):x}")
        files = ("-in", request, "-extfile", str(extensions), "-out", certificate)
        _openssl("x509", "-req", *ca, *serial, *files)
        return Path(certificate).read_text(), Path(key).read_text()


def fingerprint(certificate: Path) -> str | None:
    """Return the SHA-256 of a certificate in PEM form, as AA:BB:...; None if it can't be read."""
    try:
        der = ssl.PEM_cert_to_DER_cert(certificate.read_text().strip())
    except (OSError, ValueError):
        return None
    return hashlib.sha256(der).digest().hex(":").upper()


def host_names(certificate: Path) -> list[str]:
    """Return the names and addresses that a certificate is for; none if it can't be read."""
    try:
        text = _openssl("x509", "-noout", "-ext", "subjectAltName", "-in", str(certificate))
    except ConfigurationError:
        return []
    return re.findall(r"(?:DNS|IP Address):([^\s,]+)", text)


def _alternative_name(host: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        if not HOST.fullmatch(host):
            raise ConfigurationError(f"{host!r} is no name or address of a host") from None
        return f"DNS:{host}"


def _openssl(*arguments: str) -> str:
    program = find_program("openssl", "openssl")
    try:
        return subprocess.run(
            [program, *arguments], check=True, capture_output=True, text=True, timeout=TIMEOUT_S
        ).stdout
    except subprocess.CalledProcessError as exc:
        raise ConfigurationError(f"openssl {arguments[0]} failed: {exc.stderr.strip()}") from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ConfigurationError(f"openssl failed: {exc}") from exc
