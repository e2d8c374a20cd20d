"""``edge-llm doctor``: the whole installation, examined."""

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

from edge_llm.cli.common import add_config
from edge_llm.log import set_up_log
from edge_llm.settings import LogSettings

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    doctor = commands.add_parser(
        "doctor",
        help="say what is wrong with an installation, and what to do about it",
        description="Examine Python, the settings, the broker, the card, the model, the machine, "
        "its disks, ports and services, and say what to do about each thing that is wrong. Made "
        "to be pasted into a forum: no secrets are shown. Run it with sudo to examine what the "
        "service sees. The exit code is 1 if something fails.",
    )
    add_config(doctor)
    doctor.add_argument("--model", type=Path, metavar="NAME|DIR", help="also look into this model")
    doctor.add_argument(
        "--load",
        action="store_true",
        help="load all of it, and find out how the card can be driven; stop the service before",
    )
    doctor.add_argument(
        "--json", action="store_true", help='print a list of {"check", "status", "found", "cure"}'
    )
    doctor.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    doctor.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    # What goes wrong is said by the findings, not by the log.
    set_up_log(LogSettings(level="error"))
    return asyncio.run(_examine(args))


async def _examine(args: argparse.Namespace) -> int:
    from rich.console import Console

    from edge_llm.doctor import Machine, Report, diagnose, open_case, summary, to_json

    began = time.monotonic()
    machine = Machine(args.root)
    case = await open_case(args.config, machine, model=args.model, load=args.load)
    report = None if args.json else Report(Console(highlight=False))
    findings = []
    async for finding in diagnose(case):
        findings.append(finding)
        if report:
            report.add(finding)
    if report:
        report.flush()
        print(f"\n{summary(findings, time.monotonic() - began)}")
    else:
        print(to_json(findings))
    return 1 if any(finding.status == "fail" for finding in findings) else 0
