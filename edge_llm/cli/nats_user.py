"""``edge-llm nats-user``: accounts of devices, nodes and people at the servers of a fleet."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_llm.fleet.accounts import RIGHTS, AccountsFile, device_rights
from edge_llm.mosquitto import make_password

__all__ = ["add"]

FILE = Path("/etc/nats/edge-llm-users.conf")

TOLD = (
    "The servers don't know it yet: copy the file to each of a cluster, and there type "
    "systemctl reload nats-server"
)

EPILOG = """\
  edge-llm nats-user add esp1            an account for a device; shows what its sketch needs
  edge-llm nats-user add --node edge-llm one for all nodes, or one for each
  edge-llm nats-user add --admin admin   one for people
  edge-llm nats-user list
  edge-llm nats-user remove esp1
"""


def add(commands: Any) -> None:
    """Add the command."""
    nats_user = commands.add_parser(
        "nats-user",
        help="accounts at the servers of a fleet: devices, nodes, people",
        description="Accounts at nats-server, in a file of its configuration (nats/).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = nats_user.add_subparsers(title="actions", required=True, metavar="ACTION")
    make = _action(actions, "add", _add, "make an account, and show its password once")
    make.add_argument("name", metavar="NAME", help="the first level of the device's topics")
    make.add_argument("--replace", action="store_true", help="give it a new password if it exists")
    make.add_argument("--prefix", default="llm", help="of the topics (mqtt.prefix; llm)")
    kinds = make.add_mutually_exclusive_group()
    for kind in RIGHTS:
        kinds.add_argument(
            f"--{kind}",
            dest="kind",
            action="store_const",
            const=kind,
            help=f"with the rights {RIGHTS[kind]} of edge-llm-rights.conf, not those of a device",
        )
    _action(actions, "list", _list, "show the names")
    remove = _action(actions, "remove", _remove, "take an account away")
    remove.add_argument("name", metavar="NAME")


def _action(
    actions: Any, name: str, command: Callable[[argparse.Namespace], int], help_text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=help_text)
    parser.add_argument(
        "--file", type=Path, default=FILE, help="of the accounts (default: %(default)s)"
    )
    parser.set_defaults(command=command)
    return parser


def _add(args: argparse.Namespace) -> int:
    password = make_password()
    if args.kind:
        rights = f"permissions: ${RIGHTS[args.kind]}"
    else:
        rights = device_rights(args.name, args.prefix)
    AccountsFile(args.file).add(args.name, password, rights, replace=args.replace)
    print(f"{args.name} has an account in {args.file}. Its password is shown this once.\n")
    _show("user", args.name)
    _show("password", password)
    if args.kind:
        _show("rights", f"{RIGHTS[args.kind]} in {args.file.with_name('edge-llm-rights.conf')}")
    else:
        for what, topic in (("ask", "request"), ("answer", "response"), ("cancel", "cancel")):
            _show(what, f"{args.prefix}/{topic}/{args.name}, {args.prefix}/{topic}/{args.name}/...")
        _show("forget", f"{args.prefix}/session/{args.name}/reset")
        _show("nodes", f"{args.prefix}/node/+/status, activity, info, health")
        _show("client id", f"{args.name}: who has another's ends its connection")
    print(f"\n{TOLD}")
    return 0


def _show(name: str, value: str) -> None:
    print(f"  {name:<10}{value}")


def _list(args: argparse.Namespace) -> int:
    for name in AccountsFile(args.file).names():
        print(name)
    return 0


def _remove(args: argparse.Namespace) -> int:
    AccountsFile(args.file).remove(args.name)
    print(f"{args.name} has no account in {args.file} any more.\n\n{TOLD}")
    return 0
