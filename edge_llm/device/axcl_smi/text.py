"""Lines, numbers and errors in what the tool prints.

Its exit code is 0 whatever happens, so only the text tells: it complains in coloured lines of its
own, in lines of the driver's library, and in plain sentences. All of that is on standard output but
for an unknown command. (Seen with the tool of V3.10.2.)
"""

import re

from edge_llm.device.reading import is_plausible

__all__ = [
    "celsius",
    "errors_in",
    "first_line",
    "lines_of",
    "parse_reboot",
    "parse_version",
    "percent",
    "used_of",
]

LONGEST_LINE = 1000
"""In characters; the tool's are of 98 or so. Longer ones are none of its."""
LONGEST_ERROR = 300
LONGEST_SHOWN = 100

COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
LOGGED = re.compile(r"((?:\[[^\[\]]*\])+): *(.+)")
"""``[11-23 08:44:15:330][E][smi][set_devices][0041]: ...``"""
PLAIN = re.compile(r".*is already running, please try later\.?|Unknown command: .*")
VERSION = re.compile(r"^AXCL-SMI +(V[\w.-]{1,60}) BUILD: ", re.ASCII | re.MULTILINE)
REBOOTED = re.compile(r"reboot device \d+ success\b")


def lines_of(text: str) -> list[str]:
    """Return its lines without colours and trailing space; those that are too long left out."""
    lines = (COLOURS.sub("", line).rstrip() for line in text.split("\n"))
    return [line for line in lines if len(line) <= LONGEST_LINE]


def errors_in(text: str) -> str | None:
    """Return what it complains of, in its words; None if it doesn't."""
    found: dict[str, None] = {}  # each once, in their order
    for line in lines_of(text):
        logged = LOGGED.fullmatch(line)
        if logged and "[E]" in logged[1]:
            found[_printable(logged[2])] = None
        elif PLAIN.fullmatch(line):
            found[_printable(line)] = None
    return "; ".join(found)[:LONGEST_ERROR] or None


def first_line(text: str) -> str | None:
    """Return the first line that says anything, to show it to a person."""
    lines = (_printable(line).strip() for line in lines_of(text))
    return next((line[:LONGEST_SHOWN] for line in lines if line), None)


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else " " for char in line)


def parse_version(text: str) -> str | None:
    """Read what it prints for ``-v``: its own version."""
    found = VERSION.search(text)
    return found[1] if found else None


def parse_reboot(text: str) -> bool:
    """Read what it prints for ``reboot``: whether that was done.

    The number in it is the runtime's device id, not the index that was asked for. It prints nothing
    when it was not answered, when the reboot failed, and when the card did not come back.
    """
    return any(REBOOTED.search(line) for line in lines_of(text))


def celsius(value: float) -> float | None:
    """Return a temperature if it can be one.

    The tool makes 0 of a sensor whose text is no number (``atoi``); -1 thousandth was printed, too.
    """
    return value if is_plausible(value) and abs(value) >= 0.5 else None


def percent(text: str) -> float | None:
    """Return a load; ``--`` is unknown."""
    text = text.rstrip("%")
    if not re.fullmatch(r"[0-9]{1,3}(?:\.[0-9]{1,4})?", text):
        return None
    return value if (value := float(text)) <= 100 else None


def used_of(used: int, total: int) -> tuple[int | None, int | None]:
    """Return what is used of how much; a total of 0 is a card that did not answer."""
    return (used, total) if 0 <= used <= total and total > 0 else (None, None)
