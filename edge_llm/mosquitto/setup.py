"""The broker made ready for devices on the network: our files in their places, and certificates."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from edge_llm.errors import ConfigurationError
from edge_llm.mosquitto.certificates import (
    check_hosts,
    default_hosts,
    make_authority,
    make_certificate,
)
from edge_llm.mosquitto.files import PRIVATE, keeping_others_out, read, write

__all__ = ["Step", "set_up"]

PUBLIC = 0o644

HOME = "/etc/mosquitto"
"""Where the files that we ship say that they are."""

CONFIGURATION = ("edge-llm.conf", "edge-llm-lan.conf")
WEBSOCKETS = "edge-llm-websockets.conf"


class Step(NamedTuple):
    """What was done to one file."""

    file: Path
    what: Literal["made", "kept", "kept, and differs from ours"]


def set_up(
    directory: Path, hosts: Sequence[str] = (), *, websockets: bool = False
) -> Iterator[Step]:
    """Put our files below mosquitto's directory, and make certificates; yield each step when done.

    What is there stays: accounts, rights, a configuration that was edited, the CA, which the
    devices know. The broker's certificate is made anew where hosts are given.

    Args:
        directory: ``/etc/mosquitto``.
        hosts: names and addresses that devices connect to; by default this machine's names.
        websockets: a listener for web pages, too.

    Raises:
        ConfigurationError: a host is none, something can't be written, or openssl is not here.
    """
    certs, conf_d = directory / "certs", directory / "conf.d"
    check_hosts(hosts)
    with keeping_others_out(directory):
        yield from _certify(certs, hosts)
        for name in ("edge-llm.devices", "edge-llm.staff"):
            yield _keep_or_write(directory / name, None)
        yield _keep_or_write(directory / "edge-llm.acl", _shipped("edge-llm.acl", directory))
        for name in (*CONFIGURATION, *([WEBSOCKETS] if websockets else [])):
            yield _keep_or_write(conf_d / name, _shipped(name, directory), is_public=True)


def _certify(certs: Path, hosts: Sequence[str]) -> Iterator[Step]:
    ca_file, ca_key = certs / "edge-llm-ca.pem", certs / "edge-llm-ca.key"
    file, key_file = certs / "edge-llm.pem", certs / "edge-llm.key"
    if not ca_file.exists() and not file.exists():
        certificate, key = make_authority()
        write(ca_key, key, for_broker=False)  # nobody but root: it can make any certificate
        write(ca_file, certificate, PUBLIC, for_broker=False)
        yield Step(ca_file, "made")
    if file.exists() and not hosts:
        yield Step(file, "kept")
        return
    if not (ca_file.exists() and ca_key.exists()):
        raise ConfigurationError(
            f"{ca_key} is not there, so {file} can't be made anew; bring the key back, or remove "
            f"{ca_file} and {file} for a new CA, which all devices must then be given"
        )
    certificate, key = make_certificate(ca_file, ca_key, hosts or default_hosts())
    write(key_file, key)
    write(file, certificate, PUBLIC, for_broker=False)
    yield Step(file, "made")


def _keep_or_write(file: Path, content: str | None, *, is_public: bool = False) -> Step:
    """Write a file that is not there; without content it is empty, and filled by others later.

    What everybody may read is not the broker's: it should not be able to change its own rules.
    """
    try:
        there = read(file)
    except FileNotFoundError:
        mode = PUBLIC if is_public else PRIVATE
        write(file, content or "", mode, for_broker=not is_public)
        return Step(file, "made")
    same = content is None or there == content
    return Step(file, "kept" if same else "kept, and differs from ours")


def _shipped(name: str, directory: Path) -> str:
    here = Path(__file__).parent
    for place in (here / "shipped", here.parents[1] / "mosquitto"):  # a wheel, a checkout
        if (place / name).exists():
            return (place / name).read_text().replace(HOME, str(directory))
    raise ConfigurationError(f"{name} is not part of this installation")
