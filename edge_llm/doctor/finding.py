"""What the doctor found: one line, with its cure."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Status", "fail", "ok", "skip", "warn"]

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Nothing in it is secret: it is made to be shown to strangers.

    Attributes:
        check: what was looked at, as ``card.link``; the first word is its heading. Names stay.
        status: ``warn`` works, but worse than it could; ``fail`` does not work; ``skip`` does not
            apply, or could not be looked at.
        found: in a few words.
        cure: what to do, a command to type first where there is one; none if nothing.
    """

    check: str
    status: Status
    found: str
    cure: str | None = None

    @property
    def group(self) -> str:
        """The heading that it stands under."""
        return self.check.partition(".")[0]

    @property
    def subject(self) -> str:
        """What it is about, below its heading."""
        return self.check.partition(".")[2]


def ok(check: str, found: str, cure: str | None = None) -> Finding:
    """Say that something is as it should be; the cure is a hint, here."""
    return _make(check, "ok", found, cure)


def warn(check: str, found: str, cure: str) -> Finding:
    """Say that something could be better."""
    return _make(check, "warn", found, cure)


def fail(check: str, found: str, cure: str) -> Finding:
    """Say that something does not work."""
    return _make(check, "fail", found, cure)


def skip(check: str, found: str, cure: str | None = None) -> Finding:
    """Say why something was not looked at; the cure is how it could be."""
    return _make(check, "skip", found, cure)


def _make(check: str, status: Status, found: str, cure: str | None) -> Finding:
    """Keep out what a terminal would take for a command: brokers and kernels say what they like."""
    return Finding(check, status, _line(found), cure and _line(cure))


def _line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
