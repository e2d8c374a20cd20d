"""``edge-llm mqtt-user``: accounts of devices and people at mosquitto."""

import argparse
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_llm.errors import ConfigurationError
from edge_llm.mosquitto import (
    STAFF,
    Listener,
    PasswordFile,
    default_hosts,
    find_listeners,
    fingerprint,
    host_names,
    make_password,
    read_users,
    reload_mosquitto,
    set_up,
)

__all__ = ["add"]

DIRECTORY = Path("/etc/mosquitto")
PID_FILE = Path("/run/mosquitto/mosquitto.pid")
"""Debian's."""

NODE = "edge-llm"
"""The account of nodes, in the ACL file that we ship."""

TOLD = "mosquitto knows it now"
NOT_TOLD = "mosquitto was not told; type: systemctl reload mosquitto"

EPILOG = """\
  edge-llm mqtt-user setup                 let devices in: TLS, certificates, accounts; once
  edge-llm mqtt-user add esp1              an account for a device; shows what its sketch needs
  edge-llm mqtt-user add --staff edge-llm  one for a node on another machine, or a person
  edge-llm mqtt-user list
  edge-llm mqtt-user remove esp1
"""


def add(commands: Any) -> None:
    """Add the command."""
    mqtt_user = commands.add_parser(
        "mqtt-user",
        help="accounts at mosquitto: devices, nodes, people",
        description="Accounts at the mosquitto of this machine. mosquitto is told of a change.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = mqtt_user.add_subparsers(title="actions", required=True, metavar="ACTION")
    make = _action(actions, "add", _add, "make an account, and show its password once")
    make.add_argument("name", metavar="NAME", help="the first level of the device's topics")
    make.add_argument("--replace", action="store_true", help="give it a new password if it exists")
    make.add_argument("--prefix", default="llm", help="of the topics (mqtt.prefix; llm)")
    _action(actions, "list", _list, "show the names")
    remove = _action(actions, "remove", _remove, "take an account away")
    remove.add_argument("name", metavar="NAME")
    setup = _action(
        actions, "setup", _set_up, "make a listener for devices, with TLS", has_accounts=False
    )
    setup.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="name or address that devices connect to; may be repeated (this machine's names)",
    )
    setup.add_argument("--websockets", action="store_true", help="one for web pages, too")


def _action(
    actions: Any,
    name: str,
    command: Callable[[argparse.Namespace], int],
    help_text: str,
    *,
    has_accounts: bool = True,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=help_text)
    parser.add_argument(
        "--directory", type=Path, default=DIRECTORY, metavar="DIR", help="mosquitto's (%(default)s)"
    )
    if has_accounts:
        parser.add_argument(
            "--staff", action="store_true", help="of nodes elsewhere and of people, not of devices"
        )
        parser.add_argument(
            "--file", type=Path, help="another password file (DIR/edge-llm.devices, or .staff)"
        )
        parser.add_argument(
            "--pid-file", type=Path, default=PID_FILE, help="of the broker (%(default)s)"
        )
    parser.set_defaults(command=command)
    return parser


def _password_file(args: argparse.Namespace) -> PasswordFile:
    file = args.directory / ("edge-llm.staff" if args.staff else "edge-llm.devices")
    return PasswordFile(args.file or file)


def _add(args: argparse.Namespace) -> int:
    accounts = _password_file(args)
    acl_file = args.directory / "edge-llm.acl"
    users = read_users(acl_file)
    if not args.staff and args.name in (STAFF if users is None else users):
        raise ConfigurationError(
            f"{args.name} has rights of its own in {acl_file}, which no device should have: take "
            "another name, or --staff"
        )
    mine = [
        listener
        for listener in find_listeners(args.directory)
        if listener.password_file and listener.password_file.resolve() == accounts.file.resolve()
    ]
    password = make_password()
    accounts.add(args.name, password, replace=args.replace)
    told = reload_mosquitto(args.pid_file)
    print(f"{args.name} has an account in {accounts.file}. Its password is shown this once.\n")
    _show_connection(args.name, password, mine)
    if args.staff:
        _show_staff(args.name, acl_file, users or frozenset())
    else:
        _show_topics(args.name, args.prefix)
    _show_authority(args.directory, mine)
    print(file=sys.stderr)
    _say(mine, told=told)
    return 0


