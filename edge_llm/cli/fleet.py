"""``edge-llm fleet``: the nodes of a fleet, seen and commanded."""

import argparse
import asyncio
import dataclasses
import json
import shlex
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from edge_llm.cli.common import add_broker, add_config, given, run_until_signalled
from edge_llm.client import RemoteNode, Roster
from edge_llm.client.orders import Upgrade, drain, resume
from edge_llm.errors import NodeOfflineError
from edge_llm.log import set_up_log
from edge_llm.settings import load_settings

__all__ = ["add"]

CONNECT_TIMEOUT_S = 10.0
RESUME_TIMEOUT_S = 10.0
TITLES = ("NODE", "STATUS", "ACTIVITY", "IN HAND", "CARD", "VERSION", "MODELS")


def add(commands: Any) -> None:
    """Add the command."""
    raw = argparse.RawDescriptionHelpFormatter
    fleet = commands.add_parser(
        "fleet",
        help="see the nodes of a fleet, and upgrade them one by one",
        description="See and command the nodes behind one address. It speaks MQTT to the fleet's\n"
        "servers, with the settings of [mqtt]; see docs/fleet.md.",
        formatter_class=raw,
    )
    parts = fleet.add_subparsers(title="commands", required=True, metavar="COMMAND")
    status = _add(parts, "status", "show the nodes, what each does, and what waits", _status)
    status.add_argument("--json", action="store_true", help="print it as JSON")
    wait = _add(parts, "drain", "have a node take nothing new, and wait until it is free", _drain)
    wait.add_argument("node", metavar="NODE")
    _add_timeout(wait, "--timeout", 300.0, "seconds that what it has in hand may take")
    again = _add(parts, "resume", "have a node take requests again", _resume)
    again.add_argument("node", metavar="NODE")
    upgrade = _add(
        parts,
        "upgrade",
        "upgrade one node after the other",
        _upgrade,
        "Drain a node, run a command that upgrades it and starts it again, wait until it is\n"
        "ready, and go on with the next; the others answer meanwhile. It stops at the first node\n"
        "that does not come back; one that the command did not start again is resumed.\n\n"
        "  edge-llm fleet upgrade --run 'ssh {node} sudo systemd/install.sh'",
    )
    upgrade.add_argument("nodes", metavar="NODE", nargs="*", help="which; all if not given")
    upgrade.add_argument(
        "--run", required=True, metavar="COMMAND", help="for a shell; {node} is the node's name"
    )
    upgrade.add_argument(
        "--alone", action="store_true", help="also where no other node could answer meanwhile"
    )
    _add_timeout(upgrade, "--drain-timeout", 300.0, "seconds for what a node has in hand")
    _add_timeout(upgrade, "--timeout", 600.0, "seconds until a node is ready again")


def _add(
    parts: Any,
    name: str,
    what: str,
    main: Callable[[Roster, argparse.Namespace], Awaitable[None]],
    description: str | None = None,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = parts.add_parser(
        name,
        help=what,
        description=description or f"{what[0].upper()}{what[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(parser)
    add_broker(parser)
    parser.set_defaults(command=_run, main=main)
    return parser


def _add_timeout(parser: argparse.ArgumentParser, name: str, default: float, what: str) -> None:
    parser.add_argument(
        name, type=float, default=default, metavar="S", help=f"{what} (default: {default:g})"
    )


def _run(args: argparse.Namespace) -> int:
    settings = load_settings(args.config, mqtt=given(host=args.host, port=args.port))
    set_up_log(settings.log.model_copy(update={"level": "error"}))

    async def main() -> None:
        async with Roster(settings.mqtt) as roster:
            await roster.settle(CONNECT_TIMEOUT_S)
            await args.main(roster, args)

    return run_until_signalled(main(), interrupted=130)


async def _status(roster: Roster, args: argparse.Namespace) -> None:
    if args.json:
        depth = roster.depth
        told = dataclasses.asdict(depth) if depth else {}
        print(json.dumps({**told, "nodes": [_facts(node) for node in roster.nodes]}, indent=2))
        return
    if not any(node.is_online for node in roster.nodes):
        raise NodeOfflineError("no node is online")
    for line in _table([TITLES, *(_cells(node) for node in roster.nodes)]):
        print(line)
    if depth := roster.depth:
        oldest = "" if depth.oldest_s is None else f", the oldest for {depth.oldest_s:.1f} s"
        print(f"\n{depth.waiting} waiting{oldest}; {depth.held} in hand")
    else:
        print("\nno node of these is in a fleet")


async def _drain(roster: Roster, args: argparse.Namespace) -> None:
    await drain(roster, args.node, timeout_s=args.timeout, tell=_say)
    _say(f"{args.node}: has nothing in hand")


async def _resume(roster: Roster, args: argparse.Namespace) -> None:
    await resume(roster, args.node, timeout_s=RESUME_TIMEOUT_S, tell=_say)
    _say(f"{args.node}: takes requests")


async def _upgrade(roster: Roster, args: argparse.Namespace) -> None:
    names = args.nodes or [node.name for node in roster.nodes if node.is_online]
    if not names:
        raise NodeOfflineError("no node is online")
    away = [node.name for node in roster.nodes if not node.is_online]
    if away and not args.nodes:
        _say(f"left out, as they are offline: {', '.join(away)}")

    async def run(name: str) -> int:
        command = args.run.replace("{node}", shlex.quote(name))
        _say(f"{name}: {command}")
        process = await asyncio.create_subprocess_shell(command)
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()

    upgrade = Upgrade(roster, run, args.drain_timeout, args.timeout, _say)
    await upgrade(names, alone=args.alone)


def _say(words: str) -> None:
    from edge_llm.watch.text import one_line

    print(f"{time.strftime('%H:%M:%S')} {one_line(words)}", flush=True)


def _facts(node: RemoteNode) -> dict[str, Any]:
    health = node.health if node.is_online else None  # of a node that is gone it is an old one
    fleet = health.fleet if health else None
    return {
        "node": node.name,
        "status": node.status,
        "activity": node.activity,
        "state": health and health.state,
        "joined": fleet and fleet.joined,
        "held": fleet and fleet.held,
        "temperature_celsius": health.card.temperature_celsius if health and health.card else None,
        "heat": health and health.heat,
        "attention": health and health.attention,
        "version": node.info and node.info.version,
        "boot_id": node.info and node.info.boot_id,
        "models": [model.id for model in node.models],
    }


def _cells(node: RemoteNode) -> Sequence[str]:
    facts = _facts(node)
    celsius, heat = facts["temperature_celsius"], facts["heat"]
    warm = "" if heat in (None, "normal") else f" {heat}"
    held = "" if facts["held"] is None else str(facts["held"])
    return (
        node.name,
        facts["status"],
        "not joined" if facts["joined"] is False else facts["activity"],
        held,
        "" if celsius is None else f"{celsius:.0f} C{warm}",
        facts["version"] or "",
        facts["attention"] or ", ".join(facts["models"]),
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    from edge_llm.watch.text import fit, one_line

    clean = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in clean) for column in range(len(clean[0]))]
    return [
        "  ".join(fit(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in clean
    ]
