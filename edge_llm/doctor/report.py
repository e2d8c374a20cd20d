"""What was found, for people: lines under headings, to be pasted into a forum; and as JSON."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from edge_llm.doctor.finding import Finding

__all__ = ["Report", "summary", "to_json"]

HEADINGS = {
    "python": "Python",
    "settings": "Settings",
    "broker": "Broker",
    "fleet": "Fleet",
    "card": "Card",
    "model": "Model",
    "machine": "Machine",
    "disk": "Disk",
    "ports": "Ports",
    "services": "Services",
}
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}
INDENT = 22
MIN_COLUMNS = 40


class Report:
    """Prints findings as they come, a group at a time; in colour on a terminal only."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._group: list[Finding] = []

    def add(self, finding: Finding) -> None:
        """Take a finding; its group is printed when the next one begins."""
        if self._group and self._group[0].group != finding.group:
            self.flush()
        self._group.append(finding)

    def flush(self) -> None:
        """Print the group in hand."""
        if not self._group:
            return
        self._print(Text(HEADINGS.get(self._group[0].group, self._group[0].group), style="bold"))
        for finding in _merged(self._group):
            self._line(finding)
        self._group = []

    def _line(self, finding: Finding) -> None:
        status = finding.status.upper() if finding.status == "fail" else finding.status
        style = STYLES[finding.status]
        subject = f"{finding.subject:<{INDENT - 8}}"
        first, *rest = self._wrapped(finding.found, INDENT)
        self._print(Text.assemble(f"  {'':0}", (f"{status:<5} ", style), subject, first))
        for line in rest:
            self._print(Text(" " * INDENT + line))
        if finding.cure:
            first, *rest = self._wrapped(finding.cure, INDENT + 3)
            self._print(Text(f"{' ' * INDENT}-> {first}"))
            for line in rest:
                self._print(Text(" " * (INDENT + 3) + line))

    def _wrapped(self, text: str, indent: int) -> Sequence[str]:
        """Fit a text to a terminal; what goes to a file keeps its lines, which can be searched."""
        if not self._console.is_terminal:
            return [text]
        columns = max(self._console.width - indent, MIN_COLUMNS)
        lines = textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False)
        return lines or [""]

    def _print(self, text: Text) -> None:
        text.rstrip()
        self._console.print(text, soft_wrap=True)


def _merged(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Put those together that were skipped for one reason: they are of no interest each."""

    def key(finding: Finding) -> tuple[str, str, str | None] | Finding:
        if finding.status == "skip":
            return (finding.status, finding.found, finding.cure)
        return finding

    for _, same in groupby(findings, key):
        first, *others = same
        if others and first.status == "skip":
            subjects = ", ".join(finding.subject for finding in others)
            found = f"{first.found} (so for {subjects})"
            yield Finding(first.check, first.status, found, first.cure)
        else:
            yield first
            yield from others


def summary(findings: Sequence[Finding], duration_s: float) -> str:
    """Return the last line: how many of each."""
    counts = Counter(finding.status for finding in findings)
    words = (f"{counts['ok']} ok", f"{counts['warn']} warn", f"{counts['fail']} fail")
    skipped = f", {counts['skip']} skipped" if counts["skip"] else ""
    return f"{', '.join(words)}{skipped}, in {duration_s:.1f} s"


def to_json(findings: Iterable[Finding]) -> str:
    """Return findings as a list of ``{"check", "status", "found", "cure"}``."""
    listed = [
        {"check": f.check, "status": f.status, "found": f.found, "cure": f.cure} for f in findings
    ]
    return json.dumps(listed, indent=1, ensure_ascii=False)