def _show(name: str, value: str) -> None:
    print(f"  {name:<10}{value}")


def _show_connection(name: str, password: str, mine: list[Listener]) -> None:
    certificates = [listener.certificate for listener in mine if listener.certificate]
    hosts = host_names(certificates[0]) if certificates else []
    _show("host", (hosts or default_hosts())[0])
    for listener in mine:
        tls = "TLS" if listener.certificate else "without TLS: whoever is on the network reads it"
        _show("port", f"{listener.port}, {'websockets, ' if listener.is_websockets else ''}{tls}")
    _show("user", name)
    _show("password", password)


def _show_topics(name: str, prefix: str) -> None:
    for what, topic in (("ask", "request"), ("answer", "response"), ("cancel", "cancel")):
        _show(what, f"{prefix}/{topic}/{name}, {prefix}/{topic}/{name}/...")
    _show("errors", f"{prefix}/response/{name}/error, {prefix}/response/{name}/.../error")
    _show("forget", f"{prefix}/session/{name}/reset")
    _show("nodes", f"{prefix}/node/+/status, activity, info, health")


def _show_staff(name: str, acl_file: Path, users: frozenset[str]) -> None:
    if name in users:
        _show("rights", f"what {acl_file} has below 'user {name}'")
        return
    _show("rights", f"those of a device, as {acl_file} has no lines for it. To see and ask all:")
    _show("", f"printf '\\nuser {name}\\ntopic readwrite llm/#\\n' >>{acl_file}")
    _show("", "systemctl reload mosquitto")


def _show_authority(directory: Path, mine: list[Listener]) -> None:
    if not any(listener.certificate for listener in mine):
        return
    ca_file = directory / "certs" / "edge-llm-ca.pem"
    number = fingerprint(ca_file)
    if number is None:
        _show("CA", "the certificate of who signed the broker's")
        return
    _show("CA", f"{ca_file}, SHA-256 {number}")
    print(f"\n{ca_file.read_text().strip()}")


def _say(mine: list[Listener], *, told: bool) -> None:
    """Say what is left to do until the account works."""
    if not mine:
        word = (
            "no listener of mosquitto takes accounts from this file yet: edge-llm mqtt-user setup"
        )
    elif not any(map(_listens, mine)):
        word = f"nobody listens on port {mine[0].port} yet: systemctl restart mosquitto"
    else:
        word = TOLD if told else NOT_TOLD
    print(word, file=sys.stderr)


def _listens(listener: Listener) -> bool:
    try:
        socket.create_connection((listener.address or "127.0.0.1", listener.port), 1.0).close()
    except OSError:
        return False
    return True


def _list(args: argparse.Namespace) -> int:
    for name in _password_file(args).names():
        print(name)
    return 0


def _remove(args: argparse.Namespace) -> int:
    accounts = _password_file(args)
    accounts.remove(args.name)
    print(f"{args.name} has no account in {accounts.file} any more.")
    print(TOLD if reload_mosquitto(args.pid_file) else NOT_TOLD, file=sys.stderr)
    return 0


def _set_up(args: argparse.Namespace) -> int:
    directory = args.directory.absolute()
    for step in set_up(directory, args.host, websockets=args.websockets):
        print(f"{step.file}: {step.what}")
    certs = directory / "certs"
    print(f"\nDevices connect to {' or '.join(host_names(certs / 'edge-llm.pem'))}.")
    print(f"Who knows {certs / 'edge-llm-ca.pem'} knows the broker.")
    print(f"Take {certs / 'edge-llm-ca.key'} to a safe place: it can make any certificate.")
    for listener in find_listeners(directory):
        if not listener.file.name.startswith("edge-llm"):
            print(
                f"{listener.file} has a listener, too, on port {listener.port}: see that it lets "
                "in nobody without an account, and is no port of ours",
                file=sys.stderr,
            )
    restart = "systemctl restart mosquitto"
    print(f"Now type: {restart}" + ("" if os.geteuid() == 0 else " (as root)"))
    return 0
